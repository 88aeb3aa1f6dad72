"""What collectors have told, as it is written, read and merged: by mode, each figure once, and nothing that is no longer true."""

from __future__ import annotations

import contextlib
import json
import time
from typing import TYPE_CHECKING, Any

import live
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.openmetrics.parser import text_string_to_metric_families
from prometheus_client.samples import Exemplar, Timestamp
from samples import parse_samples

from wsgi_prom.errors import FormatError
from wsgi_prom.exporter.exposition import render
from wsgi_prom.merge import answers
from wsgi_prom.merge.collector import Collector
from wsgi_prom.merge.families import Families
from wsgi_prom.merge.names import UNDERSCORES, UTF8
from wsgi_prom.merge.sums import Sums
from wsgi_prom.store import answer_file, directory, directory_files, schemas
from wsgi_prom.store.claims import Claim
from wsgi_prom.store.locks import LockFile
from wsgi_prom.store.slots import SharedSlot

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path


def record(name: str, mode: str, *metrics: Metric, at: float = 0.0, seconds: float = 100.0) -> Any:
    now = time.monotonic()
    return answer_file.Record(name, mode, now + at, now + at + seconds, answer_file.encode(metrics))


def gauge(name: str, value: float, **labels: str) -> Metric:
    family = GaugeMetricFamily(name, "G", labels=list(labels))
    family.add_metric(list(labels.values()), value)
    return family


def families(*records: tuple[str, Any]) -> Families:
    """Return a page's families of records alone, each with the number of its slot."""
    found = Families(Sums())
    merged = answers.merge(records, found)
    found.others, found.more = merged.metrics, merged.more
    return found


def write(path: Path, slot: SharedSlot, records: Iterable[Any], claim: Claim | None = None) -> bool:
    process = (claim or Claim.new())[1:4]
    return answer_file.write(path, slot.number, process, map(answer_file.text, records))


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        ("sum", {"g": 5.0}), ("min", {"g": 2.0}), ("max", {"g": 3.0}), ("mostrecent", {"g": 2.0}),
        ("all", {'g{pid="4"}': 3.0, 'g{pid="7"}': 2.0}),
    ],
)  # fmt: skip
@pytest.mark.parametrize("live", ["", "live"])
def test_each_mode_merges_the_answers_of_living_processes(
    mode: str, live: str, expected: dict[str, float]
) -> None:
    """Two processes' figures become one by the mode, or one for each slot."""
    found = families(
        ("4", record("c", live + mode, gauge("g", 3.0), at=-2)),
        ("7", record("c", live + mode, gauge("g", 2.0), at=-1)),
    )
    lines = [line for line in render(found).splitlines() if not line.startswith("#")]
    assert [f"{name} {value}" for name, value in expected.items()] == lines


def test_a_label_pid_of_a_collectors_own_is_kept() -> None:
    """In the modes that show each process, it is `exported_pid`, as for gauges that are set."""
    found = families(("4", record("c", "all", gauge("g", 1.0, pid="own"))))
    assert 'g{exported_pid="own",pid="4"} 1.0' in render(found)


def test_a_process_is_shown_once_whatever_its_labels_are(shared: Path, in_child: Any) -> None:
    """In the modes that show each process, a gauge with a function stands instead of one that was set, also with labels after `pid`."""

    def shown() -> list[str]:
        slot = SharedSlot.claim(shared)
        columns, first = slot.row(schemas.gauge("pool", "P", ("queue",), "all"), ("x",))
        columns[first], columns[first + 1] = 1.0, 1.0
        write(shared, slot, [record("pool all", "all", gauge("pool", 2.0, queue="x"))])
        return [line for line in render(Collector(shared).collect()).splitlines() if line[0] != "#"]

    assert ['pool{pid="0",queue="x"} 2.0'] == in_child(shown)


