"""The figures of uWSGI's stats server: where it is found, what it sends, and the metrics that come of it."""

from __future__ import annotations

import contextlib
import copy
import json
import re
import signal
import socket
import subprocess
import threading
import time
from typing import TYPE_CHECKING, Any

import live
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from wsgi_prom.exporter.exposition import render
from wsgi_prom.server import uwsgi_metrics, uwsgi_stats
from wsgi_prom.server.uwsgi_families import MOST_CORES, families

if TYPE_CHECKING:
    from collections.abc import Iterator

# pkg/collector/exporter.go of github.com/timonwong/uwsgi_exporter at 8e50e1b, whole, without the label stats_uri.
UWSGI_EXPORTER = [
    ("uwsgi_listen_queue_length", "gauge", ()),
    ("uwsgi_listen_queue_errors", "gauge", ()),
    ("uwsgi_signal_queue_length", "gauge", ()),
    ("uwsgi_workers", "gauge", ()),
    ("uwsgi_socket_queue_length", "gauge", ("name", "proto")),
    ("uwsgi_socket_max_queue_length", "gauge", ("name", "proto")),
    ("uwsgi_socket_shared", "gauge", ("name", "proto")),
    ("uwsgi_socket_can_offload", "gauge", ("name", "proto")),
    ("uwsgi_worker_accepting", "gauge", ("worker_id",)),
    ("uwsgi_worker_delta_requests", "gauge", ("worker_id",)),
    ("uwsgi_worker_signal_queue_length", "gauge", ("worker_id",)),
    ("uwsgi_worker_rss_bytes", "gauge", ("worker_id",)),
    ("uwsgi_worker_vsz_bytes", "gauge", ("worker_id",)),
    ("uwsgi_worker_running_time_seconds", "gauge", ("worker_id",)),
    ("uwsgi_worker_last_spawn_time_seconds", "gauge", ("worker_id",)),
    ("uwsgi_worker_average_response_time_seconds", "gauge", ("worker_id",)),
    ("uwsgi_worker_busy", "gauge", ("worker_id",)),
    ("uwsgi_worker_idle", "gauge", ("worker_id",)),
    ("uwsgi_worker_cheap", "gauge", ("worker_id",)),
    ("uwsgi_worker_requests_total", "counter", ("worker_id",)),
    ("uwsgi_worker_exceptions_total", "counter", ("worker_id",)),
    ("uwsgi_worker_harakiri_count_total", "counter", ("worker_id",)),
    ("uwsgi_worker_signals_total", "counter", ("worker_id",)),
    ("uwsgi_worker_respawn_count_total", "counter", ("worker_id",)),
    ("uwsgi_worker_transmitted_bytes_total", "counter", ("worker_id",)),
    ("uwsgi_worker_apps", "gauge", ("worker_id",)),
    ("uwsgi_worker_app_startup_time_seconds", "gauge", ("worker_id", "app_id", "mountpoint", "chdir")),
    ("uwsgi_worker_app_requests_total", "counter", ("worker_id", "app_id", "mountpoint", "chdir")),
    ("uwsgi_worker_app_exceptions_total", "counter", ("worker_id", "app_id", "mountpoint", "chdir")),
    ("uwsgi_worker_cores", "gauge", ("worker_id",)),
    ("uwsgi_worker_core_busy", "gauge", ("worker_id", "core_id")),
    ("uwsgi_worker_core_requests_total", "counter", ("worker_id", "core_id")),
    ("uwsgi_worker_core_static_requests_total", "counter", ("worker_id", "core_id")),
    ("uwsgi_worker_core_routed_requests_total", "counter", ("worker_id", "core_id")),
    ("uwsgi_worker_core_offloaded_requests_total", "counter", ("worker_id", "core_id")),
    ("uwsgi_worker_core_write_errors_total", "counter", ("worker_id", "core_id")),
    ("uwsgi_worker_core_read_errors_total", "counter", ("worker_id", "core_id")),
    ("uwsgi_cache_hits", "counter", ("name",)),
    ("uwsgi_cache_misses", "counter", ("name",)),
    ("uwsgi_cache_full", "counter", ("name",)),
    ("uwsgi_cache_items", "gauge", ("name",)),
    ("uwsgi_cache_max_items", "gauge", ("name",)),
    ("uwsgi_up", "gauge", ()),
    ("uwsgi_exporter_scrapes_total", "counter", ()),
    ("uwsgi_exporter_scrape_errors_total", "counter", ()),
    ("uwsgi_exporter_scrape_duration_seconds", "summary", ()),
    ("uwsgi_exporter_last_scrape_error", "gauge", ()),
]
# uWSGI does not count the errors; the others are about that exporter.
NOT_OURS = {name for name, _, _ in UWSGI_EXPORTER if name.startswith("uwsgi_exporter_")} | {
    "uwsgi_listen_queue_errors"
}
# A counter of OpenMetrics ends in _total.
UNTYPED = {"uwsgi_cache_hits", "uwsgi_cache_misses", "uwsgi_cache_full"}
MORE = [
    "uwsgi_load", "uwsgi_worker_pause", "uwsgi_worker_sig",
    "uwsgi_spooler_running", "uwsgi_spooler_tasks_total", "uwsgi_spooler_respawns_total",
    "uwsgi_daemon_running", "uwsgi_cron_running", "uwsgi_cron_start_time_seconds", "uwsgi_lock_held",
]  # fmt: skip

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

