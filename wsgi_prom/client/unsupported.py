"""
Warns once of metrics that a page of several processes cannot show: Enum.

They live in one process; the library's own multiprocess mode leaves them out too, without a warning. Nothing here raises
into the application, or changes what the library does for it.
"""

from __future__ import annotations

import logging
from contextlib import suppress
from functools import wraps
from typing import TYPE_CHECKING, Any, Final

from prometheus_client import metrics, multiprocess

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

log = logging.getLogger("wsgi_prom")

_MESSAGES: Final = {
    "stateset": (
        "Enum %s is on no page: it lives in one process. Use a Gauge with a label for the state, set to 1 or 0, and "
        'multiprocess_mode="livemax".'
    ),
    "merge": (
        "MultiProcessCollector.merge(%s) knows the files of processes without wsgi_prom alone; those of this server are not in its "
        "result. Use MultiProcessCollector(registry), which has them."
    ),
}
_warned: Final[set[str]] = set()


def install(existing: Iterable[Any]) -> None:
    """Watch what is made from now on, and look at the metrics that *existing* are. Call it once."""
    _watch(metrics.Enum, "_metric_init", lambda metric, *_: _warn_once(metric._type, metric._name))
    multiprocess.MultiProcessCollector.merge = staticmethod(_merge(multiprocess.MultiProcessCollector.merge))  # type: ignore[method-assign]
    for item in existing:
        with suppress(Exception):
            if item._type == "stateset":
                _warn_once(item._type, item._name)


def _watch(kind: type, name: str, look: Callable[..., None]) -> None:
    method = getattr(kind, name)

    @wraps(method)
    def watched(*arguments: Any, **keywords: Any) -> Any:
        result = method(*arguments, **keywords)
        with suppress(Exception):
            look(*arguments, *keywords.values())
        return result

    setattr(kind, name, watched)


def _merge(method: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(method)
    def merge(*arguments: Any, **keywords: Any) -> Any:
        # Not answered with all there is: applications merge the files of one dead worker, and write the result back.
        with suppress(Exception):
            _warn_once("merge", "files")
        return method(*arguments, **keywords)

    return merge


def _warn_once(kind: str, name: str) -> None:
    if kind not in _warned:
        _warned.add(kind)
        log.warning(_MESSAGES[kind], name)
