"""Targets in a real etcd: kept through its outages, its loss of data and of members; and what is told of one that refuses."""

from __future__ import annotations

import contextlib
import http.server
import json
import os
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

import etcds
import live
import pytest
import registered

from wsgi_prom.discovery.etcd import Etcd, EtcdError
from wsgi_prom.discovery.lease import LeaseRegistration
from wsgi_prom.discovery.registration import End
from wsgi_prom.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def test_an_etcd_that_goes_and_comes_back(tmp_path: Path) -> None:
    """
    After an outage, after one with all data lost, after somebody has deleted the key or revoked its lease, the target is registered
    again, and the follower's file shows it; during an outage the file stays as it was. The exporter answers all the time.
    """
    out = tmp_path / "targets.json"
    with etcds.etcd(tmp_path / "data") as etcd:
        url = etcd.url("shop")
        with registered.exporter(tmp_path / "shop", url) as server, registered.follower(url, out) as follower:
            own = [registered.target(server)]
            shown = [live.eventually(lambda: registered.read(out), lambda found: found == own)]
            server.wait_for_log(r"targets are registered at etcd://")
            for forget in (False, True):
                etcd.stop(forget=forget)
                # It notices, and tells.
                server.wait_for_log(r"The targets are registered again as soon as possible", count=1 + forget)
                follower.wait_for_log(r"The targets stay as they were read last", count=1 + forget)
                shown.append(registered.read(out))
                assert 200 == live.request(server.metrics_url).status
                etcd.start()
                server.wait_for_log(r"targets are registered at etcd://", count=2 + forget)
                follower.wait_for_log(r"etcd://\S+ answers again", count=1 + forget)
                shown.append(live.eventually(lambda: etcd.targets("shop"), bool))
            etcd.post("kv/deleterange", key=etcds.coded("/shop/"), range_end=etcds.coded("/shop0"))
            shown.append(live.eventually(lambda: etcd.targets("shop"), bool))
            shown.append(live.eventually(lambda: registered.read(out), lambda found: found == own))
            (lease,) = etcd.post("lease/leases")["leases"]
            etcd.post("lease/revoke", **lease)
            server.wait_for_log(
                r"etcd has lost the lease. The targets are registered again as soon as possible"
            )
            shown.append(live.eventually(lambda: etcd.targets("shop"), bool))
            # Each outage is told once.
            told = (
                server.log().count("registered again as soon"),
                follower.log().count("as they were read last"),
            )
            assert (3, 2) == told
        assert [own] * len(shown) == shown
        assert [] == live.eventually(lambda: etcd.targets("shop"), lambda found: not found)


def test_a_history_that_is_compacted(tmp_path: Path) -> None:
    """The follower shows what comes after a compaction of all that it has seen, and leaves out what is no target, told once."""
    out = tmp_path / "targets.json"
    good = {"targets": ["web-2:9464"], "labels": {"instance": "web-2:9464"}}
    with etcds.etcd(tmp_path / "data") as etcd, registered.follower(etcd.url("shop"), out) as follower:
        live.eventually(lambda: registered.read(out), lambda found: found == [])
        for text in (
            "no JSON",
            "[]",
            '{"targets": [1], "labels": {}}',
            '{"targets": ["a:1"], "labels": {"a-b": "c"}}',
        ):
            etcd.put("/shop/web-1/bad", text)
        etcd.put("/shopping/web-1", '{"targets": ["other:1"], "labels": {}}')
        revision = etcd.post("kv/range", key=etcds.coded("/shop/web-1/bad"))["header"]["revision"]
        etcd.post("kv/compaction", revision=revision, physical=True)
        etcd.put("/shop/web-2/good", '{"targets": ["web-2:9464"], "labels": {"instance": "web-2:9464"}}')
        found = live.eventually(lambda: registered.read(out), bool)
        log = follower.log()
    assert ([good], 1) == (found, log.count("'/shop/web-1/bad' in etcd holds no target, and is left out"))


def test_members_that_are_lost(tmp_path: Path) -> None:
    """With three members, the loss of one, to which all are connected, leaves the target registered, and changes are followed."""
    out = tmp_path / "targets.json"
    with etcds.etcd(tmp_path / "data", 3) as etcd:
        url = etcd.url("shop")
        with registered.exporter(tmp_path / "shop", url) as server, registered.follower(url, out):
            own = registered.target(server)
            live.eventually(lambda: registered.read(out), lambda found: found == [own])
            for number, member in enumerate(etcd.members[:2]):
                other = {"targets": [f"web-{number}:1"], "labels": {}}
                member.stop(9)
                time.sleep(float(registered.SECONDS))  # of the lease, if nobody refreshes it
                etcd.put("/shop/other", json.dumps(other))
                expected = sorted([own, other], key=str)
                live.eventually(
                    lambda expected=expected: sorted(registered.read(out) or [], key=str) == expected, bool
                )
                member.start(etcd.cluster)
                assert member.server is not None
                member.server.wait_for_log(etcds.READY)


