"""Repeated scrapes: a collector and a renderer with a past show what new ones do."""

from __future__ import annotations

import math
import random
import re
import struct
import tracemalloc
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.mmap_dict import MmapedDict, mmap_key
from prometheus_client.multiprocess import MultiProcessCollector
from test_collector import BUSY, HITS, INF, READS, SIZE, WAIT, WAIT_LATER, samples, shown, write_slot

from wsgi_prom.exporter.exposition import Renderer, render
from wsgi_prom.merge.collector import Collector
from wsgi_prom.request.row_schemas import request_schema
from wsgi_prom.settings import Settings
from wsgi_prom.store import directory, schemas
from wsgi_prom.store import file_format as layout

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from test_collector import Row

ORDERS = schemas.counter("orders", "Orders.", ("shop", "kind"))
LATENCY = schemas.histogram("latency", "Latency.", ("shop",), (0.1, 1.0, 10.0, INF))
WEIGHT = schemas.summary("weight", "Weight.", ("shop",))
LOAD = schemas.gauge("load", "Load.", ("shop",), "max")
REQUEST = request_schema(Settings()).schema

Slot = dict[tuple[schemas.Schema, tuple[str, ...]], list[float]]


def write(path: Path, slots: list[Slot]) -> None:
    for number, slot in enumerate(slots):
        write_slot(path, number, [(schema, labels, tuple(found)) for (schema, labels), found in slot.items()])


def record(slot: Slot, choice: random.Random) -> None:
    """Make one random increment, observation or setting of whole numbers, perhaps of a new label set."""
    shop = f'shop "{choice.randrange(12)}" 100%\\'
    schema = choice.choice([ORDERS, LATENCY, WEIGHT, LOAD, REQUEST])
    labels = (shop,)
    if schema is ORDERS:
        labels = (shop, choice.choice(["a", "b"]))
    elif schema is REQUEST:
        labels = ("GET", shop, choice.choice(["200", "404"]))
    columns = slot.setdefault((schema, labels), [0.0] * schema.width)
    if schema is LOAD:
        columns[:] = [float(choice.randrange(100)), 1.0]
    else:
        columns[choice.randrange(schema.width)] += choice.choice([1, 1, 1, 2_500_000])


@pytest.mark.parametrize("seed", range(8))
def test_a_page_after_many_changes_is_that_of_a_new_collector(shared: Path, seed: int) -> None:
    """After each of 30 rounds of records a collector's page is, byte for byte, that of a new collector."""
    choice = random.Random(seed)
    directory.prepare(shared)
    slots: list[Slot] = [{} for _ in range(5)]
    collector, renderer = Collector(shared), Renderer()
    for _ in range(30):
        for _ in range(choice.choice([0, 1, 40])):
            record(choice.choice(slots), choice)
        write(shared, slots)
        families, fresh = collector.collect(), Collector(shared).collect()
        for openmetrics in (False, True):
            for names in ((), ("orders_total", "latency_sum", "load")):
                expected = lines(render(fresh, openmetrics=openmetrics, names=names))
                assert expected == lines(renderer.render(families, openmetrics=openmetrics, names=names))
        assert samples(Collector(shared)) == shown(families.to_metrics())


def lines(page: str) -> list[str]:
    """Return the page's lines, of which those of a family are in the order in which its label sets were met."""
    return sorted(page.split("\n"))


def test_a_page_is_that_of_the_client_librarys_renderer(shared: Path) -> None:
    """The lines of each series are, byte for byte, those that the client library renders."""
    choice = random.Random(1)
    slots: list[Slot] = [{} for _ in range(4)]
    collector = Collector(shared)
    for _ in range(10):
        for _ in range(60):
            record(choice.choice(slots), choice)
        write(shared, slots)
        families = collector.collect()
        expected = generate_latest(Given(families.to_metrics())).decode()
        assert list(map(ordered, expected.split("\n"))) == list(map(ordered, render(families).split("\n")))


