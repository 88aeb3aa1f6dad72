"""The page that comes of an answer of uWSGI's stats server, for the tests of both."""

from __future__ import annotations

from typing import Any

import live

from wsgi_prom.exporter.exposition import render
from wsgi_prom.server.uwsgi_families import families


def page(stats: dict[str, Any] | None) -> str:
    return render((), families(stats))


def samples(stats: dict[str, Any] | None) -> live.Samples:
    return live.parse_samples(page(stats))


def value(found: live.Samples, name: str, /, **labels: str) -> float | None:
    return found.get((name, frozenset(labels.items())))


def total(found: live.Samples, name: str) -> float:
    return sum(live.labelled(found, name).values())
