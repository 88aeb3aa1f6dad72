"""Info metrics: shown once, as any process has set them last, and as the client library renders them."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import prometheus_client
import pytest
from processes import fork, share
from prometheus_client import CollectorRegistry, Counter, Enum, Gauge, Info
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from wsgi_prom.client.patch import install
from wsgi_prom.exporter.exposition import render
from wsgi_prom.merge.collector import Collector
from wsgi_prom.store.current_slot import current_slot

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

# Values that must be escaped, names that only UTF-8 has, and two names that would be one on a page.
LABELS: dict[str, Any] = {"version": "1.2.3", "host": 'a"b\\c\nd', "aé": "ü\udc80", "a.b": "1", "a_b": "2"}


def shown(path: Path, *, open_metrics: bool = False) -> list[str]:
    """Return the lines of samples on a new exporter's page."""
    page = render(Collector(path).collect(), openmetrics=open_metrics)
    return [line for line in page.splitlines() if not line.startswith("#")]


def test_an_info_is_what_any_process_has_set_last(recording: Callable[..., Any], shared: Path) -> None:
    """An Info is on the page once: without labels until a process sets it, and then as the last one did, ended or not."""

    def run() -> list[list[str]]:
        info = Info("build", "Build.", registry=None)
        current_slot.prepare()
        pages = [shown(shared)]
        fork(lambda: info.info({"version": "1"}))
        pages.append(shown(shared))
        info.info({"version": "2", "host": "a"})
        pages.append(shown(shared))
        fork(lambda: info.info({"version": "3"}))
        fork(lambda: None)
        pages.append(shown(shared))
        return pages

    assert [
        ["build_info 1.0"],
        ['build_info{version="1"} 1.0'],
        ['build_info{host="a",version="2"} 1.0'],
        ['build_info{version="3"} 1.0'],
    ] == recording(run)


def test_children_of_an_info_are_told_apart(recording: Callable[..., Any], shared: Path) -> None:
    """An Info with labels of its own is shown for each of them, one that nobody has set among them."""

    def run() -> list[str]:
        info = Info("part", "Part.", ["name"], registry=None)
        fork(lambda: info.labels("b").info({"version": "1"}))
        info.labels("a").info({"version": "2", "name_": "x"})
        info.labels("c")
        return shown(shared)

    assert {
        'part_info{name="a",name_="x",version="2"} 1.0',
        'part_info{name="b",version="1"} 1.0',
        'part_info{name="c"} 1.0',
    } == set(recording(run))


@pytest.mark.parametrize("made", ["before", "after"])
def test_a_page_is_what_the_library_shows_of_one_process(
    in_child: Callable[..., Any], shared: Path, made: str
) -> None:
    """In both formats the lines of an Info are the client library's, whether it was made before the installation or after."""
    labels = {name: value for name, value in LABELS.items() if name.isascii() and "." not in name}

    def run() -> None:
        share(shared)
        registry = CollectorRegistry()
        if made == "after":
            install()
        Info("build", 'Help "x"\n', registry=registry).info(labels)
        Info("never", "Never.", registry=registry)
        if made == "before":
            install()
        families = Collector(shared).collect()
        assert prometheus_client.generate_latest(registry).decode() == render(families)
        assert openmetrics.generate_latest(registry).decode() == render(families, openmetrics=True)

    in_child(run)


def test_odd_labels_break_no_page(recording: Callable[..., Any], shared: Path) -> None:
    """Whatever an application sets, both pages can be read; of two names that a page cannot tell apart, one is left out."""

    def run() -> dict[str, str]:
        info = Info("odd", "Odd.", registry=None)
        info.info({**LABELS, "__name__": "x", "": "y", "number": 3})
        families = Collector(shared).collect()
        render(families).encode()
        page = render(families, openmetrics=True)
        (family,) = text_string_to_metric_families(page)
        assert "info" == family.type
        return family.samples[0].labels

    assert {
        "version": "1.2.3", "host": 'a"b\\c\nd', "a_": "ü\\udc80", "a_b": "1", "number": "3",
    } == recording(run)  # fmt: skip


def test_a_gauge_of_the_same_name_is_a_conflict(recording: Callable[..., Any], shared: Path) -> None:
    """Of an Info and a Gauge whose samples have one name, the first is shown, and the other is counted as left out."""

    def run() -> tuple[list[str], int]:
        Info("build", "B.", registry=None).info({"version": "1"})
        Gauge("build_info", "G.", registry=None, multiprocess_mode="max").set(1)
        collector = Collector(shared)
        page = render(collector.collect()).splitlines()
        return [line for line in page if line[0] != "#"], collector.report.conflicts

    assert (['build_info{version="1"} 1.0'], 1) == recording(run)


def test_an_info_without_space_does_not_show_what_it_was(recording: Callable[..., Any], shared: Path) -> None:
    """An Info whose labels have no space left in the slot is left out, and is shown again once they have."""

    def run() -> list[list[str]]:
        info, part = Info("build", "Build.", registry=None), Info("part", "Part.", ["name"], registry=None)
        pages = []
        info.info({"version": "1"})
        part.labels("short").info({"text": "x"})
        for name in map(str, range(64)):
            part.labels(name).info({"text": "x" * 60_000})
        for version in ("2" * 60_000, "3", "4" * 60_000):
            info.info({"version": version})
            pages.append([line for line in shown(shared) if line.startswith("build")])
        return pages

    assert [[], ['build_info{version="3"} 1.0'], []] == recording(run)


def test_a_clock_that_is_set_back_hides_nothing(recording: Callable[..., Any], shared: Path) -> None:
    """What a process sets after its clock was set back takes the place of what it has set before: Info, Enum and exemplars."""

    def run() -> list[str]:
        info, late = Info("build", "Build.", registry=None), Info("late", "Late.", registry=None)
        mode = Enum("mode", "Mode.", states=["on", "off"], registry=None)
        hits = Counter("hits", "Hits.", registry=None)
        clock, collector = time.time, Collector(shared)

        def record(number: int) -> None:
            info.info({"version": str(number)})
            mode.state(["on", "off"][number])
            hits.inc(exemplar={"trace_id": str(number)})

        record(0)
        collector.collect()
        time.time = lambda: clock() - 3600
        record(1)
        late.info({"version": "1"})
        lines = render(collector.collect(), openmetrics=True).splitlines()
        return [line.partition("} 1.0 1")[0] for line in lines if not line.startswith("#")]

    assert [
        'build_info{version="1"} 1.0',
        'hits_total 2.0 # {trace_id="1"',
        'late_info{version="1"} 1.0',
        'mode{mode="on"} 0.0',
        'mode{mode="off"} 1.0',
    ] == recording(run)


def test_what_the_library_refuses_is_refused(recording: Callable[..., Any], shared: Path) -> None:
    """An Info raises what the client library raises, and stays as it was."""

    def run() -> list[str]:
        info = Info("build", "Build.", registry=None)
        info.info({"version": "1"})
        for wrong in ({"version": None}, 3):
            with pytest.raises((ValueError, AttributeError)):
                info.info(wrong)
        return shown(shared)

    assert ['build_info{version="1"} 1.0'] == recording(run)