@contextlib.contextmanager
def no_etcd() -> Iterator[str]:
    """Serve HTTP that is none of etcd's, and yield the address."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"hello")

        def log_message(self, *_: Any) -> None: ...

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()


def problem(url: str, **files: Path) -> str:
    """Return what is told of the etcd at *url*, to which nothing can be written."""
    environ = {
        "WSGI_PROM_SD": url,
        **{f"WSGI_PROM_ETCD_{name.upper()}": str(path) for name, path in files.items()},
    }
    settings = Settings.read(environ)
    etcd = Etcd.of(settings.sd[0], settings)
    try:
        client = etcd.connect()
        client.put("/shop/a", "b", client.lease(5))
    except EtcdError as error:
        return str(error)
    except Exception as error:
        return str(etcd.error(error))
    return ""


def test_what_is_told_of_a_login_that_is_refused(tmp_path: Path) -> None:
    """
    Each message names the setting, its value and the remedy, and no password; with the right user nothing is told. A password that is
    corrected in its file is used at the next attempt.
    """
    password = tmp_path / "password"
    password.write_text("secret\n")
    password.chmod(0o600)
    told = {}
    with etcds.etcd(tmp_path / "data") as etcd:
        url = etcd.url("shop")
        named = {user: url.replace("://", f"://{user}@") for user in ("root", "bob")}
        told["no users"] = problem(named["bob"], password_file=password)
        for name in named:
            etcd.post("auth/user/add", name=name, password="secret")
        etcd.post("auth/user/grant", user="root", role="root")
        etcd.post("auth/enable")
        told["no user"] = problem(url)
        told["no right"] = problem(named["bob"], password_file=password)
        told["right"] = problem(named["root"], password_file=password)
        password.write_text("guessed")
        told["wrong"] = problem(named["bob"], password_file=password)
        settings = Settings.read(
            {"WSGI_PROM_SD": named["root"], "WSGI_PROM_ETCD_PASSWORD_FILE": str(password)}
        )
        kept = Etcd.of(settings.sd[0], settings)
        with pytest.raises(EtcdError, match="refuses the login"):
            kept.connect()
        password.write_text("secret")
        kept.check()
    bob = f"WSGI_PROM_SD={named['bob']!r}: etcd"
    assert {
        "no users": f"{bob} has no users, and the setting names one. Remove the user, and WSGI_PROM_ETCD_PASSWORD_FILE",
        "no user": f"WSGI_PROM_SD={url!r}: etcd wants a user. Name one, etcd://USER@HOST:PORT/PREFIX, and the file of the password "
        "by WSGI_PROM_ETCD_PASSWORD_FILE",
        "no right": f"{bob} does not permit 'bob' to do it. Grant read and write on the prefix /shop/",
        "right": "",
        "wrong": f"{bob} refuses the login of 'bob'. Correct the user, or the password in WSGI_PROM_ETCD_PASSWORD_FILE",
    } == told


def test_what_is_told_of_certificates(tmp_path: Path) -> None:
    """The same of TLS: of one that is missing on either side, of an unknown authority, of another host's name."""
    files = etcds.certificates(tmp_path)
    ca, own = {"ca_file": files["ca"]}, {"cert_file": files["cert"], "key_file": files["key"]}
    options = [
        "--cert-file",
        files["cert"],
        "--key-file",
        files["key"],
        "--client-cert-auth",
        "--trusted-ca-file",
        files["ca"],
    ]
    with etcds.etcd(tmp_path / "data", 1, *map(str, options), scheme="https") as etcd:
        plain = etcd.url("shop")
        url = plain.replace("etcd:", "etcds:")
        told = [
            problem(plain),
            problem(url),
            problem(url, **ca),
            problem(url.replace("127.0.0.1", "localhost"), **ca, **own),
        ]
        right = problem(url, **ca, **own)
    expected = [
        "the connection. If it speaks TLS, write etcds:// in place of etcd://",
        "the certificate of etcd does not verify (",
        "etcd refuses the client certificate, or wants one. Set WSGI_PROM_ETCD_CERT_FILE and WSGI_PROM_ETCD_KEY_FILE to",
        "the certificate of etcd does not verify (",
    ]
    assert [True] * 4 == [text in found for text, found in zip(expected, told, strict=True)], told
    assert all("Set WSGI_PROM_ETCD_CA_FILE to" in told[n] for n in (1, 3))
    assert "" == right


