"""The collector: slots of any layout and state and the client library's files are merged; bad files are left out."""

from __future__ import annotations

import itertools
import math
import os
import shutil
import struct
from typing import TYPE_CHECKING, Any

import processes
import pytest
from chaos.scale import FULL, scale
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from prometheus_client.mmap_dict import MmapedDict, mmap_key
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from wsgi_prom.errors import DirectoryError
from wsgi_prom.exporter.exposition import render
from wsgi_prom.merge.collector import Collector
from wsgi_prom.store import directory, schemas
from wsgi_prom.store import file_format as layout
from wsgi_prom.store.locks import FIRST_SLOT
from wsgi_prom.store.slot_files import SlotFiles
from wsgi_prom.store.slots import SharedSlot

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from prometheus_client.metrics_core import Metric

INF = math.inf
HITS = schemas.counter("hits", "Hits.", ("page",))
READS = schemas.counter("reads", "Reads.", ())
SIZE = schemas.summary("size", "Size.", ("page",))
WAIT = schemas.histogram("wait", "Wait.", (), (0.1, 1.0, INF))
WAIT_LATER = schemas.histogram("wait", "Wait.", (), (0.5, 1.0, 5.0, INF))
BUSY = schemas.gauge("busy", "Busy.", (), "livesum")

Row = tuple[schemas.Schema, tuple[str, ...], tuple[float, ...]]


def write_slot(
    path: Path, number: int, rows: Iterable[Row], nonce: int | None = None, start: float = 0.0
) -> None:
    """Write the files of a slot that nobody holds, with rows of the time *start*."""
    directory.prepare(path)
    nonce = 1 + number if nonce is None else nonce
    known: list[schemas.Schema] = []
    keys, values = layout.keys_header(nonce), b""
    for schema, labels, columns in rows:
        if schema not in known:
            known.append(schema)
            keys += layout.schema_line(schema)
        keys += layout.row_line(known.index(schema), labels)
        values += struct.pack(f"={schema.stride}d", start, *columns)
    header = layout.pack_header(nonce, len(keys))
    (path / f"wsgi_prom.{number}.keys").write_bytes(keys)
    (path / f"wsgi_prom.{number}.values").write_bytes((header + values).ljust(4096, b"\0"))


def shown(metrics: Iterable[Metric]) -> dict[str, float]:
    """Return samples by name and labels as text, each of which is there once."""
    found: dict[str, float] = {}
    for metric in metrics:
        for sample in metric.samples:
            key = sample.name + "".join(f" {name}={value}" for name, value in sorted(sample.labels.items()))
            assert key not in found
            found[key] = sample.value
    return found


def samples(path: Path | Collector) -> dict[str, float]:
    collector = path if isinstance(path, Collector) else Collector(path)
    return shown(collector.collect().to_metrics())


def test_slots_with_other_layouts_are_added_up(shared: Path) -> None:
    """Slots that met label sets in another order, or other ones, are added up."""
    write_slot(shared, 0, [(HITS, ("/a",), (1.0,)), (READS, (), (10.0,)), (SIZE, ("/a",), (1.0, 5.0))])
    write_slot(shared, 1, [(SIZE, ("/a",), (2.0, 6.0)), (HITS, ("/b",), (3.0,)), (HITS, ("/a",), (4.0,))])
    write_slot(shared, 2, [(HITS, ("/a",), (1.0,)), (READS, (), (10.0,)), (SIZE, ("/a",), (1.0, 5.0))])
    write_slot(shared, 7, [])
    expected = {
        "hits_total page=/a": 6.0,
        "hits_total page=/b": 3.0,
        "reads_total": 20.0,
        "size_count page=/a": 4.0,
        "size_sum page=/a": 16.0,
    }
    assert expected == samples(shared)


def test_label_names_in_another_order_are_the_same_series(shared: Path) -> None:
    """Label names in another order, as of another version of the application, are the same series."""
    write_slot(shared, 0, [(schemas.counter("hits", "Help.", ("a", "b")), ("1", "2"), (1.0,))])
    write_slot(shared, 1, [(schemas.counter("hits", "Help.", ("b", "a")), ("2", "1"), (2.0,))])
    assert {"hits_total a=1 b=2": 3.0} == samples(shared)