def test_counters_and_histograms_are_merged_as_they_are() -> None:
    """Types, units, times and exemplars of a collector are on the page; sums have none."""
    histogram = HistogramMetricFamily("wait_seconds", "W", unit="seconds")
    exemplar = Exemplar({"trace_id": "a"}, 0.5, Timestamp(1, 5 * 10**8))
    histogram.add_metric([], [("1.0", 1, exemplar), ("+Inf", 2)], 5)  # type: ignore[list-item]
    old = GaugeMetricFamily("old", "O")
    old.add_metric([], 1, timestamp=12.5)
    created = CounterMetricFamily("made", "M", 2, created=1.0)
    found = families(
        ("0", record("c", "", histogram, old, created)), ("1", record("d", "sum", gauge("s", 1)))
    )
    page = render(found, openmetrics=True)
    by_name = {family.name: family for family in text_string_to_metric_families(page)}
    assert ("histogram", "seconds") == (by_name["wait_seconds"].type, by_name["wait_seconds"].unit)
    shown = by_name["wait_seconds"].samples[0].exemplar
    assert ({"trace_id": "a"}, 0.5, 1.5) == (shown.labels, shown.value, float(shown.timestamp))
    assert 12.5 == float(by_name["old"].samples[0].timestamp)
    assert [("made_total", 2.0)] == [(sample.name, sample.value) for sample in by_name["made"].samples]


def test_no_sample_is_on_the_page_twice_and_none_that_breaks_it() -> None:
    """Of two collectors, and of metrics that cannot stand beside each other, the first one's is shown; the page stays whole."""
    twice = gauge("g", 1.0)
    twice.samples *= 2
    other = CounterMetricFamily("g", "another type", 9)
    clash = gauge("n_total", 5.0)
    odd = Metric("odd", "h\ud800\n", "gauge")
    odd.add_sample("odd\n1 2", {"l\n": 'v"\n\ud800'}, float("nan"))
    twins = Metric("twins", "T", "gauge")
    twins.add_sample("twins", {"a-b": "1", "a_b": "2"}, 1)
    reserved = gauge("reserved", 1, __name__="x")
    nameless = Metric("nameless", "N", "gauge")
    nameless.add_sample("", {}, 1)
    wrong = Metric("wrong", "W", "gauge")
    wrong.add_sample("wrong", {}, 1, exemplar=Exemplar({"a": "b"}, 1.0))
    merger = Families(Sums())
    first = record("a", "", twice, CounterMetricFamily("n", "N", 1), odd, twins, reserved, nameless, wrong)
    merged = answers.merge([("0", first), ("0", record("b", "", gauge("g", 2.0), other, clash))], merger)
    merger.others = merged.metrics
    assert {"g", "n_total", "reserved", "nameless"} == merged.conflicts
    # Its labels are two names to a client that reads them in quotes.
    assert [{"twins"}, set()] == [merger.conflicts_on(escaping) for escaping in (UNDERSCORES, UTF8)]
    for openmetrics in (False, True):
        lines = render(merger, openmetrics=openmetrics).splitlines()
        shown = [line for line in lines if not line.startswith("#")]
        assert ["g 1.0", "n_total 1.0", 'odd_1_2{l_="v\\"\\n\\\\ud800"} NaN', "wrong 1.0"] == shown


