"""
The page of two workers is that of the client library in a single process that has recorded as much, to the letter: every type of
metric with its units, texts, names and numbers, in each format and escaping that a client may ask for.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import live
import pytest
import queries
import servers
from prometheus_client.openmetrics import exposition as library
from prometheus_client.openmetrics import parser as openmetrics_parser

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

FORMATS = ("text/plain;version=1.0.0", "application/openmetrics-text;version=1.0.0")
ESCAPINGS = ("underscores", "allow-utf-8", "dots", "values")
ACCEPTS = [
    "text/plain;version=0.0.4",
    "application/openmetrics-text",
    *(f"{name};escaping={escaping}" for name in FORMATS for escaping in ESCAPINGS),
]
# The client library 0.26 escapes plain names too, of samples in this format alone.
UNEQUAL = "application/openmetrics-text;version=1.0.0;escaping=values"

# Heads of metrics that are others at each scrape.
TELLING_TIME = r"# HELP (U__)?(http|wsgi|process|python|uwsgi)"
# What the client library writes itself: NaN that was counted, sums that sink, none where a bound is negative, a label `__`.
REFUSED = r"# HELP (c_summary|t_(\w+_nan|\w+_minus_inf|summary_both_inf|negative|ideographs)) "
SAMPLE = re.compile(r'(?:[^" ]|"(?:[^"\\]|\\.)*")+ \S+')

REFERENCE = """
import json, sys
import typed
from prometheus_client import make_wsgi_app
typed.record()
typed.record()
app, pages = make_wsgi_app(typed.registry), {}
for accept in json.loads(sys.argv[1]):
    headers = {}
    environ = {"REQUEST_METHOD": "GET", "PATH_INFO": "/metrics", "HTTP_ACCEPT": accept}
    body = b"".join(app(environ, lambda _, found: headers.update(found)))
    pages[accept] = headers["Content-Type"], body.decode()
print(json.dumps(pages))
"""


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[str, str]]:
    """The content type and the page of the client library alone, by the Accept header."""
    env = live.environment(
        {"PROMETHEUS_DISABLE_CREATED_SERIES": "true"}, runtime=tmp_path_factory.mktemp("reference")
    )
    command = [sys.executable, "-c", REFERENCE, json.dumps(ACCEPTS)]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60, check=True)
    found: dict[str, tuple[str, str]] = json.loads(done.stdout)
    return found


@pytest.fixture(scope="module", params=servers.BOTH)
def server(request: pytest.FixtureRequest) -> Iterator[live.LiveServer]:
    """A server whose two workers have recorded, and whose collectors have answered."""
    with servers.start(request.param, app="typed:app", workers=2, WSGI_PROM_COLLECT_SECONDS="1") as server:
        with ThreadPoolExecutor(8) as pool:
            pids: set[bytes] = set()
            while len(pids) < 2:
                pids |= {answer.body for answer in pool.map(lambda _: server.get("/"), range(8))}
        live.eventually(server.scrape, lambda page: "c_gauge_seconds{" in page)
        yield server


def blocks(page: str) -> dict[str, list[str]]:
    """Return the lines of each metric by its head. One may be there twice: two names are one in some escapings."""
    found = re.split(r"^(?=# HELP )", page.removesuffix("# EOF\n"), flags=re.MULTILINE)
    return {lines.partition("\n")[0]: lines.splitlines() for lines in found if lines}


def asked(server: live.LiveServer, accept: str) -> tuple[str, str]:
    answer = server.get("", base=server.metrics_url, headers={"Accept": accept})
    assert 200 == answer.status
    return answer.headers["Content-Type"], answer.body.decode()


def mended(page: str) -> dict[str, list[str]]:
    """Return the blocks of a page of the client library without what breaks it."""
    # Prometheus takes no page with a unit that the name does not end with, and OpenMetrics has none with a space.
    page = re.sub(r"^# UNIT .*( a b|__s \u00b5s)\n", "", page, flags=re.MULTILINE)
    found = blocks(page)
    if page.endswith("# EOF\n"):
        # There a colon is an underscore in the names of samples, and none in the name of the metric.
        found = {head: lines for head, lines in found.items() if not head.startswith("# HELP t:")}
    return found


@pytest.mark.skipif(not hasattr(library, "ALLOWUTF8"), reason="the client library escapes names from 0.23 on")
@pytest.mark.parametrize("accept", [accept for accept in ACCEPTS if accept != UNEQUAL])
def test_the_page_of_two_workers_is_that_of_one_process(
    server: live.LiveServer, reference: dict[str, tuple[str, str]], accept: str
) -> None:
    """Each head and sample of the client library's page is on ours, spelled alike, and so is the content type."""
    content_type, page = asked(server, accept)
    assert reference[accept][0] == content_type
    expected, found = mended(reference[accept][1]), blocks(page)
    # The order of label sets is that in which workers have met them.
    assert {head: sorted(lines) for head, lines in expected.items()} == {
        head: sorted(found.get(head, [])) for head in expected
    }


