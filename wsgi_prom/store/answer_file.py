"""
What the collectors and the functions of gauges of one process have returned: a small file of its slot, replaced in one step.

1. A record is of one collector, and says until when it is true. One with a mode is of its process alone; one without is of the
   whole application, whichever process has asked.
2. A file says whose it is: the next owner of the slot may have no collectors, and leave it there.
3. A directory that is being removed gets no file.
"""

from __future__ import annotations

import json
import os
import re
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from wsgi_prom.errors import FormatError
from wsgi_prom.store import directory_files
from wsgi_prom.store.locks import LockFile

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from prometheus_client.metrics_core import Metric
    from prometheus_client.samples import Sample

_FILE: Final = re.compile(r"wsgi_prom\.(0|[1-9]\d{0,5})\.answers", re.ASCII)

# Some 10,000 samples. What is beyond is not written, and a longer file is not read.
MOST_BYTES: Final = 1 << 20
MOST_SAMPLES: Final = 10_000
# In seconds: a page has timestamps of 64 bits in milliseconds.
_LATEST: Final = 2**63 / 1000

Process = tuple[int, int, int]  # the pid, the time of start and the pid namespace of a `Claim`


class Exemplar(NamedTuple):
    """An exemplar, with the time of its value in seconds since the epoch if that is known."""

    labels: dict[str, str]
    value: float
    timestamp: float | None


class AnsweredSample(NamedTuple):
    """A sample: its full name, its labels, its value, and what the collector has said beside."""

    name: str
    labels: dict[str, str]
    value: float
    timestamp: float | None
    exemplar: Exemplar | None


class Family(NamedTuple):
    """A metric family of a collector, with the attributes of the client library's `Metric`."""

    name: str
    documentation: str
    type: str
    unit: str
    samples: list[AnsweredSample]


class Record(NamedTuple):
    """
    What the *collector*, known by this name in all processes, has returned at *at*. It is true until *until*.

    Both are seconds of time.monotonic. *mode* is a multiprocess mode of gauges, or empty: then it is the whole application's,
    and *ordinal* tells it from others of this name.
    """

    collector: str
    mode: str
    at: float
    until: float
    families: list[Family]
    ordinal: int = 1


class Contents(NamedTuple):
    """
    What a file holds: whose it is, and its records, also those that are no longer true. *state* tells it from the next one.
    """

    state: tuple[int, int, int]
    process: Process
    records: list[Record]


def name(number: int) -> str:
    return f"wsgi_prom.{number}.answers"


def numbers(names: Iterable[str]) -> list[int]:
    """Return the numbers of the slots that have such a file among *names*, in order."""
    matches = (_FILE.fullmatch(name) for name in names)
    return sorted(int(match[1]) for match in matches if match)


def encode(metrics: Iterable[Metric]) -> list[Family]:
    """
    Return *metrics*, which a collector has returned, as they are written.

    Raises TypeError, ValueError, AttributeError or OverflowError for what no page can show.
    """
    families = []
    count = 0
    for metric in metrics:
        samples = [
            _encoded(metric.type, sample) for sample in metric.samples if _has_line(metric.type, sample)
        ]
        count += len(samples)
        if count > MOST_SAMPLES:
            raise ValueError(f"more than {MOST_SAMPLES} samples")
        unit = str(getattr(metric, "unit", ""))
        families.append(Family(str(metric.name), str(metric.documentation), str(metric.type), unit, samples))
    return families


def text(record: Record) -> bytes:
    """Return *record* as a part of a file."""
    return json.dumps(record).encode("ascii")


def write(path: Path, number: int, process: Process, records: Iterable[bytes]) -> bool:
    """
    Replace the file of slot *number* in the directory *path*, in one step, by *records*, made by `text`.

    Returns False if some had no space and were left out. Raises OSError, DirectoryError, and leaves the former one then.
    """
    head = json.dumps(process).encode("ascii")
    fitting, size, whole = [], len(head) + 16, True
    for record in records:
        if size + len(record) > MOST_BYTES:
            whole = False
            continue
        fitting.append(record)
        size += len(record) + 1
    data = b"[%b,[%b]]" % (head, b",".join(fitting))
    with directory_files.opened(path) as folder:
        lock_file = LockFile.within(folder, path)
        discarded = lock_file.discarded
        if discarded:
            return whole
        directory_files.replace_file(name(number), folder, data)
        if lock_file.discarded:  # since then: its files may have been listed before
            with suppress(FileNotFoundError):
                os.unlink(name(number), dir_fd=folder)
    return whole