def test_what_is_told_of_something_else(tmp_path: Path) -> None:
    """The same of a port of etcd's own members, of another HTTP server, of nobody, and of TLS that etcd does not speak."""
    with etcds.etcd(tmp_path / "data") as etcd, no_etcd() as other, live.hold_port() as held:
        peer = etcd.members[0].peer.removeprefix("http://")
        told = [
            problem(f"etcd://{peer}/shop"),
            problem(f"etcd://{other}/shop"),
            problem(f"etcd://127.0.0.1:{held.getsockname()[1]}/shop"),
            problem(etcd.url("shop").replace("etcd:", "etcds:")),
        ]
    expected = [
        "what answers is not etcd's client port. Name that port, which is 2379 by default",
        "what answers is not etcd. Name etcd's client port, which is 2379 by default",
        "etcd does not answer as it should: Failed to establish a new connection: [Errno 111] Connection refused",
        "If it speaks no TLS, write etcd:// in place of etcds://",
    ]
    assert [True] * 4 == [text in found for text, found in zip(expected, told, strict=True)], told


def test_a_mistake_is_told_once_and_mended_without_a_restart(tmp_path: Path) -> None:
    """An exporter whose login is refused says so once, goes on, and registers as soon as etcd lets it."""
    password = tmp_path / "password"
    password.write_text("secret")
    password.chmod(0o600)
    with etcds.etcd(tmp_path / "data") as etcd:
        url = etcd.url("shop").replace("://", "://shop@")
        with registered.exporter(
            tmp_path / "shop", url, WSGI_PROM_ETCD_PASSWORD_FILE=str(password)
        ) as server:
            server.wait_for_log(r"has no users, and the setting names one.* It is tried again every 10 s")
            etcd.post("auth/user/add", name="root", password="secret")
            etcd.post("auth/user/add", name="shop", password="secret")
            for user in ("root", "shop"):
                etcd.post("auth/user/grant", user=user, role="root")
            etcd.post("auth/enable")
            server.wait_for_log(r"targets are registered at etcd://shop@")
            log = server.log()
    assert (1, 0) == (log.count("has no users"), log.count("secret"))


def test_a_right_that_is_missing_is_told_once(tmp_path: Path) -> None:
    """A follower whose user may log in, and not read the prefix, says so once, and shows the targets once the right is granted."""
    password, out = tmp_path / "password", tmp_path / "targets.json"
    password.write_text("secret")
    password.chmod(0o600)
    with etcds.etcd(tmp_path / "data") as etcd:
        etcd.put("/shop/a", json.dumps({"targets": ["a:1"], "labels": {}}))
        for user in ("root", "bob"):
            etcd.post("auth/user/add", name=user, password="secret")
        etcd.post("auth/user/grant", user="root", role="root")
        etcd.post("auth/enable")
        url = etcd.url("shop").replace("://", "://bob@")
        with registered.follower(url, out, WSGI_PROM_ETCD_PASSWORD_FILE=str(password)) as follower:
            follower.wait_for_log(r"does not permit 'bob' to do it")
            live.latest(lambda: None, lambda _: False, 3.0)
            assert 1 == follower.log().count("does not permit")
            token = etcd.post("auth/authenticate", name="root", password="secret")["token"]
            granted = live.request(
                f"http://{etcd.addresses}/v3/auth/user/grant",
                method="POST",
                headers={"Authorization": token},
                body=json.dumps({"user": "bob", "role": "root"}).encode(),
            )
            assert 200 == granted.status
            shown = live.eventually(lambda: registered.read(out), bool)
            assert [{"targets": ["a:1"], "labels": {}}] == shown
            assert 1 == follower.log().count("does not permit")


class Refusing:
    """An etcd that takes keys and gives leases, and refuses each refresh, as a proxy may."""

    registry = "etcd://127.0.0.1:2379/shop"

    def __init__(self) -> None:
        self.leases = 0

    def connect(self) -> Any:
        return self

    def lease(self, ttl: int) -> Any:
        self.leases += 1
        return self

    def refresh(self) -> int:
        raise EtcdError("etcd does not answer as it should: Not Found")

    def error(self, error: Exception) -> Exception:
        return error