@pytest.mark.parametrize("escaping", ESCAPINGS)
def test_both_formats_have_the_same_samples(server: live.LiveServer, escaping: str) -> None:
    """In each escaping text and OpenMetrics have the same samples, each once, spelled alike."""

    def samples(accept: str) -> list[str]:
        found = blocks(asked(server, f"{accept};escaping={escaping}")[1])
        lines = [line for head, lines in found.items() if not re.match(TELLING_TIME, head) for line in lines]
        return sorted(SAMPLE.match(line)[0] for line in lines if line[0] != "#")  # type: ignore[index]

    text, openmetrics = map(samples, FORMATS)
    assert text == openmetrics
    assert len(text) == len(set(text))


@pytest.mark.parametrize("escaping", ESCAPINGS[:2])
def test_the_librarys_parser_reads_openmetrics(server: live.LiveServer, escaping: str) -> None:
    """The strictest parser takes the page, units, exemplars and quoted names, but for what it takes from no page."""
    found = blocks(asked(server, f"{FORMATS[1]};escaping={escaping}")[1])
    page = [line for head, lines in found.items() if not re.match(REFUSED, head) for line in lines]
    families = {
        family.name: family
        for family in openmetrics_parser.text_string_to_metric_families("\n".join([*page, "# EOF", ""]))
    }
    odd = "t.wait_seconds" if escaping == "allow-utf-8" else "t_wait_seconds"
    assert ("histogram", "seconds") == (families[odd].type, families[odd].unit)
    assert {"id": "1"} == families["c_histogram"].samples[0].exemplar.labels


def test_promtool_reads_the_page(server: live.LiveServer) -> None:
    """promtool, which knows the text format and plain names, finds style to complain about and no error."""
    done = subprocess.run(
        ["promtool", "check", "metrics"],
        input=server.scrape(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    # 1 is a page that it cannot read, 3 one whose names it would not have given.
    assert 3 == done.returncode, done.stderr


def test_a_prometheus_server_takes_the_page(server: live.LiveServer, tmp_path: Path) -> None:
    """A real Prometheus, which asks for OpenMetrics, takes each sample; odd names have underscores, as 2.x knows no others."""
    target = server.metrics_url.removeprefix("http://").removesuffix("/metrics")
    with queries.prometheus(tmp_path, {target: {}}) as prometheus:
        assert 2 == live.eventually(
            lambda: prometheus.value('t_orders__ber_total{kunde_name="k",gr__e="g",plain="p"}'), bool
        )
        assert 2 == prometheus.value('t_ideographs_total{__="1"}')
        assert 2.0**54 == prometheus.value("t_counter_2_53_total")
        assert 0 == prometheus.value("scrape_samples_scraped - scrape_samples_post_metric_relabeling")