def ordered(line: str) -> str:
    """Return the line with its labels in the order of their names, which the library takes without `le`."""
    start, _, end = line.partition("{")
    labels = re.findall(r'\w+="(?:[^"\\]|\\.)*"', end)
    return (
        line if line.startswith("#") or not labels else f"{start}{sorted(labels)} {end.rpartition('} ')[2]}"
    )


class Given:
    def __init__(self, metrics: Iterator[Any]) -> None:
        self.metrics = metrics

    def collect(self) -> Iterator[Any]:
        return self.metrics


def test_a_page_is_that_of_the_client_librarys_multiprocess_mode(shared: Path, tmp_path: Path) -> None:
    """The same increments in files of both formats give the same lines at each scrape."""
    choice = random.Random(2)
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    bounds = LATENCY.metrics[0].bounds
    slots: list[Slot] = [{} for _ in range(3)]
    collector = Collector(shared)
    for _ in range(6):
        for _ in range(50):
            slot = choice.choice(slots)
            shop = str(choice.randrange(9))
            slot.setdefault((ORDERS, (shop, "a")), [0.0])[0] += 1
            observed = slot.setdefault((LATENCY, (shop,)), [0.0] * LATENCY.width)
            observed[0] += 2
            observed[choice.randrange(1, LATENCY.width)] += 1
        write(shared, slots)
        for number, slot in enumerate(slots):
            for path in theirs.glob(f"*_{number}.db"):
                path.unlink()
            counters, histograms = (
                MmapedDict(str(theirs / f"{kind}_{number}.db")) for kind in ("counter", "histogram")
            )
            for (schema, labels), columns in slot.items():
                name, text = schema.metrics[0].name, schema.metrics[0].help
                if schema is ORDERS:
                    key = mmap_key(name, "orders_total", schema.labelnames, labels, text)
                    counters.write_value(key, columns[0], 0.0)
                    continue
                key = mmap_key(name, "latency_sum", schema.labelnames, labels, text)
                histograms.write_value(key, columns[0], 0.0)
                for bound, count in zip(bounds, columns[1:], strict=True):
                    le = "+Inf" if math.isinf(bound) else str(bound)
                    key = mmap_key(name, "latency_bucket", (*schema.labelnames, "le"), (*labels, le), text)
                    histograms.write_value(key, count, 0.0)
            counters.close()
            histograms.close()
        registry = CollectorRegistry()
        # Installed by another test, our own collector may stand in for the library's: it reads these files as well.
        MultiProcessCollector(registry, path=str(theirs))
        expected = re.sub(r"# HELP .*\n", "", generate_latest(registry).decode())
        found = re.sub(r"# HELP .*\n", "", render(collector.collect()))
        assert sorted(map(ordered, expected.split("\n"))) == sorted(map(ordered, found.split("\n")))


def test_a_gauge_whose_figures_swap_between_processes_is_rendered(shared: Path) -> None:
    """A gauge is rendered again if two processes swap their values, which leaves the sum unchanged."""
    gauge = schemas.gauge("load", "Load.", (), "all")
    write(shared, [{(gauge, ()): [1.0, 1.0]}, {(gauge, ()): [2.0, 1.0]}])
    collector = Collector(shared)
    assert {"load pid=0": 1.0, "load pid=1": 2.0} == samples(collector)
    write(shared, [{(gauge, ()): [2.0, 1.0]}, {(gauge, ()): [1.0, 1.0]}])
    assert 'load{pid="0"} 2.0\nload{pid="1"} 1.0\n' in render(collector.collect())


def test_sums_do_not_drift(shared: Path) -> None:
    """Values that are no binary fractions and change a hundred times have the same sum as at once."""
    choice = random.Random(3)
    slots: list[Slot] = [{(SIZE, (str(page),)): [0.0, 0.0] for page in range(30)} for _ in range(7)]
    collector = Collector(shared)
    for _ in range(100):
        for slot in slots:
            columns = slot[SIZE, (str(choice.randrange(30)),)]
            columns[0] += 1
            columns[1] += choice.random() * 10 ** choice.randrange(12)
        write(shared, slots)
        render(collector.collect())
    assert render(Collector(shared).collect()) == render(collector.collect())


