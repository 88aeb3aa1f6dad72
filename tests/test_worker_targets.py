"""WSGI_PROM_TARGETS=workers: a page of each worker, at a port of its own, and the targets that the exporter's /sd tells."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import ssl
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import etcds
import live
import pytest
import servers

GEVENT = ("--worker-class", "gevent")
SERVERS = [
    ("gunicorn sync", ()),
    ("gunicorn gthread preload", ()),
    ("gunicorn sync preload", GEVENT),
    ("uwsgi prefork", ("--enable-threads",)),
    ("uwsgi lazy-apps", ("--enable-threads",)),
    ("uwsgi prefork", ("--gevent", "10", "--gevent-monkey-patch")),
]


def groups(server: live.LiveServer) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(live.request(server.metrics_url.replace("/metrics", "/sd")).body)
    return found


def wait_for(server: live.LiveServer, number: int) -> dict[str, str]:
    """Wait until *number* workers have a page; return the addresses by slot."""
    found = live.eventually(lambda: groups(server), lambda found: len(found) == number)
    return {group["labels"]["slot"]: group["targets"][0] for group in found}


def page(address: str, token: str | None = None) -> live.Response:
    return live.request(
        f"http://{address}/metrics", headers={"Authorization": f"Bearer {token}"} if token else None
    )


def samples(address: str) -> live.Samples:
    answer = page(address)
    assert 200 == answer.status, answer.body
    return live.parse_samples(answer.body.decode())


def listens(address: str) -> bool:
    host, port = address.split(":")
    with socket.socket() as probe:
        probe.settimeout(10)
        return probe.connect_ex((host, int(port))) == 0


def start(name: str, *options: str, workers: int = 2, **env: str) -> live.LiveServer:
    return servers.start(
        name,
        *options,
        app="worked:app",
        workers=workers,
        WSGI_PROM_TARGETS="workers",
        WSGI_PROM_SD="http",
        # A port that is free again is not another test's a moment later.
        **{"WSGI_PROM_BIND": f"{live.own_host()}:0", **env},
    )


@pytest.mark.parametrize(
    ("name", "options"), SERVERS, ids=[" ".join([name, *more]) for name, more in SERVERS]
)
def test_a_page_of_each_worker(name: str, options: tuple[str, ...]) -> None:
    """
    Each worker shows what it has counted itself, with its slot and its own process; all together that is what the exporter shows.
    When a worker is killed its port goes, and its successor is a target in the same slot; at the end all ports go.
    """
    with start(name, *options) as server:
        before = wait_for(server, 2)
        live.drive(server.url, ["/"] * 40)
        pages = {slot: samples(address) for slot, address in before.items()}
        merged = server.samples()
        counted = [servers.value(found, "work_seconds_count") or 0 for found in pages.values()]
        pids = server.workers()
        told = {
            dict(labels)["slot"]: dict(labels)["application"]
            for found in pages.values()
            for labels in live.labelled(found, "wsgi_prom_target_info")
        }
        server.signal_child(pids[0], signal.SIGKILL)
        after = live.eventually(lambda: wait_for(server, 2), lambda found: found != before)
        gone = set(before.values()) - set(after.values())
        closed = [address for address in gone if not listens(address)]
        successor = samples(next(address for slot, address in after.items() if before[slot] != address))
    assert (40, 40) == (sum(counted), servers.value(merged, "work_seconds_count"))
    assert (["0", "1"], 2) == (sorted(told), len(set(before.values())))
    assert {"gunicorn": "worked:app", "uwsgi": told["0"]}[name.split(maxsplit=1)[0]] == told["0"] == told["1"]
    assert all(servers.value(found, "process_resident_memory_bytes") for found in pages.values())
    assert (sorted(before), 1, list(gone)) == (sorted(after), len(gone), closed)
    # It goes on with the figures of its slot.
    assert servers.value(successor, "work_seconds_count") in counted
    assert [] == [address for address in after.values() if listens(address)]


def test_ports_of_a_range_belong_to_slots() -> None:
    """
    With a range a slot's worker has the same port again. A worker without a free one says so once, is counted, serves, and has a page as
    soon as a port is free.
    """
    with live.hold_port() as held:
        port = held.getsockname()[1]
        with start("gunicorn sync", WSGI_PROM_TARGETS_PORTS=f"{port}-{port}") as server:
            (first,) = wait_for(server, 1).values()
            server.wait_for_log(f"no port of WSGI_PROM_TARGETS_PORTS='{port}-{port}' is free")
            (failed,) = [
                value
                for labels, value in live.labelled(server.samples(), "wsgi_prom_errors_total").items()
                if ("stage", "target") in labels
            ]
            live.drive(server.url, ["/"] * 10)
            owner = next(pid for pid in server.workers() if str(port) in listening(pid))
            server.signal_child(owner, signal.SIGKILL)
            live.eventually(
                lambda: any(str(port) in listening(pid) for pid in server.workers() if pid != owner), bool
            )
            log = server.log()
        assert f"{live.own_host()}:{port}" == first
        assert failed >= 1
        assert (
            log.count("no port of WSGI_PROM_TARGETS_PORTS") <= 2
        )  # of the two workers, the second of which came later


def test_a_reload_switches_it_on_and_off(tmp_path: Path) -> None:
    """A reload of gunicorn with another WSGI_PROM_TARGETS changes the targets, and the former ports go."""
    (tmp_path / "gunicorn.conf.py").write_text(
        "from wsgi_prom.hooks.gunicorn import *\nraw_env = ['WSGI_PROM_TARGETS=' + open('targets').read()]\n"
    )
    (tmp_path / "targets").write_text("application")
    with live.gunicorn(
        "worked:app", workers=2, config="gunicorn.conf.py", cwd=tmp_path, WSGI_PROM_SD="http"
    ) as server:
        (before,) = groups(server)
        found = []
        for targets, number in (("workers", 2), ("application", 1)):
            (tmp_path / "targets").write_text(targets)
            server.kill(signal.SIGHUP)
            # The exporter is replaced: for a moment there is none, and the former one may tell of a worker that is left.
            expected = ["slot"] * number if targets == "workers" else []
            found.append(
                live.eventually(
                    lambda: groups_if_any(server),
                    lambda told, n=number, slots=expected: (
                        len(told) == n
                        and slots == [name for group in told for name in group["labels"] if name == "slot"]
                    ),
                )
            )
        live.eventually(
            lambda: any(listens(group["targets"][0]) for group in found[0]), lambda open_: not open_
        )
    assert before.keys() == found[1][0].keys()
    assert [True, True, False] == ["slot" in group["labels"] for told in found for group in told]


def groups_if_any(server: live.LiveServer) -> list[dict[str, Any]]:
    try:
        found = groups(server)
    except OSError:
        return []
    # With a former exporter's answer, targets that do not fit each other.
    return found if len({"slot" in group["labels"] for group in found}) == 1 else []


def listening(pid: int) -> list[str]:
    """Return the ports that process *pid* listens on."""
    import psutil

    try:
        return [
            str(found.laddr.port)
            for found in psutil.Process(pid).net_connections("tcp")
            if found.status == "LISTEN"
        ]
    except psutil.Error:
        return []


def test_who_may_read_a_workers_page(tmp_path: Path) -> None:
    """The exporter's token and TLS are those of the workers' pages, and of the page that tells the targets; Prometheus is told the scheme."""
    token, files = tmp_path / "token", etcds.certificates(tmp_path)
    token.write_text("secret")
    token.chmod(0o600)
    (tmp_path / "web.yml").write_text(
        f"tls_server_config: {{cert_file: {files['cert']}, key_file: {files['key']}}}\n"
    )
    settings = {
        "WSGI_PROM_BIND": "127.0.0.1:0",  # which the certificate names
        "WSGI_PROM_TOKEN_FILE": str(token),
        "WSGI_PROM_WEB_CONFIG": str(tmp_path / "web.yml"),
    }
    context = ssl.create_default_context(cafile=files["ca"])

    def get(url: str, given: str = "secret") -> tuple[int, bytes]:
        asked = urllib.request.Request(url, headers={"Authorization": f"Bearer {given}"})
        try:
            with urllib.request.urlopen(asked, context=context, timeout=60) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, b""

    with start("gunicorn sync", workers=1, **settings) as server:
        sd = server.wait_for_log(r"metrics at (https://\S+)/metrics")[1] + "/sd"
        (group,) = json.loads(live.eventually(lambda: get(sd)[1], lambda body: body not in {b"", b"[]"}))
        own = f"https://{group['targets'][0]}/metrics"
        statuses = [get(url, given)[0] for url in (sd, own) for given in ("guess", "secret")]
        with pytest.raises(OSError):
            page(group["targets"][0])
    assert ("https", [401, 200, 401, 200]) == (group["labels"]["__scheme__"], statuses)


def test_a_child_of_a_worker_does_not_keep_its_port() -> None:
    """A process that the application forks does not listen on the port, which is gone with the worker."""
    with start("gunicorn sync", workers=1) as server:
        (address,) = wait_for(server, 1).values()
        worker = int(server.get("/fork").body)
        (child,) = server.children(worker)
        # It closes the port as the first thing that it does, which may be after the answer of its parent.
        port = address.split(":")[1]
        ports = live.eventually(lambda: listening(child), lambda ports: port not in ports)
        server.signal_child(worker, signal.SIGKILL)
        live.eventually(lambda: listens(address), lambda listening: not listening)
        alive = child in server.processes()
        server.signal_child(child, signal.SIGKILL)
    assert (True, True) == (len(ports) == 1, alive)


def test_a_child_of_a_worker_does_not_keep_its_connections() -> None:
    """A client of the page learns of the worker's end while a process lives that the application had forked."""
    with start("gunicorn sync", workers=1) as server:
        (address,) = wait_for(server, 1).values()
        host, port = address.split(":")
        with socket.create_connection((host, int(port)), timeout=live.START_SECONDS) as client:
            client.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
            answered = client.recv(12)
            worker = int(server.get("/fork").body)
            (child,) = server.children(worker)
            server.signal_child(worker, signal.SIGKILL)
            with contextlib.suppress(ConnectionResetError):
                while client.recv(65536):
                    pass
        alive = child in server.processes()
        server.signal_child(child, signal.SIGKILL)
    assert (b"HTTP/1.1 200", True) == (answered, alive)


