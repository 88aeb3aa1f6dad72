"""A real Prometheus finds the targets by file, by HTTP and by etcd, and loses those that have ended, however they ended."""

from __future__ import annotations

import json
import os
import signal
import stat
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

import etcds
import exporters
import live
import registered
import servers

from runner import proc
from wsgi_prom import setting_values
from wsgi_prom.discovery import registrar
from wsgi_prom.discovery.announcement import Registered
from wsgi_prom.discovery.targets import Targets
from wsgi_prom.settings import Settings

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


def test_prometheus_finds_the_workers_in_three_ways(tmp_path: Path) -> None:
    """
    Each way shows the same targets, with their labels, and all are up. After SIGKILL of a worker its address goes, and its successor
    is there with the same labels. At the end of the server no target is registered. (Prometheus looks for changes every 5 s.)
    """
    files, out = tmp_path / "files", tmp_path / "etcd" / "targets.json"
    for folder in (files, out.parent):
        folder.mkdir()
    with etcds.etcd(tmp_path / "data") as etcd:
        registries = f"file:{files / 'shop.json'},http,{etcd.url('shop')}"
        with servers.start(
            "gunicorn sync", workers=2, WSGI_PROM_TARGETS="workers", WSGI_PROM_SD=registries,
            WSGI_PROM_SD_SECONDS=registered.SECONDS, WSGI_PROM_APP="plain:app",
        ) as server, registered.follower(etcd.url("shop"), out):  # fmt: skip
            exporter = server.metrics_url.removesuffix("/metrics")
            jobs = {
                "file": {"file_sd_configs": [{"files": [f"{files}/*.json"]}]},
                "http": {"http_sd_configs": [{"url": f"{exporter}/sd", "refresh_interval": "1s"}]},
                "etcd": {"file_sd_configs": [{"files": [str(out)]}]},
            }
            with registered.prometheus(tmp_path, jobs) as prometheus:

                def targets() -> list[list[dict[str, Any]]]:
                    time.sleep(0.2)
                    return [prometheus.targets(job) for job in jobs]

                def agree(found: list[list[dict[str, Any]]]) -> bool:
                    return all(len(one) == 2 and addresses(one) == addresses(found[0]) for one in found)

                before = live.eventually(targets, agree)
                server.signal_child(server.workers()[0], signal.SIGKILL)
                after = live.eventually(
                    targets, lambda found: agree(found) and addresses(found[0]) != addresses(before[0])
                )
            mode = stat.S_IMODE((files / "shop.json").stat().st_mode)
        left = live.eventually(
            lambda: (etcd.targets("shop"), os.listdir(files)), lambda left: left == ([], [])
        )
    common = {"instance": exporter.removeprefix("http://"), "application": "plain:app", "server": "gunicorn"}
    expected = [{**common, "job": job, "slot": slot} for job in jobs for slot in ("0", "1")]
    assert expected == labels(before) == labels(after)
    assert 1 == len(set(addresses(before[0])) & set(addresses(after[0])))
    assert (0o644, ([], [])) == (mode, left)


def addresses(targets: list[dict[str, Any]]) -> list[str]:
    return [target["address"] for target in targets]


def labels(found: list[list[dict[str, Any]]]) -> list[dict[str, Any]]:
    return [
        {name: value for name, value in target.items() if name != "address"}
        for one in found
        for target in sorted(one, key=lambda target: str(target["slot"]))
    ]


def test_an_exporter_that_is_killed(tmp_path: Path) -> None:
    """
    A serving process that is killed registers its targets again. When all of the exporter is killed they go within their time; the
    registrar, when it is killed alone, is started again.
    """
    file = tmp_path / "shop.json"
    with etcds.etcd(tmp_path / "data") as etcd:
        with servers.start(
            "gunicorn sync",
            workers=1,
            WSGI_PROM_SD=f"file:{file},{etcd.url('shop')}",
            WSGI_PROM_SD_SECONDS=registered.SECONDS,
        ) as server:

            def both() -> tuple[Any, Any]:
                return registered.read(file), etcd.targets("shop")

            (first,), _ = live.eventually(both, lambda found: found[0] and found[0] == found[1])
            (registrar,) = registered.registrars(server)
            server.signal_child(registrar, signal.SIGKILL)
            live.eventually(
                lambda: registered.registrars(server), lambda found: found and found != [registrar]
            )
            registrars = registered.registrars(server)
            server.signal_child(servers.supervisor_and_serving(server)[1], signal.SIGKILL)
            live.eventually(
                lambda: registered.registrars(server), lambda found: len(found) == 1 and found != registrars
            )
            again = live.eventually(both, lambda found: found[0] and found[0] == found[1])
            servers.kill_exporter(server)
            gone = live.eventually(both, lambda found: found == (None, []))
            answered = server.get("/").status
    assert "gunicorn" == first["labels"]["server"]
    assert (([first], [first]), (None, []), 200) == (again, gone, answered)


