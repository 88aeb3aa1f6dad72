"""uWSGI's stats server: where it is found, what it sends, and that a page shows of a real server what it says of itself."""

from __future__ import annotations

import contextlib
import signal
import socket
import threading
import time
from typing import TYPE_CHECKING, Any

import live
import pytest
from uwsgi_pages import samples, total, value

from wsgi_prom.server import uwsgi_stats

if TYPE_CHECKING:
    from collections.abc import Iterator

# The fields that say of a worker, an application, a core or a cache what the metric says, in the same unit.
WORKER = {
    "uwsgi_worker_accepting": "accepting", "uwsgi_worker_delta_requests": "delta_requests",
    "uwsgi_worker_signal_queue_length": "signal_queue", "uwsgi_worker_last_spawn_time_seconds": "last_spawn",
    "uwsgi_worker_requests_total": "requests", "uwsgi_worker_exceptions_total": "exceptions",
    "uwsgi_worker_harakiri_count_total": "harakiri_count", "uwsgi_worker_signals_total": "signals",
    "uwsgi_worker_transmitted_bytes_total": "tx",
}  # fmt: skip
APP = {
    "uwsgi_worker_app_startup_time_seconds": "startup_time", "uwsgi_worker_app_requests_total": "requests",
    "uwsgi_worker_app_exceptions_total": "exceptions",
}  # fmt: skip
CORE = {
    "uwsgi_worker_core_busy": "in_request",
    **{f"uwsgi_worker_core_{name}_total": name for name in
       ("requests", "static_requests", "routed_requests", "offloaded_requests", "write_errors", "read_errors")},
}  # fmt: skip
CACHE = {
    "uwsgi_cache_hits": "hits", "uwsgi_cache_misses": "miss", "uwsgi_cache_full": "full",
    "uwsgi_cache_items": "items", "uwsgi_cache_max_items": "max_items",
}  # fmt: skip
SOCKET = {
    "uwsgi_socket_queue_length": "queue", "uwsgi_socket_max_queue_length": "max_queue",
    "uwsgi_socket_shared": "shared", "uwsgi_socket_can_offload": "can_offload",
}  # fmt: skip


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, None),
        ({"stats": True}, None),
        ({"stats": b""}, None),
        ({"stats": b"127.0.0.1:1717"}, "127.0.0.1:1717"),
        ({b"stats": b"127.0.0.1:1717"}, "127.0.0.1:1717"),
        ({"stats-server": "10.0.0.1:1717"}, "10.0.0.1:1717"),
        ({"stats": b":1717"}, "127.0.0.1:1717"),
        ({"stats": b"0.0.0.0:1717"}, "127.0.0.1:1717"),
        ({"stats": b"localhost:1717"}, "127.0.0.1:1717"),
        ({"stats": b"[::]:1717"}, "[::1]:1717"),
        ({"stats": b"[fd00::1]:1717"}, "[fd00::1]:1717"),
        ({"stats": b"127.0.0.1:0"}, None),
        ({"stats": b"127.0.0.1:http"}, None),
        ({"stats": [b":1", b":2"]}, "127.0.0.1:2"),
        ({"stats": b"/run/stats"}, "unix:/run/stats"),
        ({"stats": b"@name"}, "unix:@name"),
        ({"stats": b"\\0name"}, "unix:@name"),
        ({"stats": b"name", "abstract-socket": True}, "unix:@name"),
        ({"stats": b":1717", "stats-http": True}, "http://127.0.0.1:1717"),
        ({"stats": b":1717", "stats-http": b"false"}, "127.0.0.1:1717"),
        ({"stats": b"/run/stats", "stats-http": b"true"}, "http://unix:/run/stats"),
        ({"stats-http": True}, None),
    ],
)  # fmt: skip
def test_the_address_is_what_the_options_say(options: dict[Any, Any], expected: str | None) -> None:
    assert expected == uwsgi_stats.address(options)


def test_a_relative_path_is_made_absolute(tmp_path, monkeypatch) -> None:
    """The exporter may run in another directory than the master."""
    monkeypatch.chdir(tmp_path)
    assert f"unix:{tmp_path}/stats" == uwsgi_stats.address({"stats": b"stats"})