def test_two_versions_of_a_histograms_buckets_are_merged_by_bound(shared: Path) -> None:
    """During a reload that changes buckets, each bound shows what was counted under it, and buckets never fall."""
    write_slot(shared, 0, [(WAIT, (), (1.5, 1.0, 2.0, 3.0))])
    write_slot(shared, 1, [(WAIT_LATER, (), (2.5, 10.0, 20.0, 30.0, 40.0))])
    expected = {
        "wait_bucket le=0.1": 1.0,
        "wait_bucket le=0.5": 11.0,
        "wait_bucket le=1.0": 33.0,
        "wait_bucket le=5.0": 63.0,
        "wait_bucket le=+Inf": 106.0,
        "wait_count": 106.0,
        "wait_sum": 4.0,
    }
    collector = Collector(shared)
    assert expected == samples(collector)
    assert list(expected.values())[:5] == [
        value for key, value in samples(collector).items() if key.startswith("wait_bucket")
    ]


def test_buckets_that_change_between_scrapes(shared: Path) -> None:
    """
    New bounds join a histogram that was shown before, and stay when their slot goes.
    """
    collector = Collector(shared)
    write_slot(shared, 0, [(WAIT, (), (1.5, 1.0, 2.0, 3.0))])
    samples(collector)
    write_slot(shared, 1, [(WAIT_LATER, (), (2.5, 10.0, 20.0, 30.0, 40.0))])
    both = samples(Collector(shared))
    assert both == samples(collector)
    for name in ("keys", "values"):
        (shared / f"wsgi_prom.1.{name}").unlink()
    assert both == samples(collector)


CONFLICTS = {
    "another type": (schemas.counter("a", "Help.", ()), schemas.gauge("a", "Help.", (), "sum")),
    "a sample of the same name": (
        schemas.summary("a", "Help.", ()),
        schemas.gauge("a_sum", "Help.", (), "sum"),
    ),
    "a sample of the same name, the other way round": (
        schemas.gauge("a_count", "Help.", (), "sum"),
        schemas.histogram("a", "Help.", (), (1.0, INF)),
    ),
    "a counter's sample": (schemas.counter("a", "Help.", ()), schemas.gauge("a_total", "Help.", (), "sum")),
    "a type that there is not": (
        schemas.counter("b", "Help.", ()),
        schemas.Schema((), 1, (schemas.Metric("poem", "a", "Help.", count=(0, 1)),)),
    ),
}


@pytest.mark.parametrize("pair", CONFLICTS.values(), ids=CONFLICTS.keys())
def test_a_metric_that_conflicts_is_left_out_and_counted(
    shared: Path, pair: tuple[schemas.Schema, ...]
) -> None:
    """Of two metrics that conflict the first is shown, the other is counted as a conflict, and the rest is shown."""
    for number, schema in enumerate(pair):
        write_slot(shared, number, [(schema, (), (1.0,) * schema.width), (READS, (), (1.0,))])
    collector = Collector(shared)
    for _ in range(2):
        found = samples(collector)
        assert 2.0 == found.pop("reads_total")
        assert 1 == collector.report.conflicts
        assert all(name.startswith(pair[0].metrics[0].name) for name in found)
        list(parse_text(render(collector.collect())))


@pytest.mark.parametrize(
    "modes", [*itertools.permutations(["sum", "max", "all", "mostrecent"])], ids="-".join
)
def test_a_gauge_with_several_modes_is_shown(shared: Path, modes: tuple[str, ...]) -> None:
    """If a new version changes a gauge's mode, the page shows each series once."""
    for number, mode in enumerate(modes):
        schema = schemas.gauge("size", "Help.", (), mode)
        write_slot(shared, number, [(schema, (), (1.0, 1.0)[: schema.width]), (READS, (), (1.0,))])
    found = samples(shared)
    assert 4.0 == found.pop("reads_total")
    assert set(found) == ({f"size pid={number}" for number in range(4)} if modes[0] == "all" else {"size"})


def test_a_gauges_own_pid_label_is_kept_beside_that_of_the_process(shared: Path) -> None:
    """A gauge of mode `all` has its own label `pid` as `exported_pid`, whatever else is called that; other modes keep it."""
    rows: list[Row] = []
    for name, labels, mode in (
        ("a", ("pid",), "all"),
        ("b", ("exported_pid", "pid"), "all"),
        ("c", ("pid",), "max"),
    ):
        schema = schemas.gauge(name, "Help.", labels, mode)
        rows += [(schema, (value,) * len(labels), (2.0, 1.0)) for value in ("x", "y")]
    write_slot(shared, 3, rows)
    assert {
        "a exported_pid=x pid=3": 2.0,
        "a exported_pid=y pid=3": 2.0,
        "b exported_exported_pid=x exported_pid=x pid=3": 2.0,
        "b exported_exported_pid=y exported_pid=y pid=3": 2.0,
        "c pid=x": 2.0,
        "c pid=y": 2.0,
    } == samples(shared)