def test_a_page_whose_listener_was_closed() -> None:
    """Where the application has shut the page's socket down, a page is there again, and nothing is left of the former one."""

    def resources(pid: int) -> tuple[int, int, int]:
        """Return how many threads, descriptors, and locks of ports process *pid* has."""
        locks = [line.split() for line in Path("/proc/locks").read_text().splitlines()]
        held = [lock for lock in locks if lock[4] == str(pid) and int(lock[6]) >= 1 << 42]
        return len(os.listdir(f"/proc/{pid}/task")), len(os.listdir(f"/proc/{pid}/fd")), len(held)

    with start("gunicorn sync", workers=1) as server:
        (first,) = wait_for(server, 1).values()
        (worker,) = server.workers()
        page(first)
        before = resources(worker)
        server.get(f"/shut?{first.split(':')[1]}")
        server.wait_for_log(
            "a worker has no page of its own: waitress has closed its listener. It tries again"
        )
        (second,) = live.eventually(
            lambda: wait_for(server, 1).values(), lambda found: any(map(listens, found))
        )
        answered = page(second).status
        after = resources(worker)
    assert 200 == answered
    # A connection may not have been closed yet before, nor one after.
    assert (before[0], True, 1) == (after[0], after[1] <= before[1] + 1, after[2])


def test_what_one_target_per_worker_costs() -> None:
    """With eight workers a default histogram has 136 series where the merged page has 17: the figures of docs/discovery.md."""
    with start("gunicorn sync", workers=8) as server:
        addresses = wait_for(server, 8).values()
        live.drive(server.url, ["/"] * 8)
        merged = server.scrape()
        pages = [page(address).body.decode() for address in addresses]

    def series(text: str, prefix: str = "") -> int:
        return sum(line.startswith(prefix) and not line.startswith("#") for line in text.splitlines())

    of_histogram = sum(series(text, "work_seconds_") - series(text, "work_seconds_created") for text in pages)
    print(f"all: {sum(map(series, pages))} of workers, {series(merged)} merged")
    assert (136, 17) == (of_histogram, series(merged, "work_seconds_"))
