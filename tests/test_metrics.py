"""`wsgi-prom metrics` and the queries of the catalogue."""

from __future__ import annotations

import json

import commands
import documents
import live
import promql
import pytest

from wsgi_prom.dashboards.catalogue import METRICS, UWSGI

(README,) = [
    block.text
    for block in documents.blocks((live.ROOT / "README.md").read_text())
    if block.language == "promql"
]


def printed(*options: str) -> str:
    return commands.run("metrics", *options).stdout


def test_each_metric_is_printed_as_metrics_md_has_it() -> None:
    """The command prints name, type, unit, labels, meaning, query, since when and how stable, as docs/metrics.md does."""
    page = (live.ROOT / "docs" / "metrics.md").read_text()
    found = json.loads(printed("--json"))
    missing = [
        metric["name"]
        for metric in found
        if not all(
            cell in row
            for row in [next(line for line in page.splitlines() if line.startswith(f"| `{metric['name']}`"))]
            for cell in (
                f"| {metric['type']} | {metric['unit']}", *(f"`{label}`" for label in metric["labels"]), metric["meaning"],
                f"`{metric['query']}`", f"| {metric['since']} |", "stable" if metric["stable"] else "may change",
            )
        )
    ]  # fmt: skip
    assert [] == missing
    assert [entry.name for entry in (*METRICS, *UWSGI)] == [metric["name"] for metric in found]


def test_the_text_for_people() -> None:
    """Without --json there is a paragraph for each metric, with its query as the last line."""
    paragraphs = printed().split("\n\n")
    assert [entry.query for entry in (*METRICS, *UWSGI)] == [
        text.split("\n")[-1].strip() for text in printed().rstrip().split("\n\n")
    ]
    assert paragraphs[1] == (
        "http_request_duration_seconds (histogram; seconds; by method, route; since 0.1; stable)\n"
        "    Time from the start of a request to the last byte of its response.\n"
        "    With WSGI_PROM_STATUS_CLASS by status_class too.\n"
        "    histogram_quantile(0.99, sum by (le, route) (rate(http_request_duration_seconds_bucket[5m])))"
    )


@pytest.mark.parametrize("entry", [*METRICS, *UWSGI], ids=lambda entry: entry.name)
def test_a_query_names_what_is_exported(entry) -> None:
    """Each metric's query is PromQL, and names that metric, and no metric and no label that the package does not export."""
    assert [] == promql.unknown(entry.query)
    assert entry.name in entry.query


@pytest.mark.parametrize("line", README.splitlines())
def test_the_queries_of_the_readme_name_what_is_exported(line: str) -> None:
    """Each query of the README is PromQL, and names what the package exports."""
    assert [] == promql.unknown(line.partition("#")[0].strip())


@pytest.mark.parametrize(
    "query",
    [
        "rate(http_request_total[5m])",
        'http_requests_total{code="200"}',
        "sum by (path) (rate(http_requests_total[5m]))",
        "sum by (job) (wsgi_workers) / sum by (instance) (wsgi_worker_capacity)",
        "wsgi_workers / on (socket) wsgi_workers",
    ],
)
def test_a_query_that_names_something_else_is_found(query: str) -> None:
    """A metric or label that the package does not export, or that the two sides do not share, is named."""
    assert 1 == len(promql.unknown(query))
