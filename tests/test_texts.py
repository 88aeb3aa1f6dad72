"""The file of texts of a slot: what is read back, what outgrows its record, and what damages, fills or interrupts it."""

from __future__ import annotations

import logging
import os
import resource
import signal
import stat
from typing import TYPE_CHECKING, Any

import processes
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from interruptions import at_each_instruction

from wsgi_prom.errors import FormatError
from wsgi_prom.merge.collector import Collector
from wsgi_prom.store import directory, schemas, text_file, text_format, text_labels, texts
from wsgi_prom.store.current_slot import current_slot
from wsgi_prom.store.environment import VARIABLE
from wsgi_prom.store.locks import LockFile
from wsgi_prom.store.slots import SharedSlot
from wsgi_prom.store.text_file import TextFile
from wsgi_prom.store.text_format import Text

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

NONCE = 7
NOW = 1_800_000_000.0
INFO = schemas.Schema(("part",), 1, (schemas.Metric("info", "build", "Build.", (0,), count=(0, 1)),))


def text(size: int, time: float = NOW) -> Text:
    """Return a text of *size* bytes, each the same, so that a torn one shows."""
    return Text(time, 1.5, bytes([97 + size % 26]) * size)


def opened(path: Path) -> TextFile:
    path.mkdir(mode=0o700, exist_ok=True)
    return TextFile(path, 0, os.geteuid(), NONCE)


def written(path: Path) -> dict[int, Text | None]:
    """Return what a reader finds in the file, by column."""
    data = (path / "wsgi_prom.0.texts").read_bytes()
    text_format.check_header(data, NONCE)
    found = text_format.records(data)
    return {record.column: record.text for record in found if record.column != text_format.FREE}


class Log(logging.Handler):
    """Keeps what is logged."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


class Recording:
    """A process that sets an Info by its store, and shows a page."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._log = Log()

    def __call__(self, action: str, *arguments: Any) -> Any:
        os.environ[VARIABLE] = str(self._path)
        logging.getLogger("wsgi_prom").addHandler(self._log)
        if action == "set":
            part, labels, *size = arguments
            found = Text(NOW, 1.0, text_labels.dump(labels) if not size else b"x" * size[0])
            texts.texts.put((INFO, (part,)), 0, found)
            columns, first = current_slot.row(INFO, (part,))
            columns[first] = 1.0
        elif action == "flip":
            while True:
                for letter, size in (("a", 50), ("b", 9000), ("c", 300), ("d", 40_000)):
                    self("set", "x", {"v": letter * size})
        elif action == "errors":
            return errors(self._path)
        elif action == "limit":
            resource.setrlimit(resource.RLIMIT_FSIZE, (arguments[0], resource.RLIM_INFINITY))
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        elif action == "look":
            return current_slot.check()
        elif action == "logged":
            return [record.getMessage() for record in self._log.records]
        elif action == "number":
            return current_slot.slot.number  # type: ignore[attr-defined]
        return None


def infos(collector: Collector) -> dict[str, dict[str, str]]:
    """Return what the page says of each part: its labels."""
    return {
        sample.labels.pop("part"): sample.labels
        for metric in collector.collect().to_metrics()
        for sample in metric.samples
        if sample.name == "build_info"
    }


def errors(path: Path) -> float:
    return sum(
        sample.value
        for metric in Collector(path).collect().to_metrics()
        for sample in metric.samples
        if sample.name == "wsgi_prom_errors_total" and sample.labels["stage"] == "texts"
    )


@settings(max_examples=40)
@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 3000)), max_size=30))
def test_the_last_text_of_each_column_is_read_back(
    tmp_path_factory: pytest.TempPathFactory, stored: list[tuple[int, int]]
) -> None:
    """Whatever is written in whatever order, a reader and a successor of the process find the last text of each column."""
    path = tmp_path_factory.mktemp("texts")
    file = opened(path)
    for number, (column, size) in enumerate(stored):
        assert file.write(column, text(size, NOW + number))
        if number % 7 == 6:
            file.close()
            file = opened(path)
    file.close()
    last = {column: text(size, NOW + number) for number, (column, size) in enumerate(stored)}
    assert last == (written(path) if stored else {})


def test_a_file_grows_with_its_longest_texts_and_not_with_their_number(tmp_path: Path) -> None:
    """A text that outgrows its record leaves it to others: 5,000 texts of any length need no more space than the first 100."""
    file = opened(tmp_path)
    sizes = []
    for number in range(5000):
        file.write(number % 10, text(number * 37 % 2000, NOW + number))
        if number in {100, 4999}:
            sizes.append((tmp_path / "wsgi_prom.0.texts").stat().st_size)
    assert sizes[1] <= 2 * sizes[0]
    assert 0o600 == stat.S_IMODE((tmp_path / "wsgi_prom.0.texts").stat().st_mode)