@contextlib.contextmanager
def answering(*pieces: bytes, pause: float = 0, end: bool = True) -> Iterator[str]:
    """Listen, send *pieces* to the first client with a *pause* before each, and *end* the answer. Yields the address."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            connection, _ = listener.accept()
            with connection, contextlib.suppress(OSError):
                for piece in pieces:
                    time.sleep(pause)
                    connection.sendall(piece)
                if not end:
                    connection.recv(1)  # until the client has gone

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"127.0.0.1:{listener.getsockname()[1]}"
        thread.join(10)


@pytest.mark.parametrize(
    ("pieces", "pause", "end"),
    [([], 0, False), ([b"{"], 0, False), ([b" "] * 50, 0.05, True)],
    ids=["silent", "stuck", "trickling"],
)
def test_a_stats_server_that_is_slow_costs_the_timeout_and_no_more(
    pieces: list[bytes], pause: float, end: bool
) -> None:
    """Also one that sends a byte now and then."""
    with answering(*pieces, pause=pause, end=end) as address:
        started = time.monotonic()
        with pytest.raises(OSError, match=r"time|took"):
            uwsgi_stats.read(address, 0.3)
        assert time.monotonic() - started < 1


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"[]",
        b"1",
        b"null",
        b'{"a":',
        b"HTTP/1.0 404 no\r\n\r\nno",
        b"{" * 3,
        b'{"a":' + b"[" * 100_000,
        b"\x1f\x8b\x08",
    ],
    ids=lambda answer: repr(answer[:20]),
)
def test_an_answer_that_is_no_json_object_is_a_value_error(answer: bytes) -> None:
    with answering(answer) as address:
        with pytest.raises(ValueError):
            uwsgi_stats.read(address, 5)


def test_an_answer_without_end_is_a_value_error(monkeypatch) -> None:
    """Memory is bounded."""
    monkeypatch.setattr(uwsgi_stats, "MOST_BYTES", 1000)
    with answering(b"{" + b" " * 2000, end=False) as address:
        with pytest.raises(ValueError, match="1000 bytes"):
            uwsgi_stats.read(address, 5)


def test_bytes_that_uwsgi_does_not_escape_cost_nothing() -> None:
    """Control characters and bytes that are no UTF-8, as they come in a request's variables."""
    with answering(b'{"workers": [{"id": 1, "cores": [{"vars": ["HTTP_A=\x01\xff"]}]}]}') as address:
        assert 1 == value(samples(uwsgi_stats.read(address, 5)), "uwsgi_workers")


@pytest.mark.parametrize(
    "address", ["unix:/nowhere/stats", "unix:@nowhere", "127.0.0.1:1", "http://unix:/nowhere/stats"]
)
def test_a_stats_server_that_is_not_there_is_an_os_error(address: str) -> None:
    with pytest.raises(OSError):
        uwsgi_stats.read(address, 5)


def uwsgi(
    *options: str, workers: int = 1, ready: int | None = None, listen: str = "127.0.0.1:0"
) -> live.LiveServer:
    """Return a uWSGI that serves `uwsgi_stated:app` with *options*, of whose workers *ready* start at once."""
    command = [
        "--http-socket",
        listen,
        "--master",
        "--die-on-term",
        "--processes",
        str(workers),
        "--worker-reload-mercy",
        "5",
    ]
    return live.LiveServer(
        [live.BIN / "uwsgi", *command, *options],
        ready=(r"spawned uWSGI worker \d+", ready or workers),
        address=live.UWSGI_LINE,
    )


def stats_of(server: live.LiveServer) -> dict[str, Any]:
    # Its application is loaded before it listens there.
    server.wait_for_log("Stats server enabled on")
    address = server.wait_for_log(r"uwsgi_stated: stats at (\S+)")[1]
    return uwsgi_stats.read(address, 5)