SECRET = "s3cret"
# As uWSGI 2.0.31 sends it, of one worker in a request, and one that cheaper has not started.
STATS: dict[str, Any] = {
    "version": "2.0.31", "listen_queue": 3, "listen_queue_errors": 0, "signal_queue": 0, "load": 3,
    "pid": 10, "uid": 0, "gid": 0, "cwd": "/srv",
    "daemons": [{"cmd": f"/usr/bin/celery --password {SECRET}", "pid": 11, "respawns": 0}],
    "locks": [{"user 0": 0}, {"spooler on /spool": 12}, {"spooler on /spool": 13}, {"cron": 0}],
    "caches": [{"name": "c", "items": 1, "max_items": 100, "hits": 2, "miss": 3, "full": 4}],
    "sockets": [
        {"name": "127.0.0.1:80", "proto": "http", "queue": 3, "max_queue": 100, "shared": 0, "can_offload": 0},
        {"name": "127.0.0.1:80", "proto": "http", "queue": 0, "max_queue": 0, "shared": 0, "can_offload": 0},
    ],
    "workers": [
        {
            "id": 1, "pid": 14, "accepting": 1, "requests": 5, "delta_requests": 2, "exceptions": 1,
            "harakiri_count": 1, "signals": 0, "signal_queue": 0, "status": "busy", "rss": 1024, "vsz": 4096,
            "running_time": 2500000, "last_spawn": 1795854704, "respawn_count": 2, "tx": 94, "avg_rt": 500,
            "apps": [{"id": 0, "modifier1": 0, "mountpoint": "/a", "startup_time": 1, "requests": 5, "exceptions": 1, "chdir": ""}],
            "cores": [{
                "id": 0, "requests": 5, "static_requests": 0, "routed_requests": 0, "offloaded_requests": 0,
                "write_errors": 0, "read_errors": 0, "in_request": 1,
                "vars": [f"HTTP_AUTHORIZATION={SECRET}", ""], "req_info": {"request_start": 1795854704, "uri": SECRET},
            }],
        },
        {"id": 0, "pid": 0, "accepting": 0, "requests": 0, "status": "cheap", "respawn_count": 0, "apps": [], "cores": []},
    ],
    "spoolers": [{"dir": "/spool", "pid": 15, "tasks": 7, "respawns": 1, "running": 1}],
    "crons": [{"minute": -1, "command": f"TOKEN={SECRET} backup", "unique": 0, "pid": -1, "started_at": 0},
              {"minute": -1, "command": "sh x", "unique": 0, "pid": 16, "started_at": 1795854705}],
}  # fmt: skip


def figures() -> list[tuple[str, str, tuple[str, ...]]]:
    """Return name, type and labels of every metric in the table."""
    sections = [
        section for section in vars(uwsgi_metrics).values() if isinstance(section, uwsgi_metrics.Section)
    ]
    found = [(figure.name, figure.type, section.labels) for section in sections for figure in section.figures]
    return [*found, (uwsgi_metrics.UP.name, uwsgi_metrics.UP.type, ())]


def page(stats: dict[str, Any] | None) -> str:
    return render((), families(stats))


def samples(stats: dict[str, Any] | None) -> live.Samples:
    return live.parse_samples(page(stats))


