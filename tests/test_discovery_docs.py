"""docs/discovery.md: each block of it runs, in the order of the page."""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING

import documents
import live
import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

TEXT = (live.ROOT / "docs" / "discovery.md").read_text()
BLOCKS = documents.blocks(TEXT)


@pytest.fixture
def reader(tmp_path: Path) -> Iterator[documents.Reader]:
    for block in BLOCKS:
        if block.file is not None:
            (tmp_path / block.file).write_text(block.text.replace("15s", "1s"))
    with documents.network() as network:
        found = documents.Reader(tmp_path, live.BIN, network)
        try:
            yield found
        finally:
            found.stop()


def test_there_is_no_block_that_no_test_runs() -> None:
    """The page has commands, the application, and two configurations of Prometheus."""
    assert ["myapp.py", "prometheus.yml", "http.yml"] == [block.file for block in BLOCKS if block.file]
    assert {"console"} == {block.language for block in BLOCKS if not block.file}


def test_the_blocks_of_the_page(reader: documents.Reader) -> None:
    """The commands run as they stand, one after the other, and print what the page shows as soon as it is so."""
    for block in BLOCKS:
        for typed, shown in documents.steps(block.text) if block.language == "console" else ():
            command = typed
            if command.startswith("pip install"):
                continue
            if command.startswith(("cat", "curl")):
                # A target is registered, and scraped, a moment after the start: until then there is no file.
                command, deadline = f"{command} || true", time.monotonic() + live.START_SECONDS
                printed = reader.type(command)
                while not documents.matches(f"{shown.rstrip()}\n", f"{printed.rstrip()}\n"):
                    assert time.monotonic() < deadline, printed
                    time.sleep(0.5)
                    printed = reader.type(command)
            else:
                printed = reader.type(command)
                assert documents.matches(shown, printed), printed


def test_links_lead_somewhere() -> None:
    """The tests and the places of the page that it names exist."""
    tests = [live.ROOT / test for test in re.findall(r"`(tests/\w+\.py)`", TEXT)]
    headings = {
        re.sub(r"[^\w ]", "", line).strip().lower().replace(" ", "-")
        for line in re.findall(r"^#+ (.*)$", TEXT, re.MULTILINE)
    }
    assert [] == [test for test in tests if not test.exists()]
    assert set(re.findall(r"\]\(#([\w-]+)\)", TEXT)) <= headings