def assert_samples_are_the_json(stats: dict[str, Any]) -> None:
    """Each figure of each worker, application, core, cache and TCP socket is the JSON's."""
    found = samples(stats)
    for worker in stats["workers"]:
        if worker["id"] == 0:
            continue
        labels = {"worker_id": str(worker["id"])}
        assert {name: worker[field] for name, field in WORKER.items()} == {
            name: value(found, name, **labels) for name in WORKER
        }
        assert worker["respawn_count"] - 1 == value(found, "uwsgi_worker_respawn_count_total", **labels)
        assert worker["running_time"] / 1e6 == value(found, "uwsgi_worker_running_time_seconds", **labels)
        assert worker["avg_rt"] / 1e6 == value(found, "uwsgi_worker_average_response_time_seconds", **labels)
        for status in ("busy", "idle", "cheap"):
            assert (worker["status"] == status) == value(found, f"uwsgi_worker_{status}", **labels)
        assert len(worker["apps"]) == value(found, "uwsgi_worker_apps", **labels)
        assert len(worker["cores"]) == value(found, "uwsgi_worker_cores", **labels)
        for app in worker["apps"]:
            more = {
                "app_id": str(app["id"]),
                "mountpoint": app["mountpoint"],
                "chdir": app["chdir"],
                **labels,
            }
            assert {name: app[field] for name, field in APP.items()} == {
                name: value(found, name, **more) for name in APP
            }
        for core in worker["cores"]:
            more = {"core_id": str(core["id"]), **labels}
            assert {name: core[field] for name, field in CORE.items()} == {
                name: value(found, name, **more) for name in CORE
            }
    for cache in stats.get("caches", []):
        assert {name: cache[field] for name, field in CACHE.items()} == {
            name: value(found, name, name=cache["name"]) for name in CACHE
        }
    for one in stats["sockets"]:
        labels = {"name": one["name"], "proto": one["proto"]}
        assert {name: one[field] for name, field in SOCKET.items()} == {
            name: value(found, name, **labels) for name in SOCKET
        }
    assert sum(worker["id"] > 0 for worker in stats["workers"]) == value(found, "uwsgi_workers")


@pytest.mark.parametrize(
    "options",
    [
        ["--stats", "@wsgi_prom-test"],
        ["--stats", "wsgi_prom-test", "--abstract-socket"],
        ["--stats-server", "PORT", "--stats-http", "--stats-minified"],
        ["--stats", "stats", "--stats-http", "--stats-no-cores"],
    ],
    ids=["abstract", "abstract-socket", "HTTP", "HTTP over unix, no cores"],
)  # fmt: skip
def test_the_stats_server_is_found_and_read_wherever_it_listens(options: list[str]) -> None:
    """By the server's own options alone."""
    with contextlib.closing(live.hold_port()) as held:
        address = f"127.0.0.1:{held.getsockname()[1]}"
        options = [address if option == "PORT" else option for option in options]
        with uwsgi(*options, "--module", "uwsgi_stated:app") as server:
            live.drive(server.url, ["/"] * 3)
            # A client has its response before uWSGI counts the request.
            stats = live.eventually(
                lambda: stats_of(server),
                lambda stats: total(samples(stats), "uwsgi_worker_requests_total") == 3,
            )
    assert 3 == value(samples(stats), "uwsgi_worker_requests_total", worker_id="1")
    if "--stats-no-cores" in options:
        assert not {name for name, _ in samples(stats) if "core" in name}
    else:
        # The master asks the kernel for the queue once a second.
        stats["sockets"] = [one for one in stats["sockets"] if one["max_queue"]]
        assert_samples_are_the_json(stats)


