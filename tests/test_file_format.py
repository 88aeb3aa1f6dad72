"""The bytes of a slot: what we wrote is read back, and anything else is refused and never misread."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsgi_prom.errors import FormatError
from wsgi_prom.store import file_format as layout
from wsgi_prom.store import schemas

# Lone surrogates among them: os.environ and WSGI servers make some of bytes that are not UTF-8.
TEXTS = st.text(st.characters(exclude_categories=())) | st.sampled_from(
    ["", "\n", '"', "\\", "\r\n", "\u2028", "\x85", "\x1c", "\udc80", "é", "😀", "]", '["'],
)
NAMES = st.lists(TEXTS, max_size=3, unique=True).map(tuple)
BOUNDS = st.lists(st.floats(allow_nan=False), min_size=1, max_size=5, unique=True).map(
    lambda found: tuple(sorted(found))
)


@st.composite
def any_schema(draw) -> schemas.Schema:
    name, help_text, names = draw(TEXTS), draw(TEXTS), draw(NAMES)
    kind = draw(st.sampled_from(["counter", "gauge", "summary", "histogram", "shared"]))
    if kind == "counter":
        return schemas.counter(name, help_text, names)
    if kind == "gauge":
        return schemas.gauge(
            name, help_text, names, draw(st.sampled_from(["all", "livesum", "min", "mostrecent"]))
        )
    if kind == "summary":
        return schemas.summary(name, help_text, names)
    if kind == "histogram":
        return schemas.histogram(name, help_text, names, draw(BOUNDS))
    positions = tuple(range(len(names)))
    return schemas.Schema(
        names,
        3,
        (
            schemas.Metric("counter", name, help_text, positions, count=(1, 3)),
            schemas.Metric(
                "histogram", name, help_text, positions[:1], total=(0, 1), buckets=(1, 3), bounds=(0.5, 1.0)
            ),
        ),
    )


@st.composite
def key_lines(draw) -> tuple[list[bytes], list[schemas.Schema], list[tuple[schemas.Schema, tuple[str, ...]]]]:
    known = draw(st.lists(any_schema(), min_size=1, max_size=3))
    lines, rows = [], []
    for number, schema in enumerate(known):
        lines.append(layout.schema_line(schema))
        for _ in range(draw(st.integers(0, 2))):
            values = tuple(draw(TEXTS) for _ in schema.labelnames)
            lines.append(layout.row_line(number, values))
            rows.append((schema, values))
    return lines, known, rows


@given(written=key_lines())
def test_schemas_and_rows_are_read_back(written) -> None:
    """
    Any names, help texts and labels come back as they were written, one line each.
    """
    lines, known, rows = written
    found: list[schemas.Schema] = []
    assert rows == layout.parse_lines(b"".join(lines), found)
    assert known == found
    assert all(1 == line.count(b"\n") for line in lines)


@given(written=key_lines(), cut=st.integers(0, 400))
def test_lines_may_be_read_in_two_pieces(written, cut: int) -> None:
    """
    A reader that goes on where it stopped finds the same as one that starts anew.
    """
    lines, known, rows = written
    cut %= len(lines) + 1
    found: list[schemas.Schema] = []
    pieces = layout.parse_lines(b"".join(lines[:cut]), found)
    pieces += layout.parse_lines(b"".join(lines[cut:]), found)
    assert (rows, known) == (pieces, found)


@given(written=key_lines(), cut=st.integers(0))
def test_a_prefix_is_read_or_refused(written, cut: int) -> None:
    """
    Keys that end anywhere are either the rows up to there, or a FormatError.
    """
    lines, _, rows = written
    data = b"".join(lines)
    try:
        found = layout.parse_lines(data[: cut % (len(data) + 1)], [])
    except FormatError:
        return
    assert rows[: len(found)] == found


def allowed(read, *arguments) -> None:
    try:
        read(*arguments)
    except FormatError as error:
        assert str(error)


@given(data=st.binary(max_size=200))
def test_random_bytes_are_refused_with_a_format_error(data: bytes) -> None:
    """Random bytes raise FormatError or no error."""
    allowed(layout.parse_lines, data, [])
    allowed(layout.unpack_header, data)
    allowed(layout.unpack_header, layout.MAGIC + data)
    allowed(layout.check_keys, data, 1, len(data))
    allowed(layout.check_keys, layout.keys_header(1) + data, 1, len(data))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda items: (
        st.lists(items, max_size=4)
        | st.dictionaries(
            st.sampled_from(
                ["labels", "width", "metrics", "type", "name", "help", "count", "buckets", "bounds", "mode"]
            ),
            items,
            max_size=5,
        )
    ),
    max_leaves=12,
)


@given(items=st.lists(JSON, max_size=4))
def test_random_json_is_refused_with_a_format_error(items) -> None:
    """Random lines of JSON raise FormatError or no error."""
    known = [schemas.counter("a", "A.", ("x",))]
    allowed(layout.parse_lines, b"".join(json.dumps(item).encode() + b"\n" for item in items), known)


# Each with what makes it wrong.
WRONG = {
    "no metrics": {"labels": [], "width": 1},
    "columns that are no numbers": {"labels": [], "width": 1, "metrics": [{"type": "counter", "name": "a", "help": "", "count": ["0", "1"]}]},
    "columns that are no pair": {"labels": [], "width": 3, "metrics": [{"type": "counter", "name": "a", "help": "", "count": [0, 1, 2]}]},
    "columns outside": {"labels": [], "width": 1, "metrics": [{"type": "counter", "name": "a", "help": "", "count": [0, 2]}]},
    "labels outside": {"labels": [], "width": 1, "metrics": [{"type": "counter", "name": "a", "help": "", "labels": [0], "count": [0, 1]}]},
    "bounds missing": {"labels": [], "width": 2, "metrics": [{"type": "histogram", "name": "a", "help": "", "buckets": [0, 2]}]},
    "bounds that are no numbers": {"labels": [], "width": 1, "metrics": [{"type": "histogram", "name": "a", "help": "", "buckets": [0, 1], "bounds": ["x"]}]},
    "a name that is no text": {"labels": [], "width": 1, "metrics": [{"type": "counter", "name": 7, "help": "", "count": [0, 1]}]},
    "a help that is no text": {"labels": [], "width": 1, "metrics": [{"type": "counter", "name": "a", "help": None, "count": [0, 1]}]},
    "label names that are no texts": {"labels": [1], "width": 1, "metrics": [{"type": "counter", "name": "a", "help": "", "count": [0, 1]}]},
    "a label name that is a list": {"labels": [["x"]], "width": 1, "metrics": [{"type": "counter", "name": "a", "help": "", "count": [0, 1]}]},
    "an unknown field": {"labels": [], "width": 1, "metrics": [{"type": "counter", "name": "a", "help": "", "colour": 1}]},
    "a width below 0": {"labels": [], "width": -1, "metrics": []},
    "a width of no number": {"labels": [], "width": "x", "metrics": []},
    "a gauge without a value": {"labels": [], "width": 1, "metrics": [{"type": "gauge", "name": "a", "help": "", "mode": "all"}]},
    "a most recent gauge without a time": {"labels": [], "width": 1, "metrics": [{"type": "gauge", "name": "a", "help": "", "count": [0, 1], "mode": "mostrecent"}]},
    "a gauge of an unknown mode": {"labels": [], "width": 1, "metrics": [{"type": "gauge", "name": "a", "help": "", "count": [0, 1], "mode": 7}]},
    "a row before its schema": [0],
    "a row of a schema counted from the end": [-1],
    "an empty row": [],
    "a number": 5,
}  # fmt: skip


@pytest.mark.parametrize("item", WRONG.values(), ids=WRONG.keys())
def test_a_line_that_does_not_make_sense_is_refused(item: object) -> None:
    """
    A schema or a row that the collector could not use raises FormatError where it is read.
    """
    with pytest.raises(FormatError):
        layout.parse_lines(json.dumps(item).encode() + b"\n", [])


def test_a_row_of_a_schema_counted_from_the_end_is_refused() -> None:
    """
    A negative ordinal is not the last schema.
    """
    with pytest.raises(FormatError):
        layout.parse_lines(b"[-1]\n", [schemas.counter("a", "A.", ())])


@pytest.mark.parametrize("values", [("x",), ("x", "y", "z")])
def test_a_row_with_other_labels_than_its_schema_is_refused(values: tuple[str, ...]) -> None:
    """A row with more or fewer label values than its schema has names raises FormatError."""
    with pytest.raises(FormatError, match="do not fit"):
        layout.parse_lines(layout.row_line(0, values), [schemas.counter("a", "A.", ("p", "q"))])


@given(nonce=st.integers(0, 2**64 - 1))
def test_the_header_is_read_back(nonce: int) -> None:
    """
    A new value file has its nonce, and commits the key file's header.
    """
    keys = layout.keys_header(nonce)
    assert (nonce, len(keys)) == layout.unpack_header(layout.pack_header(nonce, len(keys)))
    assert 8 * layout.FIRST_COLUMN == len(layout.pack_header(nonce, len(keys)))
    layout.check_keys(keys, nonce, len(keys))


def test_a_future_version_is_refused_by_name() -> None:
    """The error for a header of another version names that version and ours."""
    header = layout.HEADER.pack(layout.MAGIC, layout.VERSION + 1, 1, 0, *[0] * 7)
    with pytest.raises(FormatError, match=f"version {layout.VERSION + 1}.*version {layout.VERSION}"):
        layout.unpack_header(header)


def test_keys_of_another_value_file_are_refused() -> None:
    """
    Only the key file with the value file's nonce is read.
    """
    keys = layout.keys_header(1)
    with pytest.raises(FormatError, match="asks for"):
        layout.check_keys(keys, 2, len(keys))


@pytest.mark.parametrize("committed", [0, 5, 2**63, 2**64 - 1])
def test_a_commit_that_the_keys_do_not_reach_is_refused(committed: int) -> None:
    """A key file that is shorter than its header commits raises FormatError."""
    with pytest.raises(FormatError):
        layout.check_keys(layout.keys_header(1) + b"[0]\n", 1, committed)


def test_a_commit_within_a_line_is_refused() -> None:
    """A commit that ends within a line raises FormatError."""
    keys = layout.keys_header(1) + b"[0]\n"
    with pytest.raises(FormatError, match="within a line"):
        layout.check_keys(keys, 1, len(keys) - 1)
