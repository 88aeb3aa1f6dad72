"""A server of several processes that share no directory: the page shows one of them, and the log says so."""

from __future__ import annotations

import logging
import os
from typing import Any
from wsgiref.util import setup_testing_defaults

import live
import pytest

from wsgi_prom import PrometheusMiddleware
from wsgi_prom.store.current_slot import current_slot

WARNING = "share no directory"
GUNICORN = "Start gunicorn with -c python:wsgi_prom.hooks.gunicorn, or set PROMETHEUS_MULTIPROC_DIR to"
UWSGI = (
    "Add shared-import = wsgi_prom.hooks.uwsgi to uWSGI's configuration, or set PROMETHEUS_MULTIPROC_DIR to"
)
OTHER = "one process at random. Set PROMETHEUS_MULTIPROC_DIR to"


def plain(_environ: Any, start_response: Any) -> Any:
    start_response("200 OK", [])
    return [b"ok"]


def warnings(environ: dict[str, Any], requests: int = 1) -> list[str]:
    """Return what *requests* of *environ* log of processes that share no directory."""
    lines: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger("wsgi_prom").addHandler(handler)
    measured = PrometheusMiddleware(plain)
    for _ in range(requests):
        setup_testing_defaults(environ)
        measured(dict(environ), lambda *_: lambda _data: None)
    return [line for line in lines if WARNING in line]


@pytest.mark.parametrize(
    ("more", "remedy"),
    [
        ({"SERVER_SOFTWARE": "gunicorn/27.0.1"}, GUNICORN),
        ({"uwsgi.version": b"2.0.31"}, UWSGI),
        ({"mod_wsgi.version": (5, 0, 0)}, OTHER),
    ],
    ids=["gunicorn", "uWSGI", "mod_wsgi"],
)
def test_the_first_request_warns_and_names_the_remedy(
    more: dict[str, Any], remedy: str, in_child: Any
) -> None:
    """The first request logs one warning with the remedy in the server's own terms."""
    (line,) = in_child(warnings, {"wsgi.multiprocess": True, **more}, 3)
    assert remedy in line


def test_a_server_of_one_process_is_not_warned_of(in_child: Any) -> None:
    """There is no warning if wsgi.multiprocess is false."""
    assert [] == in_child(warnings, {"wsgi.multiprocess": False})


def test_a_shared_directory_is_not_warned_of(in_child: Any, shared: Any) -> None:
    """There is no warning if the environment names a directory, or a hook will name one or has logged why it cannot."""

    def named() -> list[str]:
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(shared)
        return warnings({"wsgi.multiprocess": True})

    def deferred() -> list[str]:
        current_slot.defer()
        return warnings({"wsgi.multiprocess": True})

    assert ([], []) == (in_child(named), in_child(deferred))


@pytest.mark.parametrize(
    ("server", "remedy"),
    [
        (lambda: live.gunicorn("wrapped:app", workers=2, config=None), GUNICORN),
        (lambda: live.uwsgi(workers=2, hook=None), UWSGI),
    ],
    ids=["gunicorn", "uWSGI"],
)
def test_each_worker_of_a_real_server_warns_once(server: Any, remedy: str) -> None:
    """Each worker warns once, with the middleware by hand on gunicorn and wsgi_prom.wsgi:application alone on uWSGI."""
    with server() as running:
        pids = {running.get("/pid").body for _ in range(6)}
        log = running.log()
    assert len(pids) == log.count(WARNING)
    assert len(pids) == log.count(remedy)


def test_a_hook_that_each_worker_imports_says_what_is_wrong() -> None:
    """`import =` under lazy-apps loads the hook too late: each worker says so, and warns as without the hook."""
    options = ["--lazy-apps", "--import", "wsgi_prom.hooks.uwsgi"]
    with live.uwsgi(*options, workers=2, hook=None) as server:
        server.get("/")
        told = server.wait_for_log(r".*by import\n")[0]
        warned = server.wait_for_log(rf".*{WARNING}.*\n")[0]
    assert told.endswith(
        "] wsgi_prom: no metrics: load the hook by shared-import = wsgi_prom.hooks.uwsgi, not by import\n"
    )
    assert "] wsgi_prom: the processes of this server share no directory" in warned