def value(found: live.Samples, name: str, /, **labels: str) -> float | None:
    return found.get((name, frozenset(labels.items())))


def total(found: live.Samples, name: str) -> float:
    return sum(live.labelled(found, name).values())


def test_names_types_and_labels_are_those_of_uwsgi_exporter() -> None:
    """Every metric of uwsgi_exporter is there, but for those that are about itself and one that uWSGI never counts."""
    theirs = [
        (name, "untyped" if name in UNTYPED else kind, labels)
        for name, kind, labels in UWSGI_EXPORTER
        if name not in NOT_OURS
    ]
    ours = figures()
    assert sorted(theirs) == sorted(figure for figure in ours if figure[0] not in MORE)
    assert sorted(MORE) == sorted({name for name, _, _ in ours} - {name for name, _, _ in theirs})


def test_a_page_shows_the_names_and_types_of_the_table_and_passes_promtool() -> None:
    """In the text format, and the same samples in OpenMetrics."""
    text = page(STATS)
    shown = set(re.findall(r"^# TYPE (\S+) (\S+)$", text, re.MULTILINE))
    assert {(name, kind) for name, kind, _ in figures()} == shown
    checked = subprocess.run(
        ["promtool", "check", "metrics"], input=text, capture_output=True, text=True, check=False
    )
    assert (0, "", "") == (checked.returncode, checked.stdout, checked.stderr)
    openmetrics = render((), families(STATS), openmetrics=True)
    parsed = {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(openmetrics)
        for sample in family.samples
    }
    assert samples(STATS) == parsed


def test_what_uwsgi_counts_wrong_is_right_or_absent() -> None:
    """The first start is no respawn; a queue and memory that were not measured are not 0; stand-by workers are none."""
    found = samples(STATS)
    assert 1 == value(found, "uwsgi_worker_respawn_count_total", worker_id="1")
    assert 3 == value(found, "uwsgi_socket_queue_length", name="127.0.0.1:80", proto="http")
    assert 1 == value(found, "uwsgi_workers")
    assert 2 == value(found, "uwsgi_lock_held", name="spooler on /spool")
    assert 2.5 == value(found, "uwsgi_worker_running_time_seconds", worker_id="1")
    assert 0.0005 == value(found, "uwsgi_worker_average_response_time_seconds", worker_id="1")
    stats = copy.deepcopy(STATS)
    stats["workers"][0] |= {"rss": 0, "vsz": 0}
    stats["sockets"].append({"name": "/app.sock", "proto": "uwsgi", "queue": 0, "max_queue": 0, "shared": 0})
    lost = {name for name, _ in found} - {name for name, _ in samples(stats)}
    assert {
        "uwsgi_listen_queue_length",
        "uwsgi_load",
        "uwsgi_worker_rss_bytes",
        "uwsgi_worker_vsz_bytes",
    } == lost
    unix = {name for name, labels in samples(stats) if ("name", "/app.sock") in labels}
    assert {"uwsgi_socket_shared"} == unix


@pytest.mark.parametrize("status", ["busy", "idle", "cheap", "pause", "sig17", "other", None])
def test_a_worker_has_one_status_at_most(status: str | None) -> None:
    """The gauge of its status is 1 and all others 0; all are 0 for one that is unknown, and absent without one."""
    stats: dict[str, Any] = {"workers": [{"id": 1, "status": status}]}
    names = ["busy", "idle", "cheap", "pause", "sig"]
    found = [value(samples(stats), f"uwsgi_worker_{name}", worker_id="1") for name in names]
    expected = [None if status is None else float(status.startswith(name)) for name in names]
    assert expected == found


def test_nothing_of_a_request_and_no_argument_of_a_command_is_shown() -> None:
    """Neither variables nor the request line, nor what a command line may hold."""
    assert SECRET in json.dumps(STATS)
    assert SECRET not in page(STATS)
    assert {"celery", "", "sh"} == {
        dict(labels)["command"] for _, labels in samples(STATS) if "command" in dict(labels)
    }


def test_workers_with_very_many_cores_have_no_series_for_each() -> None:
    """Their number is shown."""
    stats = copy.deepcopy(STATS)
    stats["workers"][0]["cores"] = [{"id": number, "requests": 1} for number in range(MOST_CORES + 1)]
    found = samples(stats)
    assert MOST_CORES + 1 == value(found, "uwsgi_worker_cores", worker_id="1")
    assert not [name for name, _ in found if name.startswith("uwsgi_worker_core_")]