def test_a_full_file_takes_what_fits_a_record_and_no_more(tmp_path: Path) -> None:
    """A file at its bound refuses new columns; a text that has no room any more leaves its column without one."""
    file = opened(tmp_path)
    most = 4 * 1024 * 1024 // 65536 - 1
    assert [True] * most + [False] == [
        file.write(column, text(text_format.LONGEST_TEXT)) for column in range(most + 1)
    ]
    small = 0
    while file.write(1000 + small, text(10)):
        small += 1
    assert small > 500  # the rest of the file
    assert file.write(0, text(1000))
    assert not file.write(1000, text(1000))
    assert (text(1000), b"") == (written(tmp_path)[0], getattr(written(tmp_path)[1000], "text", None))
    assert (tmp_path / "wsgi_prom.0.texts").stat().st_size <= text_format.LARGEST_FILE


@settings(max_examples=60)
@given(st.integers(0, 700), st.binary(min_size=1, max_size=80))
def test_no_damage_is_taken_for_a_text(
    tmp_path_factory: pytest.TempPathFactory, at: int, damage: bytes
) -> None:
    """Bytes that are written over make a file unreadable, or texts missing, and never others; the next owner goes on."""
    path = tmp_path_factory.mktemp("texts")
    file = opened(path)
    good = {column: text(40 * column) for column in range(4)}
    for column, found in good.items():
        file.write(column, found)
    file.close()
    with (path / "wsgi_prom.0.texts").open("r+b") as damaged:
        damaged.seek(at)
        damaged.write(damage)
    try:
        found = written(path)
    except FormatError:
        found = {}
    assert {} == {
        column: item for column, item in found.items() if item is not None and item != good.get(column)
    }
    file = opened(path)
    assert file.write(9, text(9))
    file.close()
    assert text(9) == written(path)[9]


def test_a_reader_takes_no_torn_text(shared: Path) -> None:
    """While a process writes texts of changing length and content, each page has one of them whole."""
    writers = [processes.Child(Recording(shared)) for _ in range(2)]
    try:
        for writer in writers:
            writer.call("set", "x", {"v": "a"})
        for writer in writers:
            writer.send("flip")
        collector = Collector(shared)
        found: set[tuple[str, int]] = set()
        while len(found) < 4 or collector.report.slots_live < 2:
            for labels in infos(collector).values():
                found.add((labels["v"][:1], len(set(labels["v"]))))
            assert () == collector.report.unreadable
        for _ in range(100):
            found |= {(labels["v"][:1], len(set(labels["v"]))) for labels in infos(collector).values()}
        assert {1} == {different for _, different in found}
    finally:
        for writer in writers:
            writer.__exit__()


def test_what_a_slot_had_goes_on(shared: Path) -> None:
    """The next owner of a slot keeps the texts of the one before, killed or not, replaces its own, and makes no other file."""
    collector = Collector(shared)
    with processes.Child(Recording(shared)) as first:
        first.call("set", "a", {"v": "1"})
        first.call("set", "b", {"v": "1"})
    with processes.Child(Recording(shared)) as second:
        second.call("set", "b", {"v": "2"})
        assert 0 == second.call("number")
        assert {"a": {"v": "1"}, "b": {"v": "2"}} == infos(collector) == infos(Collector(shared))
    assert ["wsgi_prom.0.texts"] == [path.name for path in shared.glob("*.texts")]


def test_nothing_is_made_for_a_process_without_texts(shared: Path, in_child: Callable[..., Any]) -> None:
    """A process that records numbers alone has no file of texts."""

    def run() -> list[str]:
        os.environ[VARIABLE] = str(shared)
        current_slot.prepare()
        columns, first = current_slot.row(INFO, ("a",))
        columns[first] = 0.0
        return [path.name for path in shared.glob("*.texts")]

    assert [] == in_child(run)
    assert {"a": {}} == infos(Collector(shared))


@pytest.mark.parametrize("harm", ["unlink", "truncate", "overwrite", "link", "directory", "all"])
def test_a_process_writes_its_texts_again(shared: Path, tmp_path: Path, harm: str) -> None:
    """A process whose file of texts was removed, cut short, written over or replaced writes what it has again; nothing else is harmed."""
    foreign = tmp_path / "foreign"
    foreign.write_text("theirs")
    collector = Collector(shared)
    with processes.Child(Recording(shared)) as child:
        child.call("set", "a", {"v": "1"})
        path = shared / "wsgi_prom.0.texts"
        if harm == "truncate":
            os.truncate(path, 10)
        elif harm == "overwrite":
            path.write_bytes(b"x" * 5000)
        else:
            for kind in ("texts", "values", "keys") if harm == "all" else ("texts",):
                (shared / f"wsgi_prom.0.{kind}").unlink()
        if harm == "link":
            path.symlink_to(foreign)
        elif harm == "directory":
            path.mkdir()
        child.call("look")
        child.call("set", "b", {"v": "2"})
        assert {"a": {"v": "1"}, "b": {"v": "2"}} == infos(Collector(shared)) == infos(collector)
    assert "theirs" == foreign.read_text()


