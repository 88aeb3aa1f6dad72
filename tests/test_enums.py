"""Enum metrics: shown once, with the state that any process has set last, and as the client library renders them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from processes import fork
from prometheus_client import CollectorRegistry, Enum, generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.openmetrics.parser import text_string_to_metric_families
from test_collector import write_slot

from wsgi_prom.client.patch import install
from wsgi_prom.exporter.exposition import render
from wsgi_prom.merge.collector import Collector
from wsgi_prom.store import schemas
from wsgi_prom.store.current_slot import current_slot

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

STATES = ["starting", "up", 'do"wn']


def state(path: Path | None) -> dict[str, list[str]]:
    """Return the states with the value 1 of each Enum, by the values of its other labels."""
    found: dict[str, list[str]] = {}
    for family in Collector(path).collect():
        if family.type == "stateset":
            for (name, labels), value in zip(family.samples, family.values, strict=True):
                key = " ".join((name, *(text for label, text in labels if label != name)))
                found.setdefault(key, []).extend([dict(labels)[name]] * int(value))
    return found


def test_an_enum_is_what_any_process_has_set_last(recording: Callable[..., Any], shared: Path) -> None:
    """The first state until a process sets one, and then the one that was set last, by a process that has ended or not."""

    def run() -> list[dict[str, list[str]]]:
        task = Enum("task", "Task.", ["name"], states=STATES, registry=None)
        plain = Enum("plain", "Plain.", states=STATES, registry=None)
        task.labels("a")
        current_slot.prepare()
        pages = [state(shared)]
        fork(lambda: (task.labels("a").state("up"), plain.state('do"wn')))
        pages.append(state(shared))
        task.labels("a").state("starting")
        task.labels("b").state("up")
        pages.append(state(shared))
        fork(lambda: (task.labels("a"), plain.state("up"), task.labels("b").state('do"wn')))
        task.labels("c")
        pages.append(state(shared))
        fork(lambda: task.remove("b"))
        task.labels("b")
        return [*pages, state(shared)]

    first, second, third, fourth, last = recording(run)
    assert {"task a": ["starting"], "plain": ["starting"]} == first
    assert {"task a": ["up"], "plain": ['do"wn']} == second
    assert {"task a": ["starting"], "task b": ["up"], "plain": ['do"wn']} == third
    assert {"task a": ["starting"], "task b": ['do"wn'], "task c": ["starting"], "plain": ["up"]} == fourth
    assert {**fourth, "task b": ["starting"]} == last


def test_enums_of_before_the_installation_are_taken_over(in_child: Callable[..., Any], shared: Path) -> None:
    """A state that was set before anything was installed, or before a directory is known, loses to a later one alone."""

    def run() -> list[dict[str, list[str]]]:
        task = Enum("task", "Task.", ["name"], states=STATES, registry=None)
        task.labels("a").state("up")
        install()
        task.labels("b").state('do"wn')
        pages = [state(None)]
        current_slot.attach(shared)
        pages.append(state(shared))
        fork(lambda: task.labels("a").state('do"wn'))
        return [*pages, state(shared)]

    assert [
        {"task a": ["up"], "task b": ['do"wn']},
        {"task a": ["up"], "task b": ['do"wn']},
        {"task a": ['do"wn'], "task b": ['do"wn']},
    ] == in_child(run)


def test_an_enum_is_rendered_as_by_the_client_library(recording: Callable[..., Any], shared: Path) -> None:
    """Line by line in the text format, and as its type in OpenMetrics."""

    def make(registry: CollectorRegistry | None, *more: str) -> Enum:
        return Enum("job", 'The "job".', ["zone", "name"], states=[*STATES, *more], registry=registry)

    def run() -> list[str]:
        task = make(None, "up")  # named twice, and shown once
        task.labels("z", "a").state("up")
        task.labels("z", "b").state('do"wn')
        families = Collector(shared).collect()
        return [render(families, openmetrics=openmetrics) for openmetrics in (False, True)]

    library = CollectorRegistry()
    one = make(library)
    one.labels("z", "a").state("up")
    one.labels("z", "b").state('do"wn')
    expected = generate_latest(library).decode(), generate_openmetrics(library).decode()
    for page, wanted in zip(recording(run), expected, strict=True):
        # The library sorts the labels, and has the order of making.
        assert {_sorted(line) for line in wanted.splitlines()} == {
            _sorted(line) for line in page.splitlines()
        }
    (family,) = text_string_to_metric_families(recording(run)[1])
    assert ("stateset", 6) == (family.type, len(family.samples))


def _sorted(line: str) -> str:
    name, brace, rest = line.partition("{")
    return name + brace + ",".join(sorted(rest.partition("} ")[0].split(","))) + rest.partition("} ")[2]


def test_versions_with_other_states_and_damaged_rows(shared: Path) -> None:
    """The latest row says which states there are; an ordinal of none is left out, and so is a label that is the Enum's name."""
    old = schemas.states("task", "Task.", (), ("up", "down"))
    new = schemas.states("task", "Task.", (), ("idle", "up"))
    write_slot(shared, 0, [(old, (), (1.0, 5.0))])
    write_slot(shared, 1, [(new, (), (1.0, 6.0))])
    write_slot(
        shared, 2, [(new, (), (2.0, 7.0)), (schemas.states("a", "A.", ("a",), ("b",)), ("c",), (0.0, 1.0))]
    )
    write_slot(shared, 3, [(new, (), (float("nan"), 8.0))])
    assert {"task": ["up"]} == state(shared)
    assert "idle" in render(Collector(shared).collect())
