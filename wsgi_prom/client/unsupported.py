"""
Warns once of what the library's multiprocess mode has and slots have not: merging some of its files.

Nothing here raises into the application, or changes what the library does for it.
"""

from __future__ import annotations

import logging
from functools import wraps
from typing import TYPE_CHECKING, Any

from prometheus_client import multiprocess

if TYPE_CHECKING:
    from collections.abc import Callable

log = logging.getLogger("wsgi_prom")


def install() -> None:
    """Watch calls of `MultiProcessCollector.merge` from now on. Call it once."""
    kind: Any = multiprocess.MultiProcessCollector
    kind.merge = staticmethod(_merge(kind.merge))


def _merge(method: Callable[..., Any]) -> Callable[..., Any]:
    warned = False

    @wraps(method)
    def merge(*arguments: Any, **keywords: Any) -> Any:
        nonlocal warned
        # Not answered with all there is: applications merge the files of one dead worker, and write the result back.
        if not warned:
            warned = True
            log.warning(
                "MultiProcessCollector.merge(files) knows the files of processes without wsgi_prom alone; those of this "
                "server are not in its result. Use MultiProcessCollector(registry), which has them."
            )
        return method(*arguments, **keywords)

    return merge