def read(
    folder: int, number: int, owners: frozenset[int] | None = None, former: Contents | None = None
) -> Contents:
    """
    Return what is in the file of slot *number* in the directory *folder*: *former*, if that is the same file as it was.

    Raises FormatError for anything but what `write` has written, also for a file of other users than *owners*, uids; OSError.
    """
    fd, status = directory_files.open_plain(name(number), owners, folder=folder)
    try:
        state = status.st_ino, status.st_mtime_ns, status.st_size
        if former is not None and former.state == state:
            return former
        data = os.pread(fd, MOST_BYTES + 1, 0)
    finally:
        os.close(fd)
    if len(data) > MOST_BYTES:
        raise FormatError(f"{name(number)} is too long")
    try:
        (pid, started, namespace), records = json.loads(data)
        return Contents(state, (pid, started, namespace), [_decoded(*record) for record in records])
    except (ValueError, TypeError, LookupError, AttributeError, OverflowError, RecursionError) as error:
        raise FormatError(f"{name(number)} holds no metrics: {error}") from error


def of_application(path: Path, number: int) -> list[Record]:
    """Return the records of the file of slot *number* in *path* that are the application's, and still true. Never raises."""
    try:
        with directory_files.opened(path) as folder:
            contents = read(folder, number, frozenset({os.fstat(folder).st_uid}))
            return [
                record for record in contents.records if not record.mode and record.until > time.monotonic()
            ]
    except Exception:  # most slots have none, and one that is damaged may ask for any amount of memory
        return []


def _has_line(typ: str, sample: Sample) -> bool:
    """Return whether a page has a line of *sample*: none of a native histogram, nor of when counting began."""
    created = typ in {"counter", "summary", "histogram"} and sample.name.endswith("_created")
    return not created and getattr(sample, "native_histogram", None) is None


def _encoded(typ: str, sample: Sample) -> AnsweredSample:
    # The library lets a newline at the end of a name pass, which would end the line.
    labels = {str(label).replace("\n", "_"): str(value) for label, value in sample.labels.items()}
    timestamp = _seconds(sample.timestamp)
    exemplar = None
    # OpenMetrics knows them nowhere else, and the client library makes no page with one elsewhere.
    counted = typ == "counter" and sample.name.endswith("_total")
    if sample.exemplar and (counted or (typ.endswith("histogram") and sample.name.endswith("_bucket"))):
        given = sample.exemplar
        texts = {str(label): str(value) for label, value in given.labels.items()}
        exemplar = Exemplar(texts, float(given.value), _seconds(given.timestamp))
    return AnsweredSample(
        str(sample.name).replace("\n", "_"), labels, float(sample.value), timestamp, exemplar
    )


def _seconds(timestamp: Any) -> float | None:
    if timestamp is None:
        return None
    seconds = float(timestamp)
    if not abs(seconds) < _LATEST:
        raise ValueError(f"{timestamp!r} is no time")
    return seconds


def _decoded(collector: Any, mode: Any, at: Any, until: Any, families: Any, ordinal: Any) -> Record:
    found = [_family(*family) for family in families]
    return Record(_text(collector), _text(mode), float(at), float(until), found, int(ordinal))


def _family(name: Any, documentation: Any, typ: Any, unit: Any, samples: Any) -> Family:
    return Family(
        _text(name), _text(documentation), _text(typ), _text(unit), [_sample(*found) for found in samples]
    )


def _sample(name: Any, labels: Any, value: Any, timestamp: Any, exemplar: Any) -> AnsweredSample:
    found = None if exemplar is None else _exemplar(*exemplar)
    return AnsweredSample(_text(name), _labels(labels), float(value), _seconds(timestamp), found)


def _exemplar(labels: Any, value: Any, timestamp: Any) -> Exemplar:
    return Exemplar(_labels(labels), float(value), _seconds(timestamp))


def _labels(labels: Any) -> dict[str, str]:
    return {_text(label): _text(value) for label, value in labels.items()} if labels else {}


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is no text")
    return value
