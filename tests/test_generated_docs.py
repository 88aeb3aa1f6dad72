"""The generated documentation: it is up to date, and true of a real server's page."""

from __future__ import annotations

import dataclasses
import re
import subprocess
import sys

import live
from prometheus_client.parser import text_string_to_metric_families

from wsgi_prom.settings import Settings

ROW = re.compile(r"^\| `(\w+)`(?: \\\*)? \| (\w+) \| (\w*) ?\| ([^|]*)\| ", re.MULTILINE)


def test_the_generated_pages_are_up_to_date() -> None:
    """The tables of settings.md and all of metrics.md are what `make docs` writes now."""
    command = [sys.executable, live.ROOT / "docs" / "generate.py", "--check"]
    environ = live.environment({}, runtime=live.ROOT)
    done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=120, check=False)
    assert (0, "") == (done.returncode, done.stderr)


def test_every_metric_of_a_server_is_described_as_it_is() -> None:
    """Each metric on gunicorn's page has the name, type and labels that docs/metrics.md says."""
    described = {
        name: (kind, set(re.findall(r"`([a-z_]+)`", labels)))
        for name, kind, _, labels in ROW.findall((live.ROOT / "docs" / "metrics.md").read_text())
    }
    with live.gunicorn("measured:app", workers=2) as server:
        live.drive(server.url, ["/", "/unknown"] * 10)
        page = server.scrape()
    wrong = []
    for family in text_string_to_metric_families(page):
        name = f"{family.name}_total" if family.type == "counter" else family.name
        labels = {label for sample in family.samples for label in sample.labels} - {"le"}
        kind, known = described.get(name, ("", set()))
        if kind != family.type or not labels <= known:
            wrong.append((name, family.type, labels))
    assert [] == wrong


def test_the_defaults_that_are_shown_are_the_defaults() -> None:
    """Each default that settings.md shows as a value is that setting's default."""
    wrong = []
    for field in dataclasses.fields(Settings):
        shown = field.metadata["shown"].strip("`")
        try:
            meant = field.metadata["parse"](shown)
        except (ValueError, TypeError, KeyError):
            continue  # words
        if shown and meant != field.default:
            wrong.append((field.name, shown))
    assert [] == wrong
