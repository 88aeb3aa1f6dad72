"""
The text of a page: families as lines of the Prometheus text format 0.0.4 or of OpenMetrics 1.0.

The lines of a child are the same in both; they are kept with the child until its values change.
"""

from __future__ import annotations

import re
from copy import copy
from typing import TYPE_CHECKING, Final

from prometheus_client.exposition import generate_latest
from prometheus_client.openmetrics import exposition as openmetrics_exposition
from prometheus_client.utils import floatToGoString

from wsgi_prom.merge.families import label_name, metric_name

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from prometheus_client.metrics_core import Metric
    from prometheus_client.registry import Collector

    from wsgi_prom.merge.children import Child, Form, Labels
    from wsgi_prom.merge.families import Families, Family

TEXT: Final = "text/plain; version=0.0.4; charset=utf-8"
OPENMETRICS: Final = "application/openmetrics-text; version=1.0.0; charset=utf-8"

# Not str.splitlines: a carriage return or U+2028 in a label does not end a line of either format.
_LINE: Final = re.compile(r"[^\n]*\n")


class Names:
    """The `name[]` filter: samples of these names, or all samples of a family so named. Empty lets all through."""

    def __init__(self, names: Iterable[str]) -> None:
        self._names = frozenset(names)

    def __bool__(self) -> bool:
        return bool(self._names)

    def family(self, family: str) -> bool:
        return family in self._names

    def sample(self, sample: str) -> bool:
        return sample in self._names


ALL: Final = Names(())


def render(
    families: Families, own: Iterable[Metric] = (), *, openmetrics: bool = False, names: Names = ALL
) -> str:
    """
    Render a page: *families* and then *own*, metrics of this process, less those whose name the families have.

    Every label value and help text is escaped; nothing in it can end its line.
    """
    parts = []
    taken = set()
    for family in families:
        taken.add(family.name)
        lines = _lines(family, names)
        if lines:
            parts.append(_head(family.name, family.type, family.help, openmetrics=openmetrics))
            parts += lines
    chosen = [metric for metric in own if metric.name not in taken]
    parts.append(_render_own(chosen, openmetrics=openmetrics, names=names))
    if openmetrics:
        parts.append("# EOF\n")
    return "".join(parts)


def _lines(family: Family, names: Names) -> list[str]:
    texts = [child.text if child.text is not None else _text(child) for child in family.children()]
    if not names or names.family(family.name):
        return [text for text in texts if text]
    return [
        line
        for child, text in zip(family.children(), texts, strict=True)
        for (name, _), line in zip(child.shape, _LINE.findall(text), strict=True)
        if names.sample(name)
    ]


def _text(child: Child) -> str:
    if child.pairs is None:
        child.pairs = _pairs(child.labels)
    counts, others = child.figures()
    texts = [*map(_COUNTS.__getitem__, counts), *map(_number, others)]
    # Filling a list and joining it takes a third less time than a `%` template for each child, which looks for its places
    # in a kilobyte of text; and there is nothing to be kept or made for a child but its labels.
    pieces = child.form.pieces or _pieces(child.form)
    pieces[1::4] = [child.pairs] * len(texts)
    pieces[3::4] = texts
    child.text = text = "".join(pieces)
    return text


def _pieces(form: Form) -> list[str]:
    """Make the lines of all children of *form*, in pieces: four a line, of which the second are the labels, the last the value."""
    form.pieces = [""]
    for name, more in form.samples:
        braces, comma = form.labelled or more, form.labelled and more
        form.pieces[-1] += metric_name(name) + ("{" if braces else "")
        end = ("," if comma else "") + _pairs(more) + ("} " if braces else " ")
        form.pieces += ("", end, "", "\n")
    return form.pieces


def _pairs(labels: Labels) -> str:
    return ",".join([f'{label_name(label)}="{_escape(value)}"' for label, value in labels])


class _Counts(dict[float, str]):
    """
    The texts of counts, which are mostly small or those of the last scrape: 0.07 us to look one up, 0.35 to make it.

    Not for other figures, since -0.0 is no other key than 0.0.
    """

    def __missing__(self, value: float) -> str:
        if len(self) >= _MOST_COUNTS:
            self.clear()
        text = self[value] = _number(value)
        return text


_COUNTS: Final = _Counts()
_MOST_COUNTS: Final = 16384  # 3 MB


def _number(value: float) -> str:
    # repr is what floatToGoString ends up with for nearly all figures, in a tenth of the time.
    return repr(value) if -1e6 < value < 1e6 else str(floatToGoString(value))  # type: ignore[no-untyped-call]


def _escape(value: str) -> str:
    r"""
    Escape as both formats ask: `\\`, `\n`, `\"`.

    A lone surrogate, which a WSGI server may make of a byte of the request, has no UTF-8 form: it is shown as `?`.
    """
    text = value if value.isascii() else _encodable(value)
    return text.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")


def _encodable(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def _head(name: str, typ: str, help_text: str, *, openmetrics: bool) -> str:
    name = metric_name(name)
    help_text = _escape(help_text)
    if not openmetrics:
        help_text = help_text.replace(r"\"", '"')
        name += "_total" if typ == "counter" else ""
    return f"# HELP {name} {help_text}\n# TYPE {name} {typ}\n"


class _Given:
    """A registry of metrics that were collected already, as the client library's renderers take it."""

    def __init__(self, metrics: list[Metric]) -> None:
        self._metrics = metrics

    def collect(self) -> Iterator[Metric]:
        return iter(self._metrics)


def _render_own(metrics: list[Metric], *, openmetrics: bool, names: Names) -> str:
    # Copies: a collector may give the same objects each time (the library's of the platform does).
    metrics = [copy(metric) for metric in metrics]
    if names:
        for metric in metrics:
            if not names.family(metric.name):
                metric.samples = [sample for sample in metric.samples if names.sample(sample.name)]
        metrics = [metric for metric in metrics if metric.samples]
    for metric in metrics:
        # The library's renderers refuse a lone surrogate, and with it the whole page.
        metric.documentation = _encodable(metric.documentation)
        metric.samples = [
            sample._replace(labels={name: _encodable(value) for name, value in sample.labels.items()})
            for sample in metric.samples
        ]
    registry: Collector = _Given(metrics)
    if openmetrics:
        page: bytes = openmetrics_exposition.generate_latest(registry)  # type: ignore[no-untyped-call]
        return page.decode().removesuffix("# EOF\n")
    return generate_latest(registry).decode()