def test_a_damaged_file_is_left_out_and_counted(shared: Path) -> None:
    """A file of texts that cannot be read is reported; the page keeps what it has read of it, and a new exporter shows none."""
    collector = Collector(shared)
    with processes.Child(Recording(shared)) as child:
        child.call("set", "a", {"v": "1"})
        assert {"a": {"v": "1"}} == infos(collector)
        (shared / "wsgi_prom.0.texts").write_bytes(b"garbage" * 100)
        assert {"a": {"v": "1"}} == infos(collector)
        assert ("wsgi_prom.0.texts",) == collector.report.unreadable
        fresh = Collector(shared)
        assert {} == infos(fresh)  # that it was set is known, and what to is not
        assert ("wsgi_prom.0.texts",) == fresh.report.unreadable


def test_a_full_disk_delays_texts_and_loses_none(shared: Path) -> None:
    """Without space a text waits in memory, which is logged as for numbers, and is written once there is some."""
    with processes.Child(Recording(shared)) as child:
        child.call("set", "a", {"v": "1"})
        child.call("limit", 4096)
        child.call("set", "a", {"v": "2" * 5000})
        child.call("set", "b", {"v": "3"})
        assert {"a": {"v": "1"}} == infos(Collector(shared))
        child.call("limit", resource.RLIM_INFINITY)
        child.call("look")
        assert {"a": {"v": "2" * 5000}, "b": {"v": "3"}} == infos(Collector(shared))
        assert 1 == sum("cannot write its metrics" in message for message in child.call("logged"))


def test_a_text_that_is_too_long_is_counted_and_said_once(shared: Path) -> None:
    """An Info of more than its bound is on no page, nor is what it was before; it is counted, and logged once."""
    with processes.Child(Recording(shared)) as child:
        child.call("set", "a", {"v": "1"})
        child.call("set", "b", {"v": "1"})
        for _ in range(3):
            child.call("set", "a", {}, text_format.LONGEST_TEXT + 1)
        assert {"b": {"v": "1"}} == infos(Collector(shared))
        assert 3.0 == child.call("errors")
        longest = "2" * (text_format.LONGEST_TEXT - len('{"v":""}'))
        child.call("set", "a", {"v": longest})
        assert {"a": {"v": longest}, "b": {"v": "1"}} == infos(Collector(shared))
        assert 1 == sum("is left out" in message for message in child.call("logged"))


def test_clearing_and_removing_a_directory_takes_its_texts(shared: Path) -> None:
    """A start clears the texts of ended processes, and leaves those of a living one; the end removes all."""
    with processes.Child(Recording(shared)) as child:
        child.call("set", "a", {"v": "1"})
        directory.clear(shared, LockFile.of(shared))
        assert ["wsgi_prom.0.texts"] == [path.name for path in shared.glob("*.texts")]
    directory.clear(shared, LockFile.of(shared))
    assert ["wsgi_prom.lock"] == [path.name for path in shared.iterdir()]
    own = shared.parent / directory.name_temporary().name
    slot = SharedSlot.claim(own)
    slot.write_text(slot.row(INFO, ("a",))[1], text(5))
    assert (own / "wsgi_prom.0.texts").exists()
    assert directory.discard(own, LockFile.of(own))


def test_a_fork_leaves_the_texts_of_its_parent_alone(in_child: Callable[..., Any], shared: Path) -> None:
    """A forked child has none of its parent's texts, and writes its own into a file of its own."""

    def run() -> list[Any]:
        recording = Recording(shared)
        recording("set", "a", {"v": "1"})

        def child() -> None:
            assert texts.texts.get((INFO, ("a",)), 0) is None
            recording("set", "b", {"v": "2"})

        assert 0 == processes.wait_simply(processes.child_of(os.fork, child))
        recording("set", "a", {"v": "3"})
        return [infos(Collector(shared)), sorted(path.name for path in shared.glob("*.texts"))]

    assert [
        {"a": {"v": "3"}, "b": {"v": "2"}},
        ["wsgi_prom.0.texts", "wsgi_prom.1.texts"],
    ] == in_child(run)


def test_a_signal_handler_may_set_a_text_in_the_middle_of_another(
    in_child: Callable[..., Any], shared: Path
) -> None:
    """Wherever a signal handler sets texts while one is being written, all are on the page in the end."""

    def run() -> dict[str, dict[str, str]]:
        recording = Recording(shared)
        recording("set", "a", {"v": ""})

        def work(number: int) -> None:
            recording("set", "a", {"v": "1" * number})

        def interrupt(number: int) -> None:
            recording("set", f"h{number % 5}", {"v": "2" * number})

        at_each_instruction(work, interrupt, texts, text_file)
        for part in ["a", *(f"h{number}" for number in range(5))]:
            recording("set", part, {"v": part})
        current_slot.check()
        return infos(Collector(shared))

    assert {part: {"v": part} for part in ["a", "h0", "h1", "h2", "h3", "h4"]} == in_child(run)
