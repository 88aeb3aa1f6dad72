"""The processor time of requests, which is measured on request."""

from __future__ import annotations

import threading
from contextlib import suppress
from typing import Any

import live
import pytest
import servers
from apps import burning
from test_middleware import all_recorded, environ_of

from wsgi_prom import PrometheusMiddleware

NAME = "http_request_cpu_seconds"
ON = {"WSGI_PROM_CPU": "1"}
# In the main thread and in others.
WORKERS = ["gunicorn sync", "uwsgi threads"]
GREENLETS = {
    "gunicorn gevent": ("gunicorn sync", ("--worker-class", "gevent")),
    "uwsgi gevent": ("uwsgi prefork", ("--gevent", "4")),
    "uwsgi async": ("uwsgi prefork", ("--async", "4", "--ugreen")),
}


def cpu_of(samples: live.Samples, path: str) -> tuple[float | None, float | None]:
    count, total = (
        servers.value(samples, NAME + suffix, method="GET", route=path) for suffix in ("_count", "_sum")
    )
    return count, total


@pytest.mark.parametrize("name", WORKERS)
def test_a_route_that_computes_is_told_from_one_that_waits(name: str) -> None:
    """The processor time of a route is what its requests computed, streamed ones to their end, and not what they waited."""
    with servers.start(name, app="burning:app", **ON, workers=2) as server:
        for path in ("/burn", "/wait", "/stream"):
            for _ in range(2):
                server.get(path)
        samples = server.samples()
    found = {path: cpu_of(samples, path) for path in ("/burn", "/wait", "/stream")}
    assert {path: (2, pytest.approx(2 * burning.SECONDS, rel=0.1)) for path in ("/burn", "/stream")} == {
        path: found[path] for path in ("/burn", "/stream")
    }
    count, seconds = found["/wait"]
    assert count == 2
    assert seconds is not None
    assert 0 < seconds < burning.SECONDS / 2


@pytest.mark.parametrize("name", GREENLETS)
def test_requests_that_share_a_thread_have_no_processor_time(name: str) -> None:
    """Under greenlets and in uWSGI's async mode requests are counted, and no processor time is told."""
    server_name, options = GREENLETS[name]
    with servers.start(server_name, *options, app="burning:app", **ON, workers=1) as server:
        live.drive(server.url, ["/burn", "/wait", "/stream"])
        samples = server.samples()
    assert 3 == sum(servers.requests_counted(samples).values())
    assert [] == [name for name, _ in samples if name.startswith(NAME)]


def test_off_unless_it_is_asked_for(in_child: Any) -> None:
    """Without the setting there is no series; a keyword switches it on, and it has the labels that the settings add."""

    def work() -> list[list[str]]:
        found = []
        for keywords in ({}, {"cpu": True, "labels": {"team": "a"}}):
            list(
                PrometheusMiddleware(burning.app, **keywords)(environ_of(PATH_INFO="/burn"), lambda *_: None)
            )
            found.append([name for name in all_recorded() if name.startswith(NAME)])
        return found

    assert [[], [f"{NAME}_count{{GET,/burn,a}}", f"{NAME}_sum{{GET,/burn,a}}"]] == in_child(work)


def test_a_response_that_another_thread_sends_has_no_processor_time(in_child: Any) -> None:
    """A request that one thread begins and another ends is counted without it, since either thread knows a part."""

    def work() -> dict[str, float]:
        measured = PrometheusMiddleware(burning.app, cpu=True)
        chunks = measured(environ_of(PATH_INFO="/stream"), lambda *_: None)
        thread = threading.Thread(target=list, args=(chunks,))
        thread.start()
        thread.join()
        return all_recorded()

    found = in_child(work)
    assert found["http_requests_total{GET,/stream,200}"] == 1
    assert [] == [name for name in found if name.startswith(NAME)]


def test_a_request_that_fails_has_a_processor_time(in_child: Any) -> None:
    """What a request computed before its exception counts."""

    def fail(_environ: Any, _start_response: Any) -> Any:
        burning.burn(0.01)
        raise ValueError

    def work() -> dict[str, float]:
        with suppress(ValueError):
            PrometheusMiddleware(fail, cpu=True)(environ_of(), lambda *_: None)
        return all_recorded()

    found = in_child(work)
    assert found[f"{NAME}_count{{GET,unmatched}}"] == 1
    assert found[f"{NAME}_sum{{GET,unmatched}}"] >= 0.01
