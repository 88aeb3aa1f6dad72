"""docs/migration.md: the names of the other packages are theirs, those of wsgi_prom are ours, and both are on one page."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import live
import pytest
from test_peers_metrics import DJANGO_COUNTS

from wsgi_prom.dashboards import catalogue

if TYPE_CHECKING:
    from collections.abc import Iterator

SECTIONS = (live.ROOT / "docs" / "migration.md").read_text().split("\n## ")
OURS = {entry.name for entry in catalogue.METRICS}


def rows(title: str) -> list[tuple[str, str]]:
    """Return the rows of the table in the section that *title* is in, but for its head."""
    (section,) = [text for text in SECTIONS if title in text.split("\n", 1)[0]]
    found = re.findall(r"^\| (.*) \| (.*) \|$", section, re.MULTILINE)
    return found[1:]


def names(text: str) -> set[str]:
    return set(re.findall(r"\b(?:flask|django|http)_\w+", text))


def on_the_page(server: live.LiveServer) -> set[str]:
    """Return the names of the metrics on the page of *server*."""
    return set(re.findall(r"^# TYPE (\w+)", server.scrape(), re.MULTILINE))


@pytest.mark.parametrize("package", ["the client library", "prometheus-flask-exporter", "django-prometheus"])
def test_the_names_on_the_right_are_ours(package: str) -> None:
    """Each metric in the right column is one of wsgi_prom's."""
    found = {name for _, right in rows(package) for name in names(right)}
    assert found
    assert set() == found - OURS


@pytest.fixture
def flask() -> Iterator[live.LiveServer]:
    with live.gunicorn("peer_flask:app", workers=1, PEER_KIND="plain") as server:
        yield server


def test_the_names_of_prometheus_flask_exporter(flask: live.LiveServer) -> None:
    """Each metric in its left column is on the page beside wsgi_prom's."""
    live.drive(flask.url, ["/", "/users/1"], clients=1)
    flask.get("/fail")
    theirs = {name for left, _ in rows("prometheus-flask-exporter") for name in names(left)}
    assert len(theirs) == 3
    assert theirs | {"http_requests_total", "http_request_duration_seconds"} <= on_the_page(flask)


def test_the_names_of_django_prometheus() -> None:
    """Each metric in its left column is one of those that another test finds on the page, of all workers."""
    theirs = {name for left, _ in rows("django-prometheus") for name in names(left)}
    assert len(theirs) == 9
    assert [] == [name for name in theirs if not any(found.startswith(name) for found in DJANGO_COUNTS)]