def test_a_slot_takes_8_bytes_a_column(shared: Path) -> None:
    """A collector keeps 8 bytes for each value of a slot and each start time, and no object."""
    rows = 2000
    slots: list[Slot] = [{(HITS, (str(page),)): [1.0] for page in range(rows)} for _ in range(22)]
    taken = []
    for count in (2, 22):
        write(shared, slots[:count])
        collector = Collector(shared)
        tracemalloc.start()
        collector.collect()
        taken.append(tracemalloc.get_traced_memory()[0])
        tracemalloc.stop()
    assert (taken[1] - taken[0]) / 20 < 1.5 * 8 * HITS.stride * rows


def test_a_file_that_has_a_row_twice_is_added_up(shared: Path) -> None:
    """A file that has one label set twice is added up, whatever the order of the other slots."""
    twice: list[Row] = [(HITS, ("/a",), (1.0,)), (SIZE, ("/a",), (1.0, 5.0)), (HITS, ("/a",), (2.0,)), (HITS, ("/b",), (4.0,))]  # fmt: skip
    write_slot(shared, 0, twice)
    write_slot(shared, 1, [(HITS, ("/b",), (8.0,)), (HITS, ("/a",), (16.0,))])
    expected = {"hits_total page=/a": 19.0, "hits_total page=/b": 12.0, "size_count page=/a": 1.0, "size_sum page=/a": 5.0}  # fmt: skip
    collector = Collector(shared)
    assert expected == samples(collector)
    assert expected == samples(collector)


def test_a_schema_that_claims_any_width_costs_its_own_slot(shared: Path) -> None:
    """A schema of absurd width takes no more memory than its value file has, and is not shown."""
    write_slot(shared, 0, [(READS, (), (1.0,))])
    huge = schemas.Schema((), 10**12, (schemas.Metric("counter", "huge", "Help.", count=(0, 1)),))
    keys = layout.keys_header(2) + layout.schema_line(huge) + layout.row_line(0, ())
    (shared / "wsgi_prom.1.keys").write_bytes(keys)
    (shared / "wsgi_prom.1.values").write_bytes(layout.pack_header(2, len(keys)).ljust(4096, b"\0"))
    collector = Collector(shared)
    for _ in range(2):
        assert {"reads_total": 1.0} == samples(collector)
        assert ("slot 1",) == collector.report.unreadable


@pytest.mark.parametrize(
    "bounds", [(math.nan,), (math.nan, INF), (INF, math.nan), (INF, INF), (INF, 1.0), (1.0,), ()]
)
@pytest.mark.parametrize("first", [0, 1])
def test_bounds_that_are_none_leave_the_page(shared: Path, bounds: tuple[float, ...], first: int) -> None:
    """A histogram whose bounds are damaged in one slot is shown or left out; the other metrics are shown."""
    columns = {"total": (0, 1), "buckets": (1, 1 + len(bounds)) if bounds else None}
    metric = schemas.Metric("histogram", "wait", "Wait.", bounds=bounds, **columns)
    odd = schemas.Schema((), 1 + len(bounds), (metric,))
    write_slot(shared, first, [(WAIT, (), (1.5, 1.0, 2.0, 3.0)), (READS, (), (1.0,))])
    write_slot(shared, 1 - first, [(odd, (), (1.0,) * odd.width), (READS, (), (1.0,))])
    collector = Collector(shared)
    for _ in range(2):
        assert "reads_total 2.0\n" in render(collector.collect())
        assert 2.0 == samples(collector)["reads_total"]


