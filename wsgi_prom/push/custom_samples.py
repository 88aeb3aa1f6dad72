"""
The samples of custom collectors, as label sets that every receiver can take.

Nobody has checked what a collector returns. A receiver refuses all of a request for one sample that is not what its type says, so a
label set with such a sample is left out.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final

from wsgi_prom.merge.names import metric_name
from wsgi_prom.push.reading import Child, Sample, shown_labels

if TYPE_CHECKING:
    from collections.abc import Iterable

    from wsgi_prom.push.reading import Labels

# The label that tells the samples of one label set apart, by type.
_PARTS: Final = {"histogram": "le", "gaugehistogram": "le", "summary": "quantile"}
# Receivers' formats have counts as integers of 64 bits.
_MOST_COUNT: Final = 2.0**63


def children(kind: str, samples: Iterable[tuple[str, dict[str, str], Any]]) -> tuple[list[Child], int]:
    """Return the label sets of *samples*, of a metric of type *kind*, and how many samples were left out."""
    found: dict[Labels, dict[tuple[str, Labels], Sample]] = {}
    number, part = 0, _PARTS.get(kind)
    for name, labels, value in samples:
        number += 1
        if not name:
            continue
        try:
            own = shown_labels((key, text) for key, text in labels.items() if key != part)
            more = ((part, labels[part]),) if part in labels else ()
            sample = Sample(metric_name(name), more, float(value))
            found.setdefault(own, {}).setdefault((sample.name, more), sample)
        except (TypeError, ValueError, AttributeError, OverflowError):  # neither texts nor a number
            continue
    sound = [
        Child(labels, 0.0, known)
        for labels, its in found.items()
        if (known := _ordered(kind, tuple(its.values())))
    ]
    return sound, number - sum(len(child.samples) for child in sound)


def _ordered(kind: str, samples: tuple[Sample, ...]) -> tuple[Sample, ...]:
    """Return *samples*, of one label set, the buckets in their order; none if they are not what a metric of type *kind* has."""
    if kind not in _PARTS:
        return samples
    parts = [sample for sample in samples if sample.more]
    others = [sample for sample in samples if not sample.more]
    try:
        bounds = {sample: float(sample.more[0][1]) for sample in parts}
    except ValueError:
        return ()
    if any(map(math.isnan, bounds.values())) or len(set(bounds.values())) < len(bounds):
        return ()
    parts.sort(key=bounds.__getitem__)
    counts = [sample.value for sample in others if sample.name.endswith("_count")]
    if kind == "histogram":
        counts = [sample.value for sample in parts] + counts
    rising = all(lower <= upper for lower, upper in pairwise(counts))
    good = rising and all(0 <= count < _MOST_COUNT for count in counts)
    return (*parts, *others) if good else ()