def test_a_lease_that_can_never_be_refreshed_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    """Where etcd gives leases and refuses each refresh, that is told once, and another one is asked for less and less often."""
    etcd, end = Refusing(), End()
    caplog.set_level("INFO", logger="wsgi_prom")
    registration = LeaseRegistration(etcd, 1.0)  # type: ignore[arg-type]
    thread = threading.Thread(target=registration.run, args=(list, lambda _: None, end))
    thread.start()
    assert 3 == live.eventually(lambda: etcd.leases, lambda found: found == 3)
    end.event.set()
    thread.join()
    told = "etcd does not answer as it should: Not Found. It is tried again every 10 s"
    assert [told] == caplog.messages


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--etcd", "http://127.0.0.1:2379", "--out", "targets.json"], "--etcd is not a URL such as etcd://HOST:PORT/PREFIX"),
        (["--etcd", "etcd://a:secret@b:2379/shop", "--out", "targets.json"], "without a password"),
        (["--etcd", "etcd://a@b:2379/shop", "--out", "targets.json"], "--etcd='etcd://a@b:2379/shop': a user and a password are needed together. Set WSGI_PROM_ETCD_PASSWORD_FILE"),
        (["--etcd", "etcd://127.0.0.1:1/shop", "--out", "targets.yml"], "is not a file.json in a directory that exists"),
        (["--etcd", "etcd://127.0.0.1:1/shop", "--out", "targets.json", "--once"], "--etcd='etcd://127.0.0.1:1/shop': etcd does not answer as it should: "),
    ],
)  # fmt: skip
def test_what_the_follower_refuses(arguments: list[str], told: str, tmp_path: Path) -> None:
    """A wrong argument of `wsgi-prom sd` ends it with one line, which holds no password."""
    done = subprocess.run(
        [sys.executable, "-m", "wsgi_prom", "sd", *arguments], cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(live.ROOT)},
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert (1, 1, True) == (done.returncode, done.stderr.count("\n"), told in done.stderr), done.stderr
    assert "secret" not in done.stderr


def test_a_file_that_is_written_once(tmp_path: Path) -> None:
    """
    `wsgi-prom sd --once` writes the targets of now, and ends. What is no target is left out, and so is one with labels by which Prometheus
    would scrape otherwise than it is told, but for https; five of them are named.
    """
    good = {"targets": ["web-2:9464"], "labels": {"__scheme__": "https"}}
    refused = [
        {"__scheme__": "http"},
        {"__address__": "other:1"},
        {"__metrics_path__": "/admin"},
        {"__param_a": "b"},
        *[{"a-b": "c"}] * 4,
    ]
    with etcds.etcd(tmp_path / "data") as etcd:
        etcd.put("/shop/web-2/good", json.dumps(good))
        for number, labels in enumerate(refused):
            etcd.put(f"/shop/bad-{number}", json.dumps({"targets": ["web-2:9464"], "labels": labels}))
        command = [
            sys.executable,
            "-m",
            "wsgi_prom",
            "sd",
            "--once",
            "--etcd",
            etcd.url("shop"),
            "--out",
            "targets.json",
        ]
        environ = {**os.environ, "PYTHONPATH": str(live.ROOT)}
        done = subprocess.run(
            command, cwd=tmp_path, env=environ, timeout=60, check=True, capture_output=True, text=True
        )
    assert [good] == registered.read(tmp_path / "targets.json")
    named = [f"/shop/bad-{number}" in done.stderr for number in range(len(refused))]
    assert ([True] * 5 + [False] * 3, 6) == (named, done.stderr.count("\n"))
    assert "3 more keys in etcd hold no target, and are left out" in done.stderr


def test_a_password_that_can_be_read_on_the_way(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A login at another machine without TLS is told once, with the remedy."""
    password = tmp_path / "password"
    password.write_text("secret")
    password.chmod(0o600)
    for url in ("etcd://bob@127.0.0.1:1/a", "etcds://bob@192.0.2.1:1/b", *["etcd://bob@192.0.2.1:1/c"] * 2):
        settings = Settings.read({"WSGI_PROM_SD": url, "WSGI_PROM_ETCD_PASSWORD_FILE": str(password)})
        Etcd.of(settings.sd[0], settings)
    assert [
        "WSGI_PROM_SD='etcd://bob@192.0.2.1:1/c' gets the password without TLS: it can be read on the way. Write etcds:// if etcd has TLS"
    ] == caplog.messages
