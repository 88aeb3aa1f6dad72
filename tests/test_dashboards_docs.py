"""docs/dashboards.md: each block of it runs, in the order of the page."""

from __future__ import annotations

import json
import subprocess
from typing import TYPE_CHECKING

import documents
import live
import yaml

if TYPE_CHECKING:
    from pathlib import Path

BLOCKS = documents.blocks((live.ROOT / "docs" / "dashboards.md").read_text())


def test_there_is_no_block_that_no_test_runs() -> None:
    """The page has commands, a configuration of Grafana and one of jsonnet."""
    assert ["console", "yaml", "jsonnet", "console"] == [block.language for block in BLOCKS]


def test_grafana_is_given_a_folder() -> None:
    """The configuration of Grafana is YAML, with one provider that reads a folder."""
    (provider,) = yaml.safe_load(BLOCKS[1].text)["providers"]
    assert provider["options"]["path"].startswith("/")


def test_the_blocks_of_the_page(tmp_path: Path) -> None:
    """The commands run as they stand and print what the page shows; jsonnet writes dashboards and rules with the objective."""
    subprocess.run(["jsonnet", "--version"], check=True, timeout=60)
    name, _, text = BLOCKS[2].text.partition("\n")
    (tmp_path / name.removeprefix("// ")).write_text(text)
    with documents.network() as network:
        reader = documents.Reader(tmp_path, live.BIN, network)
        for block in BLOCKS:
            for command, shown in documents.steps(block.text) if block.language == "console" else ():
                assert shown == reader.type(command)
    alerts = json.loads((tmp_path / "alerts.json").read_text())
    assert {"99.9% of /pay under 0.25s"} == {
        rule["labels"]["slo"]
        for group in alerts["groups"]
        for rule in group["rules"]
        if "slo" in rule["labels"]
    }
    assert 4 == len(list(tmp_path.glob("wsgi-prom-*.json")))
