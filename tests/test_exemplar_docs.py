"""What docs/exemplars.md tells to do works as it is written."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import documents
import live
import yaml

from runner.environment import BIN
from wsgi_prom.exporter.exposition import render
from wsgi_prom.merge.collector import Collector
from wsgi_prom.request.traces import of_header
from wsgi_prom.store import text_format

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

TEXT = (live.ROOT / "docs" / "exemplars.md").read_text()
BLOCKS = documents.blocks(TEXT)
FILES = {block.file: block.text for block in BLOCKS if block.file is not None}


def test_there_is_no_block_that_no_test_runs() -> None:
    """The page has the blocks that the tests below run, and its bounds are those of the code."""
    assert ["myapp.py", None, "prometheus.yml", None, "datasources.yml", "orders.py"] == [
        block.file for block in BLOCKS
    ]
    assert f"{text_format.LONGEST_TEXT:,} bytes" in TEXT
    assert f"{text_format.LARGEST_FILE // 2**20} MiB" in TEXT


def test_from_a_request_to_its_trace(tmp_path: Path) -> None:
    """The commands print what the page shows, up to the trace in Prometheus' API; Grafana's link is by the label that it has."""
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    (tmp_path / "prometheus.yml").write_text(FILES["prometheus.yml"].replace("15s", "1s"))
    with documents.network() as network:
        reader = documents.Reader(tmp_path, BIN, network)
        try:
            for block in BLOCKS:
                if block.language == "console":
                    for command, shown in documents.steps(block.text):
                        # Until Prometheus has scraped it, grep finds nothing, which is an error.
                        patient = f"until {command}; do sleep 0.2; done" if "query" in command else command
                        assert shown == reader.type(patient).rstrip("\n").split("\n")[0] + "\n" * bool(shown)
        finally:
            reader.stop()
    (source,) = yaml.safe_load(FILES["datasources.yml"])["datasources"]
    (link,) = source["jsonData"]["exemplarTraceIdDestinations"]
    found = of_header("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")
    assert found
    assert f'"{link["name"]}":"4bf92f3577b34da6a3ce929d0e0e4736"'.encode() in found


def test_exemplars_of_your_own(in_child: Callable[..., Any], shared: Path, monkeypatch: Any) -> None:
    """The block's counter and histogram show what they are given."""
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(shared))

    def run() -> list[str]:
        from wsgi_prom.client.patch import install

        install()
        names: dict[str, Any] = {}
        exec(FILES["orders.py"], names)
        names["order"]("A-7", 42)
        page = render(Collector(shared).collect(), openmetrics=True)
        return [line.rpartition(" ")[0] for line in page.splitlines() if "A-7" in line]

    assert [
        'orders_total 1.0 # {order="A-7"} 1.0',
        'paid_euros_bucket{le="100.0"} 1.0 # {order="A-7"} 42.0',
    ] == in_child(run)
