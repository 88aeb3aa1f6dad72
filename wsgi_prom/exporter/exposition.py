"""
Render families as a page, in the Prometheus text format (0.0.4, 1.0.0) or in OpenMetrics 1.0.

1. The lines of samples are the same in both formats, but for the exemplars, which only OpenMetrics has.
2. A renderer keeps the text of each line up to its value. At 1,000 label sets of a counter and a histogram this text takes
   15 ms to make, and the values take 2 ms.
3. Custom collectors, and a process's registry, have metrics of any type, with timestamps and exemplars: client_lines.py.
4. *names*, the `name[]` filter, selects samples of these names, and all samples of families of these names. Empty selects all.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

from wsgi_prom.exporter import client_lines, lines
from wsgi_prom.merge.families import Families
from wsgi_prom.merge.names import DOTS, UNDERSCORES, distinct, metric_name
from wsgi_prom.merge.sums import Sums
from wsgi_prom.server.column import Column

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

    from prometheus_client.metrics_core import Metric

    from wsgi_prom.merge.children import Labels, Shape
    from wsgi_prom.merge.families import Family

    Children = list[tuple[Labels, Shape]]


class Renderer:
    """Renders pages whose names are escaped by the scheme *escaping*. For one thread at a time."""

    def __init__(self, escaping: str = UNDERSCORES) -> None:
        self._escaping = escaping
        # Metrics that could not be rendered, of all pages together.
        self.failed = 0
        # For each family its children, and two pieces for each line: the text before the value, and the value.
        self._kept: dict[str, tuple[Children, list[str]]] = {}

    def render(
        self,
        families: Families,
        own: Iterable[Metric] = (),
        *,
        registry: Iterable[Metric] = (),
        openmetrics: bool = False,
        names: Collection[str] = (),
    ) -> str:
        """
        Render *families*, and then of *own* and *registry* the metrics whose names the families do not have.

        *own* are the exporter's: counters, gauges and untyped metrics, their samples a name, labels and a value. *registry* are
        those of this process's registry. Every label value and help text is escaped; nothing in it can end its line.
        """
        parts: list[str] = []
        kept: dict[str, tuple[Children, list[str]]] = {}
        registry = list(registry)
        left_out = families.conflicts_on(self._escaping, registry)
        for family in families:
            if family.name in left_out:
                continue
            pieces = self._pieces(family)
            kept[family.name] = family.children, pieces
            more = families.more.get(family.name, {})
            parts += self._family_lines(family, pieces, more, openmetrics=openmetrics, names=names)
        self._kept = kept
        others = [metric for metric in (*families.others, *registry) if metric.name not in {*kept, *left_out}]
        taken = {metric_name(name, self._escaping) for name in (*kept, *(metric.name for metric in others))}
        parts += self._own_lines(
            [metric for metric in own if metric_name(metric.name, self._escaping) not in taken],
            openmetrics=openmetrics,
            names=names,
        )
        text, failed = client_lines.render(others, self._escaping, openmetrics=openmetrics, names=names)
        parts.append(text)
        self.failed += failed
        if openmetrics:
            parts.append("# EOF\n")
        return "".join(parts)

    def _family_lines(
        self,
        family: Family,
        pieces: list[str],
        more: Mapping[tuple[str, Labels], float],
        *,
        openmetrics: bool,
        names: Collection[str],
    ) -> list[str]:
        """Return the lines of *family* that *names* select, with those of *more*, in their place where both have one."""
        if openmetrics:
            pieces = self._with_exemplars(pieces, family)
        whole = not names or family.name in names
        if more or not whole:
            pieces = [
                piece
                for (name, labels), *line in zip(family.samples, pieces[::2], pieces[1::2], strict=True)
                if (whole or name in names) and not (more and (name, tuple(sorted(labels))) in more)
                for piece in line
            ]
            for (name, labels), value in more.items():
                if whole or name in names:
                    pieces += ["\n" + lines.start(name, labels, self._escaping), lines.number(value)]
            if pieces:
                pieces[0] = pieces[0].removeprefix("\n")
        if not pieces:
            return []
        head = lines.head(
            family.name, family.type, family.help, family.unit, self._escaping, openmetrics=openmetrics
        )
        return [head, *pieces, "\n"]

    def _pieces(self, family: Family) -> list[str]:
        """Return the pieces of the lines of *family*, of which only the values are made anew where its children are the same."""
        children, pieces = self._kept.get(family.name, (None, []))
        if children is not family.children:
            children = family.children
            if family.type == "info":
                children = [(tuple(distinct(labels, self._escaping)), shape) for labels, shape in children]
            pieces = self._starts(children)
        text = _COUNTS.__getitem__ if family.type in {"counter", "histogram"} else lines.number
        pieces[1::2] = map(text, family.values)
        return pieces

    def _starts(self, children: Children) -> list[str]:
        """Return two pieces for each line: the end of the line before and the text up to the value, and no value yet."""
        pieces: list[str] = []
        shapes: dict[tuple[Shape, bool, bool], list[tuple[str, str, str]]] = {}
        for labels, shape in children:
            # All labels are in the order of their names: those of a sample (`le`) may be in the middle of the child's.
            own = shape[0][1][0][0] if shape and shape[0][1] else ""
            at = len(labels) if own else 0
            while at and labels[at - 1][0] > own:
                at -= 1
            key = shape, at > 0, at < len(labels)
            around = shapes.get(key)
            if around is None:
                around = shapes[key] = [self._around(name, more, *key[1:]) for name, more in shape]
            left, right = lines.pairs(labels[:at], self._escaping), lines.pairs(labels[at:], self._escaping)
            for before, between, after in around:
                pieces += (f"{before}{left}{between}{right}{after}", "")
        if pieces:
            pieces[0] = pieces[0].removeprefix("\n")
        return pieces

    def _around(self, name: str, more: Labels, left: bool, right: bool) -> tuple[str, str, str]:
        """Return what stands before, between and after a child's own labels: those that are *left* and *right* of *more*."""
        plain, labelled = lines.opening(name, self._escaping)
        if not (left or more or right):
            return f"\n{plain} ", "", ""
        commas = "," if left and (more or right) else "", "," if more and right else ""
        return f"\n{labelled}", lines.pairs(more, self._escaping).join(commas), "} "

    def _with_exemplars(self, pieces: list[str], family: Family) -> list[str]:
        exemplars = family.exemplars
        if exemplars:
            pieces = pieces.copy()
            for at, exemplar in exemplars.items():
                pieces[2 * at + 1] += lines.exemplar(exemplar, self._escaping)
        return pieces

    def _own_lines(self, metrics: list[Metric], *, openmetrics: bool, names: Collection[str]) -> list[str]:
        parts = []
        escaping = self._escaping
        # By the identity of a dict, or of a list of them, since the samples of one thing share theirs: those of a worker of
        # uWSGI.
        labels: dict[int, str] = {}
        lists: dict[int, list[str]] = {}
        for metric in metrics:
            head = lines.head(
                metric.name, metric.type, metric.documentation, "", escaping, openmetrics=openmetrics
            )
            if isinstance(metric, Column) and not names:
                texts = lists.get(id(metric.labels))
                if texts is None:
                    texts = lists[id(metric.labels)] = [
                        _own_labels(escaping, *found.items()) for found in metric.labels
                    ]
                parts += [head, *_column_lines(metric, metric_name(metric.sample, escaping), texts)]
                continue
            samples = metric.samples
            if names:
                samples = [sample for sample in samples if metric.name in names or sample.name in names]
                if not samples:
                    continue
            parts.append(head)
            for sample in samples:
                name, of_sample, value, *_ = sample
                text = labels.get(id(of_sample))
                if text is None:
                    text = labels[id(of_sample)] = _own_labels(escaping, *of_sample.items())
                # Names of the exporter's own are plain, and other only where each underscore is escaped.
                parts.append(
                    f"{metric_name(name, DOTS) if escaping == DOTS else name}{text}{_COUNTS[value]}\n"
                )
        return parts


