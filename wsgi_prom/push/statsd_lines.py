"""
Lines of the statsd protocol, with labels as tags of DogStatsD, as those of InfluxDB's statsd, or within the name.

1. Nothing within a line ends it or one of its parts: such characters of names and values are underscores.
2. Numbers are decimal, without an exponent: etsy's statsd takes no sample rate with one.
"""

from __future__ import annotations

import re
from decimal import Decimal
from functools import lru_cache
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from wsgi_prom.push.reading import Labels

TAGS: Final = ("dogstatsd", "influxdb", "none")

# Of DogStatsD what DataDog's own client replaces: its agent would do so too (datadog.util.format.normalize_tags). Of the other
# what stands between tags, within a tag, and between the parts of a line.
_UNFIT: Final = {"dogstatsd": re.compile(r"[^\w\-:/.]"), "influxdb": re.compile(r"[,|#\s:=@]")}
# A dot begins another part of the name, and statsd replaces or removes other characters.
_NAME_PART: Final = re.compile(r"[^A-Za-z0-9_-]")
_NAME: Final = re.compile(r"[^A-Za-z0-9_]")


class Lines:
    """Makes lines with labels as *tags* says, one of TAGS."""

    def __init__(self, tags: str) -> None:
        self._tags = tags
        self._parts = lru_cache(maxsize=65536)(self._named)

    def counter(self, name: str, labels: Labels, amount: float) -> str:
        return self._line(name, labels, number(amount), "c")

    def gauge(self, name: str, labels: Labels, value: float) -> str:
        """Return the line; two for a negative value where a sign means a change."""
        line = self._line(name, labels, number(value), "g")
        if value < 0 and self._tags != "dogstatsd":
            return f"{self._line(name, labels, '0', 'g')}\n{line}"
        return line

    def timer(self, name: str, labels: Labels, value: float, times: float) -> str:
        """Return the line of *times* observations of *value*."""
        return self._line(name, labels, number(value), "ms", number(1 / times) if times != 1 else "")

    def _line(self, name: str, labels: Labels, value: str, kind: str, rate: str = "") -> str:
        before, after = self._parts(name, labels)
        return f"{before}:{value}|{kind}{f'|@{rate}' if rate else ''}{after}"

    def _named(self, name: str, labels: Labels) -> tuple[str, str]:
        """Return what stands before the value and at the end of the line."""
        name = _NAME.sub("_", name)
        if self._tags == "none":
            return ".".join([name, *(_NAME_PART.sub("_", value) or "_" for _, value in labels)]), ""
        unfit = _UNFIT[self._tags]
        shown = [(key, unfit.sub("_", value)) for key, value in labels if value]
        if self._tags == "influxdb":
            return ",".join([name, *(f"{key}={value}" for key, value in shown)]), ""
        return name, f"|#{','.join([f'{key}:{value}' for key, value in shown])}" if shown else ""


def number(value: float) -> str:
    """Return *value* as decimal digits: the fewest that mean this number."""
    text = repr(value)
    if "e" in text:
        text = format(Decimal(text), "f")
    return text.removesuffix(".0")
