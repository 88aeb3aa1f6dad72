"""What `wsgi-prom check` finds about the server's hook: whether a gunicorn.conf.py here loads it."""

from __future__ import annotations

import ast
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from wsgi_prom.cli.finding import Finding

if TYPE_CHECKING:
    from collections.abc import Iterator


def findings() -> Iterator[Finding]:
    """Call it after the application's import. Nothing is found where that wrapped it: the hook is then a choice."""
    if "wsgi_prom.middleware" in sys.modules:
        return
    path = Path("gunicorn.conf.py")
    try:
        # Without its comments, and not executed.
        code = ast.unparse(ast.parse(path.read_bytes()))
    except FileNotFoundError:
        yield Finding(
            "hook",
            None,
            "no gunicorn.conf.py here loads it: no request is counted, unless the server's command loads it",
            "for metrics, start gunicorn with -c python:wsgi_prom.hooks.gunicorn; uWSGI needs shared-import = "
            "wsgi_prom.hooks.uwsgi and module = wsgi_prom.wsgi:application",
        )
    except (OSError, SyntaxError, ValueError):  # which gunicorn says itself
        return
    else:
        if "wsgi_prom.hooks" not in code:
            yield Finding(
                "hook",
                None,
                "gunicorn.conf.py does not load it: no request is counted, unless the application is wrapped by hand",
                "for metrics, add to gunicorn.conf.py: from wsgi_prom.hooks.gunicorn import *",
            )
