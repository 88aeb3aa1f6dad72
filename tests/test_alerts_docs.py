"""docs/alerts.md: each block of it runs, in the order of the page."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

import documents
import live

if TYPE_CHECKING:
    from pathlib import Path

BLOCKS = documents.blocks((live.ROOT / "docs" / "alerts.md").read_text())


def test_there_is_no_block_that_no_test_runs() -> None:
    """The page has commands and a configuration of Prometheus."""
    assert [("console", None), ("yaml", "prometheus.yml"), ("console", None)] == [
        (block.language, block.file) for block in BLOCKS
    ]


def test_the_blocks_of_the_page(tmp_path: Path) -> None:
    """The commands run as they stand and print what the page shows, and Prometheus takes the configuration with their rules."""
    (tmp_path / "prometheus.yml").write_text(BLOCKS[1].text)
    with documents.network() as network:
        reader = documents.Reader(tmp_path, live.BIN, network)
        for block in BLOCKS:
            for command, shown in documents.steps(block.text) if block.language == "console" else ():
                assert shown == reader.type(command)
    subprocess.run(["promtool", "check", "config", tmp_path / "prometheus.yml"], check=True, timeout=60)