def test_servers_share_a_directory_and_no_file(tmp_path: Path) -> None:
    """Two servers have a file each. One that is to have another's says so once, leaves it alone, and has it when the other has ended."""
    file = tmp_path / "shop.json"
    with registered.exporter(tmp_path / "one", f"file:{file}") as one:
        own = [registered.target(one)]
        live.eventually(lambda: registered.read(file), lambda found: found == own)
        with registered.exporter(tmp_path / "two", f"file:{file}") as two:
            two.wait_for_log(
                rf"WSGI_PROM_SD='file:{file}' is kept by another process. Give each server a file of its own"
            )
            with registered.exporter(tmp_path / "three", f"file:{tmp_path / 'blog.json'}") as three:
                other = live.eventually(lambda: registered.read(tmp_path / "blog.json"), bool)
                found = registered.read(file), other, [registered.target(three)]
            one.stop()
            taken = live.eventually(lambda: registered.read(file), lambda now: now and now != own)
            log = two.log()
            expected = [registered.target(two)]
    assert (own, True) == (found[0], found[1] == found[2])
    assert (expected, 1) == (taken, log.count("is kept by another process"))
    assert [] == [path.name for path in tmp_path.iterdir() if "json" in path.name]


def states(server: live.LiveServer) -> dict[str, float]:
    found = live.labelled(server.samples(), "wsgi_prom_registered")
    return {dict(labels)["registry"]: value for labels, value in found.items()}


def test_what_cannot_be_registered_is_told(tmp_path: Path) -> None:
    """A directory that is missing and a password that is open to others are told in one line each, and by the page, which is served."""
    file, password = tmp_path / "missing" / "shop.json", tmp_path / "password"
    password.write_text("secret")
    password.chmod(0o644)
    registries = f"file:{file},etcd://shop@127.0.0.1:1/shop"
    with registered.exporter(
        tmp_path / "shop", registries, WSGI_PROM_ETCD_PASSWORD_FILE=str(password)
    ) as server:
        server.wait_for_log(
            rf"WSGI_PROM_SD='file:{file}' cannot be written: No such file or directory\. Name a file in a "
        )
        server.wait_for_log(
            rf"WSGI_PROM_ETCD_PASSWORD_FILE='{password}' can be read or written by others\. Run chmod o-rwx on it"
        )
        told = {f"file:{file}": 0.0, "etcd://shop@127.0.0.1:1/shop": 0.0}
        assert told == states(server)
        file.parent.mkdir()
        assert live.eventually(lambda: registered.read(file), bool) == [registered.target(server)]
        told[f"file:{file}"] = 1.0
        live.eventually(lambda: states(server), lambda found: found == told)
        log = server.log()
    assert (1, 0) == (log.count("cannot be written"), log.count("secret"))


def test_an_exporter_that_is_replaced_stays_registered(tmp_path: Path) -> None:
    """At a reload that replaces the exporter, the targets are those of the new one; the file was never missing."""
    file = tmp_path / "shop.json"
    (tmp_path / "gunicorn.conf.py").write_text(
        "from wsgi_prom.hooks.gunicorn import *\nimport os\nraw_env = ['WSGI_PROM_SD_HOST=' + open('host').read()]\n"
    )
    (tmp_path / "host").write_text("127.0.0.1")
    with live.gunicorn(
        workers=1,
        config="gunicorn.conf.py",
        cwd=tmp_path,
        WSGI_PROM_SD=f"file:{file}",
        WSGI_PROM_SD_SECONDS="10",
    ) as server:
        live.eventually(lambda: registered.read(file), bool)
        (tmp_path / "host").write_text("web-1")
        server.kill(signal.SIGHUP)
        found = []

        def targets() -> list[str]:
            found.append(registered.read(file))
            return [target.split(":")[0] for group in found[-1] or [] for target in group["targets"]]

        live.eventually(targets, lambda hosts: hosts == ["web-1"])
    assert None not in found