def test_a_family_of_the_slots_gets_more_samples(shared: Path, in_child: Any) -> None:
    """A gauge's function stands beside children that are set, and instead of one; a counter of a slot stays what it is."""

    def shown() -> list[str]:
        slot = SharedSlot.claim(shared)
        for mode, labels in (("max", ("set",)), ("max", ("both",))):
            columns, first = slot.row(schemas.gauge("g", "G", ("kind",), mode), labels)
            columns[first], columns[first + 1] = 1.0, 1.0
        columns, first = slot.row(schemas.counter("c", "C", ("kind",)), ("both",))
        columns[first] = 5.0
        mine, counts = gauge("g", 2.0, kind="both"), CounterMetricFamily("c", "C", labels=["kind"])
        mine.samples += gauge("g", 3.0, kind="function").samples
        counts.add_metric(["both"], 1)
        counts.add_metric(["other"], 2)
        write(shared, slot, [record("x", "max", mine, counts, gauge("c_total", 1.0))])
        collector = Collector(shared)
        found = collector.collect()
        assert collector.report.conflicts == 1
        as_metrics = [s for metric in found.to_metrics() for s in metric.samples]
        assert parse_samples(render(found)) == {
            (s.name, frozenset(s.labels.items())): s.value for s in as_metrics
        }
        selected = render(found, names={"c_total"})
        return [line for line in (render(found) + selected).splitlines() if not line.startswith("#")]

    assert [
        'c_total{kind="both"} 5.0', 'c_total{kind="other"} 2.0',
        'g{kind="set"} 1.0', 'g{kind="both"} 2.0', 'g{kind="function"} 3.0',
        'c_total{kind="both"} 5.0', 'c_total{kind="other"} 2.0',
    ] == in_child(shown)  # fmt: skip


def test_a_sample_that_cannot_be_shown_costs_no_page() -> None:
    """Exemplars may have any text; a time that no page can have is an error of its collector; and what else fails costs its metric."""
    counted = CounterMetricFamily("counted", "C")
    counted.add_metric([], 1)
    counted.samples[0] = counted.samples[0]._replace(exemplar=Exemplar({"a": "\ud800"}, 1.0))
    lines = render(families(("0", record("a", "", counted))), openmetrics=True).splitlines()
    assert 'counted_total 1.0 # {a="\\\\ud800"} 1.0' in lines
    for time_ in (1e306, -1e306, 1e17):
        late = gauge("late", 1.0)
        late.samples[0] = late.samples[0]._replace(timestamp=time_)
        with pytest.raises(ValueError, match="is no time"):
            answer_file.encode([late])
    good, bad = gauge("good", 1.0), gauge("bad", 2.0)
    bad.samples[0] = bad.samples[0]._replace(value="no number")
    for openmetrics in (False, True):
        lines = render(families(), registry=[bad, good], openmetrics=openmetrics).splitlines()
        assert ["good 1.0"] == [line for line in lines if not line.startswith("#")]


def test_figures_end_with_their_process_and_their_time(shared: Path, in_child: Any) -> None:
    """Figures of another owner of the slot, of one that ended, and those that are too old are not shown; the application's own stay."""

    def leave(files: int) -> None:
        slot = SharedSlot.claim(shared)
        records = [record("mine", "all", gauge("mine", 1)), record("ours", "", gauge("ours", 1))]
        write(shared, slot, [*records, record("old", "", gauge("old", 1), at=-10, seconds=5)])

    def look() -> list[str]:
        return [metric.name for metric in Collector(shared).collect().others]

    def look_as_owner() -> list[str]:
        SharedSlot.claim(shared)
        return look()

    def look_at_both() -> list[str]:
        younger = SharedSlot.claim(shared)
        write(shared, younger, [record("ours", "", gauge("younger", 1), at=-1)])
        return look()

    in_child(leave, 1)
    assert ["ours"] == look() == in_child(look_as_owner)
    assert ["younger"] == in_child(look_at_both)


def test_a_file_that_is_as_it_was_is_parsed_once(shared: Path, in_child: Any) -> None:
    """Scrapes show a changed answer at once, and one that is no longer true not at all, though the file is as it was."""

    def look() -> tuple[list[list[str]], bool]:
        slot = SharedSlot.claim(shared)
        collector = Collector(shared)
        pages = []
        for value in (1.0, 2.0):
            write(shared, slot, [record("a", "sum", gauge("g", value))])
            pages += [render(collector.collect()).splitlines()[2:] for _ in range(2)]
        write(shared, slot, [record("a", "sum", gauge("g", 3.0), seconds=0.3)])
        live.eventually(lambda: collector.collect().others, lambda others: not others)
        with directory_files.opened(shared) as folder:
            first = answer_file.read(folder, slot.number)
            return pages, first is answer_file.read(folder, slot.number, None, first)

    assert ([["g 1.0"], ["g 1.0"], ["g 2.0"], ["g 2.0"]], True) == in_child(look)


