"""Expressions that are written with the names of `metrics.py`, in the names that a server's settings give: prefix and names."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, NamedTuple

from wsgi_prom.metrics import NAMES, OF_REQUESTS, Names

if TYPE_CHECKING:
    from wsgi_prom.settings import Settings

_USUAL: Final = NAMES["prometheus"]
_METRIC: Final = re.compile(rf"\b{OF_REQUESTS}\w*")
# Of matchers, of by (...) and the like, and of legends; not the variables of a dashboard.
_LABEL: Final = re.compile(rf"(?<![$\w])(?:{_USUAL.method}|{_USUAL.route}|{_USUAL.status})(?=\s*[,)}}=!])")


class Naming(NamedTuple):
    """What the request metrics are called: *prefix* goes before each, *names* are theirs and their labels'."""

    prefix: str = ""
    names: Names = _USUAL

    @classmethod
    def of(cls, settings: Settings) -> Naming:
        return cls(settings.prefix, NAMES[settings.names])

    def applied(self, text: str) -> str:
        """Return *text*, one or more expressions, in these names. Names of recorded series change as the metrics in them do."""
        labels = {getattr(_USUAL, kind): getattr(self.names, kind) for kind in ("method", "route", "status")}
        return _LABEL.sub(lambda found: labels[found[0]], _METRIC.sub(self._metric, text))

    def _metric(self, found: re.Match[str]) -> str:
        name = found[0]
        for usual, called in self.names.metrics.items():
            if re.match(rf"{usual}(?:_|$)", name):
                return f"{self.prefix}{called}{name.removeprefix(usual)}"
        return self.prefix + name