def test_a_busy_server_is_shown_as_it_says_itself() -> None:
    """cheaper, two mounts, threads, an exception, a harakiri, a spooler, a cron, a daemon that dies, and a cache."""
    options = [
        "--stats", "stats", "--cheaper", "1", "--threads", "2", "--harakiri", "2", "--memory-report", "--need-app",
        "--manage-script-name", "--mount", "/a=uwsgi_stated:app", "--mount", "/b=uwsgi_stated:app",
        "--spooler", "spool", "--spooler-processes", "2", "--attach-daemon", "sleep 0.5", "--cron", "-1 -1 -1 -1 -1 exec sleep 60",
        "--cache2", "name=first,items=100",
    ]  # fmt: skip
    with uwsgi(*options, workers=3, ready=1) as server:
        live.drive(server.url, ["/a/"] * 4 + ["/b/"] * 3 + ["/a/cache", "/b/spool"])
        with contextlib.suppress(OSError):
            server.get("/b/fail")
        before = live.eventually(
            lambda: stats_of(server),
            lambda stats: (
                total(samples(stats), "uwsgi_worker_requests_total") == 10
                and stats["sockets"][0]["max_queue"]
            ),
        )
        with contextlib.suppress(OSError):
            server.get("/a/sleep?s=30")
        live.eventually(lambda: total(samples(stats_of(server)), "uwsgi_worker_respawn_count_total"), bool)
        server.wait_for_log('respawning "sleep 0.5"')
        spooled = live.eventually(
            lambda: samples(stats_of(server)), lambda found: total(found, "uwsgi_spooler_tasks_total") == 1
        )
        after = stats_of(server)
        # uWSGI leaves it running when it ends. Without exec it would be the child of a shell.
        server.signal_child(after["crons"][0]["pid"], signal.SIGKILL)
    for stats in (before, after):
        assert_samples_are_the_json(stats)
    found = samples(after)
    assert 10 == total(samples(before), "uwsgi_worker_requests_total")
    assert {"/a": 5, "/b": 5} == {
        mount: sum(count for labels, count in live.labelled(samples(before), "uwsgi_worker_app_requests_total").items()
                   if ("mountpoint", mount) in labels)
        for mount in ("/a", "/b")
    }  # fmt: skip
    assert (
        1
        == total(found, "uwsgi_worker_exceptions_total")
        == total(found, "uwsgi_worker_app_exceptions_total")
    )
    assert 1 == total(found, "uwsgi_worker_harakiri_count_total")
    # A start by cheaper is none.
    assert 1 == total(found, "uwsgi_worker_respawn_count_total")
    assert 0 == total(samples(before), "uwsgi_worker_respawn_count_total")
    assert (1, 1, 1) == tuple(total(found, f"uwsgi_cache_{name}") for name in ("hits", "misses", "items"))
    assert 1 == total(spooled, "uwsgi_spooler_tasks_total")
    assert 2 == len(live.labelled(found, "uwsgi_spooler_running"))
    assert {frozenset({("cron_id", "0"), ("command", "exec")}): 1} == live.labelled(
        found, "uwsgi_cron_running"
    )
    assert abs(total(found, "uwsgi_cron_start_time_seconds") - time.time()) < 60
    assert {frozenset({("daemon_id", "0"), ("command", "sleep")})} == set(
        live.labelled(found, "uwsgi_daemon_running")
    )
    # Why its respawns are not shown: there was one at least.
    assert [0] == [daemon["respawns"] for daemon in after["daemons"]]
    assert 1000 < total(samples(before), "uwsgi_worker_rss_bytes") / 1024 < 1_000_000
    assert "uwsgi_lock_held" in {name for name, _ in found}


def waiting(path: str, count: int) -> list[socket.socket]:
    clients = [socket.socket(socket.AF_UNIX) for _ in range(count)]
    for client in clients:
        client.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            client.connect(path)
    return clients


def test_queues_and_memory_that_uwsgi_does_not_know_are_absent() -> None:
    """It says 0 for the queue of a unix socket in which connections wait, for errors, and for memory without memory-report."""
    options = ["--stats", "stats", "--module", "uwsgi_stated:app", "--listen", "3"]
    with uwsgi(*options, listen="app.sock") as server, contextlib.ExitStack() as clients:
        path = f"{server.folder}/app.sock"
        for client in waiting(path, 1):
            clients.enter_context(client).sendall(b"GET /sleep?s=6 HTTP/1.0\r\n\r\n")
        live.eventually(lambda: stats_of(server)["workers"][0]["status"], lambda status: status == "busy")
        for client in waiting(path, 8):
            clients.enter_context(client)
        time.sleep(1.2)  # the master asks once a second
        stats = stats_of(server)
    assert (0, 0, 0) == (stats["listen_queue"], stats["listen_queue_errors"], stats["sockets"][0]["queue"])
    assert (0, 0) == (stats["workers"][0]["rss"], stats["workers"][0]["vsz"])
    assert 1 == value(samples(stats), "uwsgi_worker_busy", worker_id="1")
    absent = {
        "uwsgi_listen_queue_length", "uwsgi_listen_queue_errors", "uwsgi_load", "uwsgi_socket_queue_length",
        "uwsgi_socket_max_queue_length", "uwsgi_worker_rss_bytes", "uwsgi_worker_vsz_bytes",
    }  # fmt: skip
    assert not absent & {name for name, _ in samples(stats)}