def test_a_file_is_bounded_cleared_and_removed(shared: Path, in_child: Any) -> None:
    """What is too long is left out, a server's start clears what is left of others, and a directory is removed with it."""

    def fill() -> None:
        slot = SharedSlot.claim(shared)
        long = record("long", "", gauge("g", 1, text="x" * answer_file.MOST_BYTES))
        assert not write(shared, slot, [long, record("short", "", gauge("short", 1))])
        assert ["short"] == [metric.name for metric in Collector(shared).collect().others]
        file = shared / answer_file.name(slot.number)
        assert 0o600 == file.stat().st_mode & 0o777
        directory.clear(shared, LockFile.of(shared))
        assert file.exists()  # of a living process

    in_child(fill)

    def end() -> list[bool]:
        lock_file = directory.prepare(shared)
        before = (shared / answer_file.name(0)).exists()
        directory.clear(shared, lock_file)
        return [before, (shared / answer_file.name(0)).exists()]

    assert [True, False] == in_child(end)
    with pytest.raises(ValueError, match="more than 10000 samples"):
        answer_file.encode([InfoMetricFamily("i", "I", {"a": "b"}), many()])


def many() -> Metric:
    family = GaugeMetricFamily("many", "M", labels=["n"])
    for number in range(answer_file.MOST_SAMPLES):
        family.add_metric([str(number)], 1)
    return family


def test_a_damaged_file_costs_its_own_figures(shared: Path, in_child: Any) -> None:
    """A file that is cut short is left out and counted; the other processes' are shown."""

    def damage() -> tuple[list[str], tuple[str, ...]]:
        slot = SharedSlot.claim(shared)
        write(shared, slot, [record("a", "", gauge("a", 1))])
        good = (shared / answer_file.name(slot.number)).read_bytes()
        (shared / answer_file.name(5)).write_bytes(good[:-9])
        collector = Collector(shared)
        return [metric.name for metric in collector.collect().others], collector.report.unreadable

    assert (["a"], ("wsgi_prom.5.answers",)) == in_child(damage)


@given(st.binary(max_size=200) | st.recursive(
    st.none() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=6) | st.dictionaries(st.text(max_size=3), inner, max_size=3), max_leaves=30,
))  # fmt: skip
def test_anything_in_a_file_is_an_error_of_its_format(tmp_path_factory: Any, content: Any) -> None:
    """Random bytes, and JSON of another shape, raise no other error."""
    path = tmp_path_factory.mktemp("c")
    content = content if isinstance(content, bytes) else json.dumps([[1, 2, 3], [content]]).encode()
    (path / answer_file.name(1)).write_bytes(content)
    with directory_files.opened(path) as folder:
        with contextlib.suppress(FormatError):
            answer_file.read(folder, 1)
    assert [] == answer_file.of_application(path, 1)


@pytest.mark.parametrize(
    "sample", [["g", ["a"], 1, None, None], ["g", {}, 10**400, None, None], ["g", {}, 1, 1e306, None]]
)
def test_a_damaged_sample_is_an_error_of_the_file(shared: Path, sample: Any) -> None:
    """Labels that are none, and numbers that no float or page can have, keep no process from writing its own answers."""
    shared.mkdir(mode=0o700)
    content = [[1, 2, 3], [["c", "", 0.0, 1e9, [["g", "G", "gauge", "", [sample]]], 1]]]
    (shared / answer_file.name(1)).write_text(json.dumps(content))
    with directory_files.opened(shared) as folder, pytest.raises(FormatError):
        answer_file.read(folder, 1)
    assert [] == answer_file.of_application(shared, 1)