# The client library's own files ---------------------------------------------------------------------------------------


def write_client_file(path: Path, name: str, *values: tuple[str, str, dict[str, str], float, float]) -> Path:
    """Write a file as a process with the library's own multiprocess mode does."""
    directory.prepare(path)
    file = path / name
    found = MmapedDict(str(file))
    for metric, sample, labels, value, timestamp in values:
        found.write_value(
            mmap_key(metric, sample, list(labels), list(labels.values()), "Help."), value, timestamp
        )
    found.close()
    return file


def test_files_of_the_client_library_are_merged(shared: Path) -> None:
    """
    What a process without wsgi_prom counts is added to what the others do.
    """
    write_slot(
        shared, 0, [(HITS, ("/a",), (1.0,)), (WAIT, (), (1.5, 1.0, 2.0, 3.0)), (SIZE, ("/a",), (1.0, 5.0))]
    )
    write_client_file(shared, "counter_5.db", ("hits", "hits_total", {"page": "/a"}, 2.0, 0.0))
    write_client_file(
        shared,
        "histogram_5.db",
        ("wait", "wait_sum", {}, 0.5, 0.0),
        ("wait", "wait_bucket", {"le": "0.1"}, 10.0, 0.0),
        ("wait", "wait_bucket", {"le": "1.0"}, 20.0, 0.0),
        ("wait", "wait_bucket", {"le": "+Inf"}, 30.0, 0.0),
    )
    write_client_file(
        shared,
        "summary_5.db",
        ("size", "size_count", {"page": "/a"}, 1.0, 0.0),
        ("size", "size_sum", {"page": "/a"}, 7.0, 0.0),
    )
    write_client_file(shared, "gauge_all_5.db", ("load", "load", {"cpu": "0"}, 0.0, 0.0))
    write_client_file(shared, "gauge_min_5.db", ("least", "least", {}, 4.0, 0.0))
    write_client_file(shared, "gauge_min_6.db", ("least", "least", {}, 3.0, 0.0))
    write_client_file(shared, "gauge_max_worker_7.db", ("most", "most", {}, -3.0, 0.0))
    write_client_file(shared, "gauge_mostrecent_5.db", ("seen", "seen", {}, 1.0, 100.0))
    write_client_file(shared, "gauge_mostrecent_6.db", ("seen", "seen", {}, 2.0, 99.0))
    expected = {
        "hits_total page=/a": 3.0,
        "wait_bucket le=0.1": 11.0,
        "wait_bucket le=1.0": 33.0,
        "wait_bucket le=+Inf": 66.0,
        "wait_count": 66.0,
        "wait_sum": 2.0,
        "size_count page=/a": 2.0,
        "size_sum page=/a": 12.0,
        "load cpu=0 pid=5": 0.0,
        "least": 3.0,
        "most": -3.0,
        "seen": 1.0,
    }
    collector = Collector(shared)
    assert expected == samples(collector)
    assert expected == samples(collector)
    assert () == collector.report.unreadable


def test_a_client_file_grows_and_goes(shared: Path) -> None:
    """
    New series and new values of a process without wsgi_prom are in the next scrape, and a removed file's are not.
    """
    collector = Collector(shared)
    first = ("hits", "hits_total", {"page": "/a"}, 2.0, 0.0)
    write_client_file(shared, "counter_5.db", first)
    assert {"hits_total page=/a": 2.0} == samples(collector)
    write_client_file(shared, "counter_5.db", first, ("hits", "hits_total", {"page": "/b"}, 5.0, 0.0))
    assert {"hits_total page=/a": 2.0, "hits_total page=/b": 5.0} == samples(collector)
    (shared / "counter_5.db").unlink()
    assert {} == samples(collector)


def make_link(file: Path) -> None:
    target = write_client_file(file.parent / "elsewhere", "counter_1.db", ("x", "x_total", {}, 1.0, 0.0))
    file.symlink_to(target)


