"""A real Prometheus that scrapes the demo's server, where one is installed."""

from __future__ import annotations

import json
import shutil
from contextlib import contextmanager
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from runner.program import Program

if TYPE_CHECKING:
    from collections.abc import Iterator

# Of versions from 2.38 on, which quote it or do not.
_LISTENING = r'msg="Listening on" address=(\S+:[1-9]\d*)'


class Prometheus(Program):
    """A Prometheus with the page *metrics_url* as its only target, at a port that the system chooses."""

    def __init__(self, metrics_url: str) -> None:
        options = [
            "--config.file=prometheus.yml",
            "--storage.tsdb.path=data",
            "--web.listen-address=127.0.0.1:0",
        ]
        super().__init__(["prometheus", *options], ready=(_LISTENING, 1))
        config = {
            "global": {"scrape_interval": "1s"},
            "scrape_configs": [
                {"job_name": "shop", "static_configs": [{"targets": [urlsplit(metrics_url).netloc]}]}
            ],
        }
        # JSON is YAML.
        (self.folder / "prometheus.yml").write_text(json.dumps(config))

    @property
    def url(self) -> str:
        return f"http://{self.wait_for_log(_LISTENING)[1]}"


@contextmanager
def prometheus(metrics_url: str) -> Iterator[str]:
    """Run a Prometheus during the `with` block, and yield its URL; an empty text where none is installed."""
    if shutil.which("prometheus") is None:
        yield ""
        return
    with Prometheus(metrics_url) as running:
        yield running.url