def test_an_answer_that_could_not_be_read_is_told() -> None:
    """`uwsgi_up` 0, and nothing else."""
    assert {("uwsgi_up", frozenset()): 0.0} == samples(None)
    assert 1.0 == value(samples({}), "uwsgi_up")


WRONG = [
    None,
    True,
    -1,
    2**64 - 1,
    float("nan"),
    float("inf"),
    "1",
    "\ud800",
    [],
    {},
    [None],
    [[]],
    {"a": []},
]


def places(found: Any, *above: Any) -> Iterator[tuple[Any, ...]]:
    """Return the path of everything in a JSON document."""
    pairs = found.items() if isinstance(found, dict) else enumerate(found) if isinstance(found, list) else ()
    for key, inner in pairs:
        yield (*above, key)
        yield from places(inner, *above, key)


def replaced(path: tuple[Any, ...], wrong: Any) -> dict[str, Any]:
    stats = copy.deepcopy(STATS)
    inner: Any = stats
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = wrong
    return stats


@pytest.mark.parametrize("wrong", WRONG, ids=repr)
def test_a_wrong_value_anywhere_costs_what_is_read_from_it_alone(wrong: Any) -> None:
    """A figure of a worker that is wrong leaves all others of all objects as they are."""

    def read(stats: dict[str, Any]) -> live.Samples:
        found = [sample for family in families(stats) for sample in family.samples]
        return {(sample.name, frozenset(sample.labels.items())): sample.value for sample in found}

    whole = read(STATS)
    for path in places(STATS):
        found = read(replaced(path, wrong))
        if path[:2] == ("workers", 0) and len(path) == 3 and path[2] not in {"id", "apps", "cores"}:
            changed = {name for name, labels in whole if found.get((name, labels)) != whole[name, labels]}
            assert len(changed) <= (5 if path[2] == "status" else 1), path


def test_text_that_has_no_utf8_form_costs_nothing() -> None:
    """JSON may hold half of a surrogate pair."""
    stats = {"workers": [{"id": 1, "apps": [{"id": 0, "mountpoint": "/\ud800", "requests": 2}]}]}
    assert 2 == total(samples(stats), "uwsgi_worker_app_requests_total")
    assert "mountpoint" in render((), families(stats), openmetrics=True)


KEYS = st.sampled_from(sorted({str(path[-1]) for path in places(STATS)}))
LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3)
NESTED = st.recursive(LEAVES, lambda inner: st.lists(inner) | st.dictionaries(KEYS, inner), max_leaves=12)


@settings(max_examples=40)
@given(st.dictionaries(st.sampled_from(sorted(STATS)), NESTED))
def test_no_document_at_all_raises(stats: dict[str, Any]) -> None:
    """Whatever a stats server sends, a page comes of it in both formats."""
    assert page(stats)
    assert render((), families(stats), openmetrics=True)


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
        ["--stats", "stats"],
        ["--stats", "@wsgi_prom-test"],
        ["--stats", "wsgi_prom-test", "--abstract-socket"],
        ["--stats-server", "PORT"],
        ["--stats", "PORT", "--stats-http", "--stats-minified"],
        ["--stats", "stats", "--stats-http", "--stats-no-cores"],
    ],
    ids=["unix", "abstract", "abstract-socket", "TCP", "HTTP", "HTTP over unix, no cores"],
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
            clients.enter_context(client).sendall(b"GET /sleep?s=3 HTTP/1.0\r\n\r\n")
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

        ask("/sleep?s=4")
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
    with live.LiveServer([live.BIN / "uwsgi", "--emperor", "vassals", "--die-on-term"]) as emperor:
        vassals = emperor.folder / "vassals"
        vassals.mkdir()
        stats = emperor.folder / "stats"
        lines = ["[uwsgi]", "http-socket = 127.0.0.1:0", "master = true", f"stats = {stats}", "module = uwsgi_stated:app",
                 "processes = 2", "die-on-term = true"]  # fmt: skip
        (vassals / "one.ini").write_text("\n".join(lines) + "\n")
        emperor.wait_for_log(r"spawned uWSGI worker \d+", count=2)
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