BAD_CLIENT_FILES: dict[str, Callable[[Path], Any]] = {
    "garbage": lambda file: file.write_bytes(b"garbage!" * 1000),
    "a huge length": lambda file: file.write_bytes(struct.pack("ii", 2**31 - 1, 0) * 8),
    "a negative length": lambda file: file.write_bytes(struct.pack("iii", 64, 0, -8).ljust(64, b"\0")),
    "a key that is no JSON": lambda file: file.write_bytes(
        struct.pack("iii8sdd", 40, 0, 8, b"notjson!", 1.0, 0.0)
    ),
    "a key of other JSON": lambda file: file.write_bytes(
        struct.pack("iii8sdd", 40, 0, 8, b'{"a":1}\x20', 1.0, 0.0)
    ),
    "a key of deep JSON": lambda file: _write_key(file, "[" * 100_000),
    "labels that are no object": lambda file: _write_key(file, '["a","a_total",["x"],"h"]'),
    "a name that is no text": lambda file: _write_key(file, '[1,"a_total",{},"h"]'),
    "a help that is no text": lambda file: _write_key(file, '["a","a_total",{},null]'),
    "a FIFO": os.mkfifo,
    "a directory": os.mkdir,
    "a link": make_link,
}


def _write_key(file: Path, key: str) -> None:
    found = MmapedDict(str(file))
    found.write_value(key, 1.0, 0.0)
    found.close()


@pytest.mark.parametrize("make", BAD_CLIENT_FILES.values(), ids=BAD_CLIENT_FILES.keys())
def test_a_bad_client_file_is_left_out(shared: Path, make: Callable[[Path], Any]) -> None:
    """
    A file that the library's own collector would fail at, or wait for, is counted and left out.
    """
    write_slot(shared, 0, [(READS, (), (1.0,))])
    write_client_file(shared, "counter_1.db", ("hits", "hits_total", {"page": "/a"}, 2.0, 0.0))
    make(shared / "counter_2.db")
    collector = Collector(shared)
    for _ in range(2):
        assert {"reads_total": 1.0, "hits_total page=/a": 2.0} == samples(collector)
        assert ("counter_2.db",) == collector.report.unreadable
        assert "hits_total" in render(collector.collect())


def test_a_client_file_cut_anywhere_is_left_out_or_read_in_part(shared: Path) -> None:
    """A file of the library that is cut at any length is left out or read in part; no wrong value is shown."""
    write_slot(shared, 0, [(READS, (), (1.0,))])
    values = [("hits", "hits_total", {"page": str(page)}, 2.0, 0.0) for page in range(3)]
    file = write_client_file(shared, "counter_1.db", *values)
    whole = file.read_bytes()
    used = struct.unpack_from("i", whole)[0]
    collector = Collector(shared)
    for length in (*range(used + 1), len(whole)):
        file.write_bytes(whole[:length])
        found = samples(collector)
        assert 1.0 == found.pop("reads_total")
        assert set(found.values()) <= {2.0}
    assert {"hits_total page=0", "hits_total page=1", "hits_total page=2"} == set(found)


@pytest.mark.parametrize("mode", ["all", "livemin", "mostrecent", "sum"])
def test_a_client_gauge_cut_anywhere_is_left_out_or_read_in_part(shared: Path, mode: str) -> None:
    """A gauge's file that is cut at any length is left out or read in part."""
    write_slot(shared, 0, [(READS, (), (1.0,))])
    file = write_client_file(shared, f"gauge_{mode}_1.db", ("load", "load", {}, 2.0, 5.0))
    whole = file.read_bytes()
    collector = Collector(shared)
    for length in range(100):
        file.write_bytes(whole[:length])
        assert 1.0 == samples(collector)["reads_total"]


# Files of slots, damaged ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["keys", "values"])
@pytest.mark.parametrize("known", [False, True], ids=["new", "known"])
def test_a_slot_file_cut_anywhere_leaves_the_rest(shared: Path, name: str, known: bool) -> None:
    """A slot whose files are cut at any length is left out and counted, or shown as last read; the others are shown."""
    rows = [(HITS, ("/a",), (1.0,)), (WAIT, (), (1.5, 1.0, 2.0, 3.0)), (HITS, ("/b",), (1.0,))]
    write_slot(shared, 0, [(READS, (), (1.0,))])
    write_slot(shared, 1, rows)
    file = shared / f"wsgi_prom.1.{name}"
    whole = file.read_bytes()
    needed = len(whole) if name == "keys" else 64 + 8 * 6
    collector = Collector(shared)
    complete = samples(collector)
    for length in range(needed):
        file.write_bytes(whole[:length])
        reader = collector if known else Collector(shared)
        found = samples(reader)
        assert (complete if known else {"reads_total": 1.0}) == found
        # Known keys are not read again: what is committed was read before, and the values are whole.
        if not known or name == "values":
            assert ("slot 1",) == reader.report.unreadable
    file.write_bytes(whole)
    assert complete == samples(collector)
    assert () == collector.report.unreadable


