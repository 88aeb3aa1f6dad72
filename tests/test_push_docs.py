"""docs/push.md: each block of it runs, in the order of the page."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

import documents
import live
import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

BLOCKS = documents.blocks((live.ROOT / "docs" / "push.md").read_text())


@pytest.fixture
def reader(tmp_path: Path) -> Iterator[documents.Reader]:
    """Somebody who has the page's files, in a network and with a /dev/shm of their own."""
    for block in BLOCKS:
        if block.file is not None:
            (tmp_path / block.file).write_text(block.text)
    with documents.network("--mount") as network:
        enter = ["nsenter", f"--mount=/proc/{network}/ns/mnt"]
        subprocess.run([*enter, "mount", "-t", "tmpfs", "none", "/dev/shm"], check=True)
        found = documents.Reader(tmp_path, live.BIN, network, mounts=True)
        try:
            yield found
        finally:
            found.stop()


def test_there_is_no_block_that_no_test_runs() -> None:
    """The page has commands, the application, and a configuration of Prometheus."""
    assert ["myapp.py", "prometheus.yml"] == [block.file for block in BLOCKS if block.language != "console"]


def test_the_blocks_of_the_page(reader: documents.Reader) -> None:
    """The commands run as they stand, one after the other, and print what the page shows as soon as it is so."""
    for block in BLOCKS:
        for command, shown in documents.steps(block.text) if block.language == "console" else ():
            if command.startswith("pip install"):
                continue
            if command.startswith("curl"):
                # A reading is sent a moment after the start.
                patient = f"{command} || true"
                live.eventually(
                    lambda command=patient: reader.type(command),
                    lambda printed, shown=shown: documents.matches(
                        f"{shown.rstrip()}\n", f"{printed.rstrip()}\n"
                    ),
                )
            else:
                printed = reader.type(command)
                assert documents.matches(shown, printed), printed
