"""Expressions of PromQL: the metrics and labels that they name, and whether the package exports them."""

from __future__ import annotations

from functools import cache
from typing import Any, Final

import promql_parser

from wsgi_prom.dashboards.catalogue import METRICS, UWSGI

# What Prometheus itself adds, and the synthetic series of a target.
_OF_A_TARGET: Final = frozenset({"job", "instance"})
_SUFFIXES: Final = {"histogram": ("_bucket", "_count", "_sum"), "summary": ("_count", "_sum")}


@cache
def exported() -> dict[str, frozenset[str]]:
    """Return the labels of each series that the package exports, by its name; of `up` too."""
    found = {"up": _OF_A_TARGET}
    for entry in (*METRICS, *UWSGI):
        labels = _OF_A_TARGET | {*entry.labels, *([entry.more[1]] if entry.more else [])}
        for suffix in _SUFFIXES.get(entry.type, ("",)):
            found[entry.name + suffix] = labels | ({"le"} if suffix == "_bucket" else set())
    return found


def unknown(expression: str, recorded: dict[str, frozenset[str]] | None = None) -> list[str]:
    """Return what *expression* names and neither the package exports nor *recorded* has: metrics, and labels of them."""
    series = exported() | (recorded or {})
    wrong: list[str] = []
    _labels(promql_parser.parse(expression), series, wrong)
    return wrong


def labels(expression: str, recorded: dict[str, frozenset[str]] | None = None) -> frozenset[str]:
    """Return the labels that the answer to *expression* has."""
    return _labels(promql_parser.parse(expression), exported() | (recorded or {}), [])


def recorded(found: list[dict[str, Any]]) -> dict[str, frozenset[str]]:
    """Return the labels of each series that rules record, in the order of the rules."""
    known: dict[str, frozenset[str]] = {}
    for rule in found:
        if "record" in rule:
            known[rule["record"]] = labels(rule["expr"], known) | frozenset(rule.get("labels", ()))
    return known


def _labels(node: Any, series: dict[str, frozenset[str]], wrong: list[str]) -> frozenset[str]:
    parts = [
        _labels(part, series, wrong)
        for name in ("lhs", "rhs", "expr", "vector_selector")
        if (part := getattr(node, name, None)) is not None
    ]
    match type(node).__name__:
        case "VectorSelector":
            found = series.get(node.name)
            if found is None:
                wrong.append(node.name)
            asked = [matcher.name for matcher in node.matchers.matchers] if found else []
            wrong += [f"{node.name}{{{label}}}" for label in asked if label not in (found or ())]
        case "AggregateExpr":
            found = _aggregated(node, parts[0], wrong)
        case "BinaryExpr":
            found = _matched(node, *parts, wrong)
        case "Call":
            found = frozenset().union(*(_labels(argument, series, wrong) for argument in node.args))
            found -= {"le"} if node.func.name == "histogram_quantile" else set()
        case _:
            found = parts[0] if parts else None
    return found or frozenset()


def _aggregated(node: Any, known: frozenset[str], wrong: list[str]) -> frozenset[str]:
    if str(node.op) in {"topk", "bottomk"}:
        return known
    if node.modifier is None:
        return frozenset()
    named = frozenset(node.modifier.labels)
    wrong += [f"{found} of {node}" for found in named - known]
    return named if node.modifier.type == promql_parser.AggModifierType.By else known - named


def _matched(node: Any, left: frozenset[str], right: frozenset[str], wrong: list[str]) -> frozenset[str]:
    """Return the labels of an operation on two vectors, of which one may be a number, which has no labels."""
    of_sets = str(node.op) in {"and", "or", "unless"}
    matching = node.modifier.matching if node.modifier else None
    if matching is None:
        if left and right and left != right:
            wrong.append(f"{set(left)} and {set(right)} of {node}")
        return left or right
    named = frozenset(matching.labels)
    wrong += [f"{found} of {node}" for found in named - (left & right)]
    if of_sets:
        return left | right if str(node.op) == "or" else left
    if node.modifier.group_labels or "group_left" in str(node.modifier):
        return left | frozenset(node.modifier.group_labels or ())
    return named