@pytest.mark.parametrize("known", [False, True], ids=["new", "known"])
@pytest.mark.parametrize("committed", [0, 40, 1000, 2**40, 2**62, 2**63, 2**64 - 1])
def test_a_damaged_commit_leaves_the_rest(shared: Path, committed: int, known: bool) -> None:
    """A header that commits too many keys, petabytes or fewer than before affects its own slot at most."""
    write_slot(shared, 0, [(READS, (), (1.0,))])
    write_slot(shared, 1, [(HITS, ("/a",), (1.0,))])
    collector = Collector(shared)
    expected = samples(collector) if known else {"reads_total": 1.0}
    file = shared / "wsgi_prom.1.values"
    header = layout.pack_header(2, committed)
    file.write_bytes(header + file.read_bytes()[len(header) :])
    for _ in range(2):
        assert expected == samples(collector)
        assert ("slot 1",) == collector.report.unreadable


@settings(
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    max_examples=150 if scale is FULL else 50,
)
@given(data=st.data())
def test_random_damage_leaves_the_rest(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    """Random bytes anywhere in the files of one slot leave the other's values on the page."""
    shared = tmp_path_factory.mktemp("damage") / "shared"
    write_slot(shared, 0, [(READS, (), (1.0,)), (BUSY, (), (0.0,))])
    write_slot(
        shared, 1, [(HITS, ("/a",), (1.0,)), (schemas.gauge("g", "Help.", (), "mostrecent"), (), (1.0, 1.0))]
    )
    file = shared / f"wsgi_prom.1.{data.draw(st.sampled_from(['keys', 'values']))}"
    whole = bytearray(file.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        whole[data.draw(st.integers(0, min(len(whole), 200) - 1))] = data.draw(st.integers(0, 255))
    collector = Collector(shared)
    if data.draw(st.booleans()):
        samples(collector)
    file.write_bytes(whole)
    assert 1.0 == samples(collector)["reads_total"]
    render(collector.collect(), openmetrics=True)


def test_a_replaced_slot_is_read_anew(shared: Path) -> None:
    """Files that were started anew under the same name and with the same length are not taken for the old ones."""
    collector = Collector(shared)
    write_slot(shared, 0, [(BUSY, (), (1.0,))], nonce=1)
    samples(collector)
    write_slot(shared, 0, [(HITS, ("/b",), (2.0,))], nonce=2)
    assert {"hits_total page=/b": 2.0} == samples(collector)


@pytest.mark.parametrize("damage", ["remove", "empty", "spoil", "replace"])
def test_what_a_slot_has_counted_stays(shared: Path, damage: str) -> None:
    """A slot that is gone or unreadable keeps the counters of the last scrape, and no gauges."""
    collector = Collector(shared)
    write_slot(shared, 0, [(HITS, ("/a",), (3.0,)), (BUSY, (), (2.0,))], nonce=1)
    write_slot(shared, 1, [(HITS, ("/a",), (1.0,))], nonce=2)
    samples(collector)
    values = shared / "wsgi_prom.0.values"
    if damage == "remove":
        values.unlink()
    elif damage == "replace":
        write_slot(shared, 0, [(HITS, ("/a",), (0.0,))], nonce=3)
    else:
        values.write_bytes(b"" if damage == "empty" else b"spoilt")
    for _ in range(2):
        assert {"hits_total page=/a": 4.0} == samples(collector)
        assert (damage in {"empty", "spoil"}) == (("slot 0",) == collector.report.unreadable)


def test_a_slot_that_comes_back_is_counted_once(shared: Path) -> None:
    """A slot whose files are made again, even under another number, is counted once."""
    collector = Collector(shared)
    write_slot(shared, 0, [(HITS, ("/a",), (3.0,))], nonce=1)
    samples(collector)
    for file in shared.glob("wsgi_prom.0.*"):
        file.unlink()
    assert {"hits_total page=/a": 3.0} == samples(collector)
    write_slot(shared, 5, [(HITS, ("/a",), (4.0,))], nonce=1)
    assert {"hits_total page=/a": 4.0} == samples(collector)


def test_a_directory_that_vanishes_leaves_what_was_counted(shared: Path) -> None:
    """If the directory is gone, the page has the last counters, and says that it cannot be read."""
    collector = Collector(shared)
    write_slot(shared, 0, [(HITS, ("/a",), (3.0,))])
    samples(collector)
    shutil.rmtree(shared)
    assert {"hits_total page=/a": 3.0} == samples(collector)
    assert not collector.report.readable
    write_slot(shared, 0, [(HITS, ("/a",), (1.0,))], nonce=2)
    assert {"hits_total page=/a": 4.0} == samples(collector)
    assert collector.report.readable


STEP = st.tuples(
    st.sampled_from(["add", "add", "add", "change", "replace", "remove", "spoil"]),
    st.integers(0, 2),
    st.sampled_from([
        (HITS, ("/a",)), (HITS, ("/b",)), (READS, ()), (WAIT, ()), (WAIT_LATER, ()), (SIZE, ("/a",)), (BUSY, ()),
        (schemas.gauge("least", "Help.", (), "min"), ()), (schemas.gauge("seen", "Help.", (), "mostrecent"), ()),
        (schemas.gauge("load", "Help.", (), "all"), ()), (schemas.gauge("hits", "Help.", ("page",), "sum"), ("/a",)),
    ]),
    st.floats(0, 100).map(lambda value: round(value, 2)),
)  # fmt: skip


@settings(
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    max_examples=40 if scale is FULL else 25,
)
@given(steps=st.lists(STEP, max_size=14))
def test_a_collector_with_a_past_shows_what_a_new_one_does(
    tmp_path_factory: pytest.TempPathFactory, steps: list[Any]
) -> None:
    """Whatever slots did between scrapes, a page has the present slots and the last counters of the others."""
    folder = tmp_path_factory.mktemp("steps")
    shared = folder / "shared"
    directory.prepare(shared)
    collector = Collector(shared)
    slots: dict[int, tuple[int, dict[Any, tuple[float, ...]]]] = {}
    scraped: dict[int, dict[Any, tuple[float, ...]]] = {}
    for turn, (kind, number, key, value) in enumerate(steps, start=1):
        nonce, rows = slots.get(number, (turn, {}))
        if kind == "remove":
            slots.pop(number, None)
            for file in shared.glob(f"wsgi_prom.{number}.*"):
                file.unlink()
        else:
            if kind == "replace":
                nonce, rows = turn, {}
            if kind != "change" or key in rows:
                rows[key] = (value,) * key[0].width
            slots[number] = nonce, rows
            write_slot(shared, number, [(*row, columns) for row, columns in rows.items()], nonce)
        if kind == "spoil":
            (shared / f"wsgi_prom.{number}.values").write_bytes(b"spoilt")
            del slots[number]
        model = folder / f"model {turn}"
        directory.prepare(model)
        present = {nonce: (number, rows) for number, (nonce, rows) in slots.items()}
        gone = {
            nonce: (100 + nonce, {key: columns for key, columns in rows.items() if key[0].metrics[0].type != "gauge"})
            for nonce, rows in scraped.items() if nonce not in present
        }  # fmt: skip
        for nonce, (place, held) in (present | gone).items():
            write_slot(model, place, [(*row, columns) for row, columns in held.items()], nonce)
            scraped[nonce] = dict(held)
        fresh = Collector(model)
        # Which of two metrics with one name is shown depends on who was first.
        expected, found = samples(fresh), samples(collector)
        if fresh.report.conflicts or collector.report.conflicts:
            expected, found = (
                {name: figure for name, figure in page.items() if not name.startswith("hits")}
                for page in (expected, found)
            )
        assert expected == pytest.approx(found)
        assert samples(collector) == shown(parse_text(render(collector.collect())))


def test_a_living_slots_new_series_appear(shared: Path) -> None:
    """
    Between scrapes a process makes series and records; the same collector shows them, and that the process lives.
    """
    kept: list[SharedSlot] = []

    def record(schema: schemas.Schema, labels: tuple[str, ...]) -> None:
        if not kept:
            kept.append(SharedSlot.claim(shared))
        columns, first = kept[0].row(schema, labels)
        columns[first] += 1.0

    collector = Collector(shared)
    with processes.Child(record) as owner:
        owner.call(BUSY, ())
        assert {"busy": 1.0} == samples(collector)
        assert (1, 0) == (collector.report.slots_live, collector.report.slots_free)
        for number in range(1000):
            owner.call(HITS, (f"{number // 2}",))
            if number % 100 == 99:
                assert number + 1 == sum(
                    value for name, value in samples(collector).items() if "hits" in name
                )
        owner.kill()
        found = samples(collector)
        assert "busy" not in found
        assert 500 == len(found)
        assert (0, 1) == (collector.report.slots_live, collector.report.slots_free)


@pytest.mark.parametrize("orderly", [False, True], ids=["killed", "left"])
def test_gauges_of_a_slot_that_is_being_taken_over(shared: Path, orderly: bool) -> None:
    """
    A slot's new owner does not show the live gauges of the former one, neither before they are cleared nor afterwards.
    """
    kept: dict[str, SharedSlot] = {}

    def owner(step: str) -> None:
        if step == "lock":
            assert directory.prepare(shared).acquire(FIRST_SLOT)
        elif step == "claim":
            kept["slot"] = SharedSlot.claim(shared)
        elif step == "record":
            for schema in (BUSY, READS):
                columns, first = kept["slot"].row(schema, ())
                columns[first] += 1.0
        else:
            kept["slot"].leave()

    collector = Collector(shared)
    seen: list[tuple[dict[str, float], int]] = []

    def look() -> None:
        seen.append((samples(collector), collector.report.slots_live))

    with processes.Child(owner) as former, processes.Child(owner) as following:
        for step in ("claim", "record", *(["leave"] if orderly else [])):
            former.call(step)
        former.kill()
        for step in ("lock", "claim", "record"):
            following.call(step)
            look()
    assert [
        ({"reads_total": 1.0}, 0),
        ({"reads_total": 1.0, "busy": 0.0}, 1),
        ({"reads_total": 2.0, "busy": 1.0}, 1),
    ] == seen


def test_a_slot_is_claimed_after_its_gauges_were_cleared(
    in_child: Callable[..., Any], shared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Scrapes just before and just after a claim show no gauge of the former owner."""
    write_slot(shared, 0, [(READS, (), (1.0,)), (BUSY, (), (2.0,))])
    claim = SlotFiles.claim

    def run() -> list[dict[str, float]]:
        found: list[dict[str, float]] = []

        def scraped(files: SlotFiles) -> None:
            found.append(samples(shared))
            claim(files)
            found.append(samples(shared))

        monkeypatch.setattr(SlotFiles, "claim", scraped)
        SharedSlot.claim(shared)
        return found

    assert [{"reads_total": 1.0}, {"reads_total": 1.0, "busy": 0.0}] == in_child(run)


def test_a_missing_directory_is_an_error_of_its_own(shared: Path) -> None:
    """A directory that cannot be read raises DirectoryError with its name, and is read when it is there again."""
    collector = Collector(shared)
    with pytest.raises(DirectoryError, match=str(shared)):
        collector.collect()
    write_slot(shared, 0, [(READS, (), (1.0,))])
    assert {"reads_total": 1.0} == samples(collector)


def test_without_a_lock_file_nobody_is_known_to_live(shared: Path) -> None:
    """Without the lock file slots are read as those of processes that have ended."""
    write_slot(shared, 0, [(READS, (), (1.0,)), (BUSY, (), (2.0,))])
    (shared / "wsgi_prom.lock").unlink()
    collector = Collector(shared)
    assert {"reads_total": 1.0} == samples(collector)
    assert (0, 1) == (collector.report.slots_live, collector.report.slots_free)


def test_the_report_says_what_was_met(shared: Path) -> None:
    """The report has the slots by state, the bytes of values, what was left out, and the time taken."""
    write_slot(shared, 0, [(READS, (), (1.0,))])
    write_slot(shared, 1, [(WAIT, (), (1.0, 1.0, 1.0, 1.0))])
    (shared / "wsgi_prom.2.values").write_bytes(b"garbage")
    (shared / "counter_1.db").write_bytes(b"garbage!")
    slot = SharedSlot.claim(shared)
    collector = Collector(shared)
    collector.collect()
    slot.leave()
    report = collector.report
    assert (1, 1, 8 * 7, 0) == (report.slots_live, report.slots_free, report.value_bytes, report.conflicts)
    assert ("slot 2", "counter_1.db") == report.unreadable
    assert report.duration > 0


# Pages, parsed back ---------------------------------------------------------------------------------------------------

# No lone surrogates here, which have no UTF-8 form; and not the NUL that neither format can carry through every parser.
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=8) | st.sampled_from(
    [
        "\\",
        "\\n",
        '"',
        '\\"',
        "\n",
        "\r",
        "\r\n",
        "\u2028",
        "\x85",
        "a\\\\b",
        "}",
        '",x="',
        " ",
        "#",
        "%s",
        "%(a)s",
    ]
)
FIGURES = st.floats(min_value=0, allow_nan=False) | st.sampled_from([0.0, 1.0, 1e21, 123456789.0, 5e-324])
COUNTS = st.integers(0, 2**50).map(float)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150)
@given(
    help_text=TEXTS,
    labels=st.lists(st.tuples(TEXTS, TEXTS), min_size=1, max_size=4, unique=True),
    figures=st.tuples(FIGURES, COUNTS, COUNTS, COUNTS),
)
def test_pages_are_parsed_back(
    tmp_path_factory: pytest.TempPathFactory,
    help_text: str,
    labels: list[tuple[str, str]],
    figures: tuple[float, ...],
) -> None:
    """Both formats, parsed again, have exactly what was recorded, whatever labels and helps hold."""
    shared = tmp_path_factory.mktemp("page") / "shared"
    names = ("a", "b_2")
    types = [
        schemas.counter("hits", help_text, names),
        schemas.gauge("load", help_text, names, "sum"),
        schemas.summary("size", help_text, names),
        schemas.histogram("wait", help_text, names, (0.5, 1e21, INF)),
    ]
    columns = {"size": figures[1::-1]}
    rows = [(schema, columns.get(schema.metrics[0].name, figures[: schema.width])) for schema in types]
    write_slot(shared, 0, [(schema, values, found) for schema, found in rows for values in labels])
    families = Collector(shared).collect()
    expected = _pairs(families.to_metrics())
    for openmetrics, parse in ((False, parse_text), (True, parse_openmetrics)):
        page = render(families, openmetrics=openmetrics)
        found = list(parse(page))
        assert expected == _pairs(found)
        # The text format escapes in a help text only what ends its line. Blanks at its ends are no part of it.
        if openmetrics:
            assert {help_text.strip()} == {metric.documentation.strip() for metric in found}
        assert {"hits", "load", "size", "wait"} == {metric.name for metric in found}


def _pairs(metrics: Iterable[Metric]) -> list[tuple[Any, ...]]:
    return sorted(
        (
            sample.name,
            tuple(sorted((name, _bound(name, value)) for name, value in sample.labels.items())),
            sample.value,
        )
        for metric in metrics
        for sample in metric.samples
    )


def _bound(name: str, value: str) -> str:
    return str(float(value)) if name == "le" else value


def test_labels_that_are_shown_alike_are_one_line(shared: Path) -> None:
    """Label sets that differ in lone surrogates alone, which have no UTF-8 form, are one line."""
    write_slot(shared, 0, [(HITS, ("\udc80",), (1.0,)), (HITS, ("\udc81",), (2.0,)), (HITS, ("?",), (4.0,))])
    page = render(Collector(shared).collect())
    lines = [line for line in page.splitlines() if line.startswith("hits_total{")]
    page.encode()
    series = [line.rpartition(" ")[0] for line in lines]
    assert len(set(series)) == len(series)
    assert 7.0 == sum(float(line.rpartition(" ")[2]) for line in lines)


@pytest.mark.parametrize("value", [INF, -INF, math.nan, 1e308, 1.5e-9, -123456789.125])
def test_any_float_is_parsed_back(shared: Path, value: float) -> None:
    """
    Infinities, NaN and the smallest differences come through both formats.
    """
    write_slot(shared, 0, [(schemas.gauge("load", "Help.", (), "sum"), (), (value,))])
    families = Collector(shared).collect()
    for openmetrics, parse in ((False, parse_text), (True, parse_openmetrics)):
        ((sample,),) = [metric.samples for metric in parse(render(families, openmetrics=openmetrics))]
        assert repr(value) == repr(sample.value)


def test_a_collector_without_a_directory_shows_the_processs_own(in_child: Callable[..., Any]) -> None:
    """Without a directory the collector shows what this process has recorded so far."""

    def run() -> tuple[dict[str, float], dict[str, float]]:
        from wsgi_prom.store.current_slot import current_slot

        current_slot.part_from_parent()
        collector = Collector(None)
        current_slot.slot.row(READS, ())[0][1] += 2.0
        before = samples(collector)
        current_slot.slot.row(HITS, ("/a",))[0][1] += 1.0
        current_slot.slot.row(READS, ())[0][1] += 1.0
        return before, samples(collector)

    before, after = in_child(run)
    assert 2.0 == before["reads_total"]
    assert (3.0, 1.0) == (after["reads_total"], after["hits_total page=/a"])