def test_rows_that_no_file_has_any_more_go(shared: Path) -> None:
    """When a file of the client library is removed, slots and the counters of a removed slot stay."""
    write(shared, [{(HITS, ("/a",)): [1.0], (WAIT, ()): [1.5, 1, 2, 3]}, {(WAIT, ()): [0.5, 1, 0, 0], (HITS, ("/b",)): [2.0]}])  # fmt: skip
    collector = Collector(shared)
    samples(collector)
    for file in shared.glob("wsgi_prom.1.*"):
        file.unlink()
    expected = samples(collector)
    for turn in range(3):
        file = shared / f"counter_{turn}.db"
        found = MmapedDict(str(file))
        found.write_value(mmap_key("other", "other_total", ["turn"], [str(turn)], "Help."), 1.0, 0.0)
        found.close()
        assert {**expected, f"other_total turn={turn}": 1.0} == samples(collector)
        file.unlink()
        assert expected == samples(collector)
        write_slot(shared, 3, [(WAIT_LATER, (), (0.0,) * 5), (BUSY, (), (1.0,)), (HITS, ("/b",), (0.0,))])
        expected = samples(collector)


# Lines of keys ---------------------------------------------------------------------------------------------------------


SPLIT = {
    "within a text": b'[0,"a]\n["]\n',
    "within a text, with a row more": b'[0,"x"],[0,"a]\n["]\n',
    "within a list": b'[0,"x"],[0,["a"]\n,["b"]]\n',
    "between labels": b'[0\n"x"]\n',
    "two rows on a line": b'[0,"x"],[0,"y"]\n',
    "none on a line": b'[0,"x"]\n\n[0,"y"]\n',
    "blanks": b' [0,"x"]\n',
    "an end of the list": b'[0,"x"]]\n[[0,"y"]\n',
    "a label that is no text": b"[0,5]\n",
    "a label that is a list": b'[0,["x"]]\n',
    "no ordinal": b'["0","x"]\n',
    "known labels with more": b'[0,"a"]]\n',
    "known labels of no schema": b'[7,"a"]\n',
    "known labels counted from the end": b'[-1,"a"]\n',
    "an ordinal spelled otherwise": b'[00,"a"]\n',
    "a schema and a row on a line": layout.schema_line(HITS).rstrip() + b',[0,"a"]\n',
}


@pytest.mark.parametrize("data", SPLIT.values(), ids=SPLIT.keys())
@pytest.mark.parametrize("before", [b"", b'[0,"a"]\n'], ids=["at once", "after a line that is known"])
def test_lines_are_taken_one_by_one(before: bytes, data: bytes, shared: Path) -> None:
    """A slot with lines that are only JSON together, or that hold more than one value, is left out, whatever was read before."""
    write_slot(shared, 0, [(HITS, ("a",), (1.0,))])
    keys = layout.keys_header(2) + layout.schema_line(HITS) + before + data
    (shared / "wsgi_prom.1.keys").write_bytes(keys)
    (shared / "wsgi_prom.1.values").write_bytes(
        layout.pack_header(2, len(keys)) + struct.pack("=8d", *[2.0] * 8)
    )
    collector = Collector(shared)
    for _ in range(2):
        assert {"hits_total page=a": 1.0} == samples(collector)
        assert ("slot 1",) == collector.report.unreadable


TEXTS = st.lists(st.text(st.characters(), max_size=4), min_size=1, max_size=2)


@given(files=st.lists(st.lists(TEXTS, max_size=12), min_size=2, max_size=3))
def test_lines_mean_the_same_when_they_are_known(files: list[list[list[str]]]) -> None:
    """Files that share lines, with schemas in another order, are read alike with a cache and without."""
    memo = layout.Memo()
    for turn, rows in enumerate((*files, *files)):
        known = [schemas.counter("one", "One.", ("a",)), schemas.counter("two", "Two.", ("a", "b"))][
            :: (-1) ** turn
        ]
        data = b"".join(layout.schema_line(schema) for schema in known)
        wanted = []
        for values in rows:
            (number,) = [n for n, schema in enumerate(known) if len(schema.labelnames) == len(values)]
            data += layout.row_line(number, tuple(values))
            wanted.append((known[number], tuple(values)))
        assert wanted == layout.parse_lines(data, [], memo)