def test_the_page_is_there_for_who_asks_for_it(tmp_path: Path) -> None:
    """/sd is JSON with `http` among the registries, and not there without; the 404 says what there is."""
    with registered.exporter(tmp_path / "one", "http") as server:
        base = server.metrics_url.removesuffix("/metrics")
        found, method = live.request(f"{base}/sd"), live.request(f"{base}/sd", method="POST").status
        other = live.request(f"{base}/other").body
        expected = [registered.target(server)]
    with exporters.serve(tmp_path / "two") as server:
        missing = live.request(server.metrics_url.replace("/metrics", "/sd")).status
    assert (200, "application/json", expected) == (
        found.status,
        found.headers["Content-Type"],
        json.loads(found.body),
    )
    assert (405, b"There are /, /live, /metrics, /sd, /-/healthy and /-/ready.\n", 404) == (
        method,
        other,
        missing,
    )


def test_a_registrar_that_cannot_be_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Where the registrar was killed, and no other can be started, nothing is shown as registered, which is logged once."""
    registry = setting_values.registry(f"file:{tmp_path / 'shop.json'}")
    monkeypatch.setenv("WSGI_PROM_SD", str(registry))
    monkeypatch.setenv("PYTHONPATH", str(live.ROOT))
    kept = Registered(Targets(tmp_path, setting_values.Address("127.0.0.1", 9464)), [registry])

    def shown() -> float:
        kept.keep()
        ((sample,),) = [family.samples for family in kept.collect()]
        return sample.value

    live.eventually(shown, lambda value: value == 1.0)
    (pid,) = [pid for pid in proc.children(os.getpid()) if " register " in live.command_line(pid)]
    monkeypatch.setattr(sys, "executable", "/missing/python")
    os.kill(pid, signal.SIGKILL)
    live.eventually(shown, lambda value: value == 0.0)
    live.eventually(lambda: shown() or len(caplog.messages), lambda found: found == 2)
    # For longer than until the next attempt.
    ended = time.monotonic() + 3
    found = {shown() for _ in iter(lambda: time.sleep(0.2) or time.monotonic() < ended, False)}
    kept.end(replaced=False)
    assert {0.0} == found
    assert [
        "the registrar of the targets has ended (status -9); it is started again",
        (
            "the targets are not registered: the registrar cannot be started ([Errno 2] No such file or directory: "
            "'/missing/python'). It is tried again, at least once a minute"
        ),
    ] == caplog.messages


def test_a_registrar_that_ends_again_and_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A registrar that registers and ends at once, as where there is no memory for it, is started less and less often."""
    program = tmp_path / "python"
    program.write_text(f"#!/bin/sh\necho started >> {tmp_path}/starts\necho 0 1\nexit 1\n")
    program.chmod(0o700)
    monkeypatch.setattr(sys, "executable", str(program))
    registry = setting_values.registry(f"file:{tmp_path / 'shop.json'}")
    now = [0.0]
    kept = Registered(
        Targets(tmp_path, setting_values.Address("127.0.0.1", 9464)), [registry], clock=lambda: now[0]
    )

    others = set(proc.children(os.getpid()))

    def running() -> list[int]:
        found = set(proc.children(os.getpid())) - others
        return [pid for pid in found if live.stat_fields(pid)[:1] not in ([], ["Z"])]

    for step in range(300):
        # Not whole seconds: it is looked at some time after a pause is over.
        now[0] = 1.1 * step
        kept.keep()
        assert [] == live.eventually(running, lambda found: not found)
    kept.end(replaced=False)
    assert 10 == (tmp_path / "starts").read_text().count("started")
    assert {"the registrar of the targets has ended (status 1); it is started again"} == set(caplog.messages)
    assert len(caplog.messages) <= 10


def test_a_registration_that_fails_begins_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """An error that no registration expects is logged once, and the targets are registered a moment later."""
    file, errors = tmp_path / "shop.json", [ZeroDivisionError("first"), ZeroDivisionError("first")]

    class Failing(Targets):
        def groups(self) -> list[dict[str, Any]]:
            if errors:
                raise errors.pop()
            return super().groups()

    settings = Settings.read({"WSGI_PROM_SD": f"file:{file}"})
    (told, page), (exporter, end) = os.pipe(), os.pipe()
    targets = Failing(tmp_path, setting_values.Address("127.0.0.1", 9464))
    thread = threading.Thread(target=registrar.run, args=(targets, settings, exporter, page))
    thread.start()
    try:
        state = os.read(told, 100)
        found = registered.read(file)
    finally:
        os.write(end, registrar.WITHDRAW)
        os.close(end)
        thread.join(live.STOP_SECONDS)
        for fd in (told, page, exporter):
            os.close(fd)
    assert (b"0 1\n", ["127.0.0.1:9464"]) == (state, found[0]["targets"] if found else None)
    assert 1 == sum("a failure of wsgi_prom (ZeroDivisionError: first)" in line for line in caplog.messages)
    assert not file.exists()
