"""The metrics that come of the JSON of uWSGI's stats server, right or wrong as it may be."""

from __future__ import annotations

import copy
import json
import re
import subprocess
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client.openmetrics.parser import text_string_to_metric_families
from uwsgi_pages import page, samples, total, value

from wsgi_prom.exporter.exposition import render
from wsgi_prom.server import uwsgi_metrics
from wsgi_prom.server.uwsgi_families import MOST_CORES, families

if TYPE_CHECKING:
    from collections.abc import Iterator

    import live

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
