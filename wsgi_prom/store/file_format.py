r"""
The bytes of a slot's keys and values. Its third file, of texts, is that of text_format.py.

    NAME.values   0  "wsgiprom"    8  version    16  nonce    24  committed    32  claim    80  removed    88  doubles ...
    NAME.keys     "wsgi_prom keys <version> <nonce>\n", then one line of JSON for each schema and each row
                  {...}               a schema: label names, and the metrics that its columns make up
                  [number, "a", "b"]  a row: the schema's ordinal in this file, and the label values

A row owns one double for its start time and as many as its schema is wide, and they follow each other in the order of the
lines: no offset is stored. What follows from other figures (a histogram's count, the requests counter that sits in the same row
as the duration's buckets) is a range of columns that a scrape adds up, so that it can never disagree with them.

1. Only this module knows offsets, and the spelling of a line.
2. Keys are written first, then values, then the commit. `committed` counts bytes of the key file: one aligned 8-byte store
   commits a schema and its row at once. What lies behind it is a torn write, and is written over.
3. Both files have the same nonce: after one of them was replaced, they no longer match and are refused.
4. A row with a negative start time is removed (removal.py). Whoever removes one stores that time first, and then a new number
   in the word `removed` of the header, which is 0 as long as no row was removed.
"""

from __future__ import annotations

import json
import struct
from itertools import groupby
from json.encoder import encode_basestring_ascii as _quoted
from operator import itemgetter
from typing import TYPE_CHECKING, Any, Final

from wsgi_prom.errors import FormatError
from wsgi_prom.store.schemas import GAUGE_MODES, Metric, Schema

if TYPE_CHECKING:
    from collections.abc import Iterator

    from wsgi_prom.store.schemas import Row

VERSION: Final = 4
MAGIC: Final = b"wsgiprom"
HEADER: Final = struct.Struct("=8sQQQ6QQ")
FIRST_COLUMN: Final = HEADER.size // 8
# The header's fields, each a word of 8 bytes. The claim is that of the slot's owner (claims.py).
COMMITTED: Final = 3
CLAIM: Final = slice(4, 10)
REMOVED: Final = 10

# A value file starts with one page and grows by half: room for 25 label sets of a request, or 252 counters.
INITIAL_SIZE: Final = 4096
# In bytes: a slot's files grow no further, so that a scrape of one takes no more memory. 160,000 label sets of 26 columns.
LARGEST_KEYS: Final = 16 * 1024 * 1024
LARGEST_VALUES: Final = 32 * 1024 * 1024


def schema_line(schema: Schema) -> bytes:
    metrics = [
        {
            name: value
            for name, value in vars(metric).items()
            if name in {"type", "name", "help"} or value not in (None, (), "")
        }
        for metric in schema.metrics
    ]
    item = {"labels": schema.labelnames, "width": schema.width, "metrics": metrics}
    # ASCII, so that a lone surrogate in a text survives, and one line whatever a text holds.
    return json.dumps(item, separators=(",", ":")).encode("ascii") + b"\n"


def row_line(schema: int, labelvalues: tuple[str, ...]) -> bytes:
    return f"[{','.join((str(schema), *map(_quoted, labelvalues)))}]\n".encode("ascii")


def text_line(items: tuple[str, ...]) -> bytes:
    """Return *items* as a line of JSON. json.dumps takes 8 times as long for so few."""
    return f"[{','.join(map(_quoted, items))}]\n".encode("ascii")


class Memo:
    """
    What lines meant that a reader of many key files has parsed: the next slot has nearly the same ones.

    A file of 2,000 known rows takes 0.7 ms instead of 2.6, which counts where processes met them in other orders.
    """

    def __init__(self) -> None:
        self.schemas: dict[str, Schema] = {}
        # By the schema's identity, for which it is kept, and by the labels as they are spelled.
        self._rows: dict[int, tuple[Schema, dict[str, Row]]] = {}

    def rows(self, schema: Schema) -> dict[str, Row]:
        return self._rows.setdefault(id(schema), (schema, {}))[1]


def parse_lines(data: bytes, schemas: list[Schema], memo: Memo | None = None) -> list[Row]:
    """
    Read whole lines; append the schemas among them to *schemas*, which those of earlier calls must already be in.

    Returns the rows in the order of their columns. Raises FormatError for anything that this module has not written.
    """
    known = {} if memo is None else memo.schemas
    rows: list[Row] = []
    try:
        lines = data.decode("ascii").removesuffix("\n").split("\n") if data else []
        for start, group in groupby(lines, key=itemgetter(slice(1))):
            if start == "{":
                for line in group:
                    if line not in known:
                        known[line] = _parse_schema(json.loads(line))
                    schemas.append(known[line])
            else:
                found = list(group)
                rows += _look_up_rows(found, schemas, memo) if memo else _read_rows(found, schemas)
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError) as error:
        raise FormatError(f"not a line of a wsgi_prom key file: {error}") from error
    return rows


def keys_header(nonce: int) -> bytes:
    return b"wsgi_prom keys %d %016x\n" % (VERSION, nonce)


def pack_header(nonce: int, committed: int, claim: tuple[int, ...] = (0,) * 6) -> bytes:
    """Return the head of a value file; *committed* are bytes of its key file, whose own header is the least."""
    return HEADER.pack(MAGIC, VERSION, nonce, committed, *claim, 0)


