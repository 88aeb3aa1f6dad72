"""
Other ways to run the two servers: without a master, with greenlets, with other forks, and dropping root at any time.
"""

from __future__ import annotations

import signal
import sys

import live
import pytest
import servers
from servers import value

UWSGI = ["--http-socket", "127.0.0.1:0", "--need-app", "--die-on-term", "--shared-import", "wsgi_prom.hooks.uwsgi",
         "--module", "wsgi_prom.wsgi:application"]  # fmt: skip
# With this option uWSGI 2.0.31 itself, without us, hangs in each worker on Python 3.13.
OSAFTERFORK = sys.version_info < (3, 13)
USER = ["--uid", "www-data", "--gid", "www-data"]

VARIANTS = {
    "one process": [],
    "no master": ["--processes", "3"],
    "gevent, uid": ["--master", "--gevent", "20", "--processes", "2", *USER],
    # The two options under which uWSGI runs Python's own callbacks after its fork.
    **(
        {"py-call-osafterfork": ["--master", "--py-call-osafterfork", "--processes", "2"]}
        if OSAFTERFORK
        else {}
    ),
    "py-call-uwsgi-fork-hooks, drop-after-apps": [
        *("--master", "--py-call-uwsgi-fork-hooks", "--enable-threads"),
        *("--drop-after-apps", "--processes", "2", *USER),
    ],
    "cheaper, master-as-root": [
        *("--master", "--processes", "4", "--cheaper", "1"),
        *("--master-as-root", *USER),
    ],
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_uwsgi_counts_exactly(variant: str) -> None:
    """Requests and the application's own counter are exact, and an import in the master is counted once."""
    options = VARIANTS[variant]
    command = live.for_any_user([live.BIN / "uwsgi", *UWSGI, *options])
    ready = (r"spawned uWSGI worker", 1)
    with live.LiveServer(
        command, env={"WSGI_PROM_APP": "metered:app"}, ready=ready, address=live.UWSGI_LINE
    ) as server:
        assert_exact(server, imports=1)
        if variant == "no master":
            # The first one does not end the others.
            for pid in server.workers():
                server.signal_child(pid, signal.SIGTERM)


@pytest.mark.parametrize("options", [(), ("--preload",)], ids=["gevent", "gevent preload"])
def test_gunicorn_with_greenlets_counts_exactly(options: tuple[str, ...]) -> None:
    """Counts are exact under gunicorn's gevent worker, which patches locks and threads."""
    with live.gunicorn("metered:app", "--worker-class", "gevent", *options, workers=2) as server:
        assert_exact(server, imports=1 if options else 2)


def assert_exact(server: live.LiveServer, imports: int) -> None:
    live.drive(server.url, ["/", "/record?kind=a&v=3", "/stream"] * 40)
    samples = live.eventually(server.samples, lambda found: value(found, "app_imports_total") == imports)
    assert {("/", "200"): 40, ("/record", "200"): 40, ("/stream", "200"): 40} == servers.requests_counted(
        samples
    )
    assert value(samples, "app_orders_total", kind="a") == 120
    assert value(samples, "app_imports_total") == imports
    assert value(samples, "http_requests_in_progress") == 0
    assert value(samples, "wsgi_prom_unreadable_files") == 0