def test_the_queue_of_a_tcp_socket_is_the_kernels() -> None:
    """Connections that wait while the only worker is busy; and a suspended worker is shown as such."""
    with (
        uwsgi("--stats", "stats", "--module", "uwsgi_stated:app") as server,
        contextlib.ExitStack() as clients,
    ):
        host, port = server.url.removeprefix("http://").split(":")

        def ask(path: str) -> None:
            # With its request, without which TCP_DEFER_ACCEPT keeps a connection out of the queue.
            client = clients.enter_context(socket.create_connection((host, int(port))))
            client.sendall(f"GET {path} HTTP/1.0\r\n\r\n".encode())

        ask("/sleep?s=8")
        live.eventually(lambda: stats_of(server)["workers"][0]["status"], lambda status: status == "busy")
        for _ in range(4):
            ask("/")
        found = live.eventually(
            lambda: samples(stats_of(server)), lambda found: value(found, "uwsgi_listen_queue_length") == 4
        )
        server.kill(signal.SIGTSTP)
        paused = live.eventually(
            lambda: samples(stats_of(server)),
            lambda found: value(found, "uwsgi_worker_pause", worker_id="1") == 1,
        )
    assert 4 == value(found, "uwsgi_listen_queue_length") == value(found, "uwsgi_load")
    assert [4] == list(live.labelled(found, "uwsgi_socket_queue_length").values())
    assert 1 == value(paused, "uwsgi_worker_pause", worker_id="1")


def test_a_vassal_is_read_as_any_other_server() -> None:
    """By its own options, not its emperor's."""
    emperor = live.LiveServer(
        [live.BIN / "uwsgi", "--emperor", "vassals", "--die-on-term"], ready=(r"spawned uWSGI worker \d+", 2)
    )
    lines = ["[uwsgi]", "http-socket = 127.0.0.1:0", "master = true", f"stats = {emperor.folder}/stats", "processes = 2",
             "module = uwsgi_stated:app", "die-on-term = true", "worker-reload-mercy = 5"]  # fmt: skip
    vassals = emperor.folder / "vassals"
    vassals.mkdir()
    (vassals / "one.ini").write_text("\n".join(lines) + "\n")
    with emperor:
        found = live.eventually(lambda: stats_of(emperor), lambda stats: stats["sockets"][0]["max_queue"])
    assert_samples_are_the_json(found)
    assert 2 == value(samples(found), "uwsgi_workers")


def test_answers_are_whole_while_requests_come_and_go() -> None:
    """uWSGI reads the variables of requests that are being served as it writes the answer."""
    with uwsgi("--stats", "stats", "--threads", "2", "--module", "uwsgi_stated:app", workers=2) as server:
        done = threading.Event()

        def drive() -> None:
            while not done.is_set():
                live.drive(server.url, ["/"] * 50)

        thread = threading.Thread(target=drive)
        thread.start()
        try:
            requests = [total(samples(stats_of(server)), "uwsgi_worker_requests_total") for _ in range(100)]
        finally:
            done.set()
            thread.join()
    assert sorted(requests) == requests
    assert requests[-1] > 0


def test_greenlets_of_gevent_are_counted_and_have_no_series_each() -> None:
    """A worker has a core for each."""
    with uwsgi("--stats", "stats", "--gevent", "100", "--module", "uwsgi_stated:app") as server:
        live.drive(server.url, ["/"] * 3)
        found = live.eventually(
            lambda: samples(stats_of(server)), lambda found: total(found, "uwsgi_worker_requests_total") == 3
        )
    assert 3 == total(found, "uwsgi_worker_requests_total")
    assert 100 == value(found, "uwsgi_worker_cores", worker_id="1")
    assert not set(CORE) & {name for name, _ in found}