def render(
    families: Families | tuple[()], own: Iterable[Metric] = (), *, escaping: str = UNDERSCORES, **options: Any
) -> str:
    """Render one page, of *own* alone if there are no *families*; see `Renderer.render`."""
    return Renderer(escaping).render(families or Families(Sums()), own, **options)


class _Counts(dict[float, str]):
    """
    The texts of counts. Most counts are small, or as at the last scrape: a look-up takes 0.07 us, a new text 0.35.

    Not for gauges and summaries of an application: -0.0 is the same key as 0.0.
    """

    def __missing__(self, value: float) -> str:
        if len(self) >= _MOST_COUNTS:
            self.clear()
        text = self[value] = lines.number(value + 0.0)
        return text


_COUNTS: Final = _Counts()
_MOST_COUNTS: Final = 16384  # 3 MB


def _column_lines(column: Column, name: str, labels: list[str]) -> list[str]:
    values = zip(labels, column.values, strict=True)
    return [f"{name}{text}{_COUNTS[value]}\n" for text, value in values if value is not None]


# The exporter's own label sets are the same from scrape to scrape: 350 for a uWSGI of 32 workers with 4 threads.
@lru_cache(maxsize=4096)
def _own_labels(escaping: str, *labels: tuple[str, str]) -> str:
    found = lines.pairs(sorted(labels), escaping)
    return f"{{{found}}} " if found else " "
