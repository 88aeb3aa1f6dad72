"""Check whether the gunicorn.conf.py of the working directory loads the hook. It is read, and not executed."""

from __future__ import annotations

import ast
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from wsgi_prom.cli.finding import Finding

if TYPE_CHECKING:
    from collections.abc import Iterator


def findings() -> Iterator[Finding]:
    """Call it after the application's import. An application that wraps itself needs no hook: no finding."""
    if "wsgi_prom.middleware" in sys.modules:
        return
    path = Path("gunicorn.conf.py")
    try:
        # Without its comments.
        code = ast.unparse(ast.parse(path.read_bytes()))
    except FileNotFoundError:
        yield Finding(
            "hook",
            None,
            "no gunicorn.conf.py here loads it: no request is counted, unless the server's command loads it",
            "for metrics, start gunicorn with -c python:wsgi_prom.hooks.gunicorn; uWSGI needs shared-import = "
            "wsgi_prom.hooks.uwsgi and module = wsgi_prom.wsgi:application",
        )
    except (OSError, SyntaxError, ValueError):  # gunicorn says so itself
        return
    else:
        if "wsgi_prom.hooks" not in code:
            yield Finding(
                "hook",
                None,
                "gunicorn.conf.py does not load it: no request is counted, unless the application is wrapped by hand",
                "for metrics, add to gunicorn.conf.py: from wsgi_prom.hooks.gunicorn import *",
            )