def unpack_header(data: bytes) -> tuple[int, int]:
    """
    Return the nonce and the number of committed bytes of the key file.

    Raises FormatError for a short, foreign or future header.
    """
    if len(data) < HEADER.size:
        raise FormatError(f"{len(data)} bytes are no value file, which has a header of {HEADER.size}")
    magic, version, nonce, committed, *_ = HEADER.unpack_from(data)
    if magic != MAGIC:
        raise FormatError(f"begins with {magic!r}, a value file with {MAGIC!r}")
    if version != VERSION:
        raise FormatError(f"format version {version}, this wsgi_prom reads version {VERSION}")
    return nonce, committed


def check_keys(data: bytes, nonce: int, committed: int) -> None:
    """Raise FormatError unless *data*, the start of a key file, belongs to *nonce* and holds what is committed."""
    header = keys_header(nonce)
    if not data.startswith(header):
        raise FormatError(f"begins with {data[: len(header)]!r}, its value file asks for {header!r}")
    if not len(header) <= committed <= len(data):
        raise FormatError(f"{len(data)} bytes of keys, {committed} are committed")
    if data[committed - 1 : committed] != b"\n":
        raise FormatError("the committed keys end within a line")


def _look_up_rows(lines: list[str], schemas: list[Schema], memo: Memo) -> list[Row]:
    known = {f"[{number}": memo.rows(schema) for number, schema in enumerate(schemas)}
    spelled = [line.partition(",") for line in lines]
    found = [known[start].get(labels) if start in known else None for start, _, labels in spelled]
    rows = [row for row in found if row is not None]
    if len(rows) < len(lines):
        rows = list(_read_rows(lines, schemas))
        for (_, comma, labels), row in zip(spelled, rows, strict=True):
            if comma:
                memo.rows(row[0])[labels] = row
    return rows


def _read_rows(lines: list[str], schemas: list[Schema]) -> Iterator[Row]:
    # Parsed at once, in a tenth of the time of one by one. As strict: a newline cannot be within a text, nor an end of line
    # between the labels of a row, since what comes before and after it would be a list within the list.
    if not all(line[:1] == "[" and line[-1] == "]" for line in lines):
        raise FormatError("a line is neither an object nor a list")
    items = json.loads("[" + ",\n".join(lines) + "]")
    if len(items) != len(lines):
        raise FormatError(f"{len(lines)} lines hold {len(items)} rows")
    for number, *labelvalues in items:
        if number < 0:
            raise FormatError(f"{number} is no ordinal of a schema")
        schema = schemas[number]
        # Raises TypeError unless all are texts, in a tenth of the time of looking at each.
        "".join(labelvalues)
        if len(labelvalues) != len(schema.labelnames):
            raise FormatError(f"label values {labelvalues!r} do not fit {schema.labelnames!r}")
        yield schema, tuple(labelvalues)


def _parse_schema(item: dict[str, Any]) -> Schema:
    metrics = []
    for fields in item["metrics"]:
        given: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()
        }
        metrics.append(Metric(**given))
    schema = Schema(tuple(item["labels"]), item["width"], tuple(metrics))
    if not _all_of(schema.labelnames, str) or not _all_of((schema.width,), int) or schema.width < 1:
        raise FormatError(f"labels {schema.labelnames!r} and width {schema.width!r} are no schema's")
    for metric in metrics:
        _check_metric(metric, schema)
    return schema


def _check_metric(metric: Metric, schema: Schema) -> None:
    if not _all_of((metric.type, metric.name, metric.help, metric.mode, metric.unit), str):
        raise FormatError(f"{metric!r} has names that are no texts")
    for columns in (metric.count, metric.less, metric.total, metric.buckets):
        if columns is not None and not (
            _all_of(columns, int) and len(columns) == 2 and 0 <= columns[0] < columns[1] <= schema.width
        ):
            raise FormatError(f"columns {columns} of {metric.name} lie outside of 0 to {schema.width}")
    if not _all_of(metric.labels, int) or any(not 0 <= n < len(schema.labelnames) for n in metric.labels):
        raise FormatError(f"labels {metric.labels} of {metric.name}: there are {len(schema.labelnames)}")
    if metric.zero and (len(metric.zero) % 2 or not _all_of(metric.zero, str)):
        raise FormatError(f"{metric.name} has {metric.zero!r} for labels and their values")
    if not _all_of(metric.bounds, float) or (
        metric.buckets and metric.buckets[1] - metric.buckets[0] != len(metric.bounds)
    ):
        raise FormatError(f"{metric.name} has buckets {metric.buckets} for bounds {metric.bounds}")
    if metric.type == "gauge" and (
        metric.count != (0, 1)
        or metric.mode not in GAUGE_MODES
        or (not metric.mode.endswith(("sum", "starts")) and schema.width < 2)
    ):
        raise FormatError(f"{metric.name} is no gauge: mode {metric.mode!r}, columns {metric.count}")
    if metric.type == "stateset" and not (
        metric.count == (0, 1) and schema.width == 2 and metric.states and _all_of(metric.states, str)
    ):
        raise FormatError(f"{metric.name} is no Enum: states {metric.states!r}, columns {metric.count}")


def _all_of(items: tuple[object, ...], kind: type) -> bool:
    # Not isinstance: a bool is no column.
    return all(type(item) is kind for item in items)
