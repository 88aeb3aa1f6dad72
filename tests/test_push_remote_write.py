"""Remote write: a real Prometheus has a scrape's figures, also after an outage; what is asked, answered and told."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import socket
import ssl
import struct
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

import cramjam
import etcds
import live
import pushed
import pytest
from queries import Prometheus
from samples import parse_samples

from wsgi_prom.cli import main
from wsgi_prom.errors import SettingError
from wsgi_prom.exporter.exposition import render
from wsgi_prom.merge.collector import Collector
from wsgi_prom.push.login import Login
from wsgi_prom.push.remote_write import RemoteWrite
from wsgi_prom.push.sender import PushError
from wsgi_prom.push.write_request import write_request

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

OWN = {"job": "shop", "instance": "web-1"}
NOBODY = Login()
READABLE = f"Name a file that this server's user (uid {os.geteuid()}) can read."


@pytest.fixture
def receiver() -> Iterator[pushed.Http]:
    with pushed.http() as found:
        yield found


def remote_write(url: str, login: Login = NOBODY, seconds: float = 10.0) -> RemoteWrite:
    return RemoteWrite(url, login, OWN, seconds)


def send(remote_write: RemoteWrite, *metrics: Any, time: float = 1000.0) -> None:
    remote_write.send(pushed.reading(*metrics, time=time), threading.Event())


def refusal(remote_write: RemoteWrite) -> str:
    """Send once, and return what is told of it."""
    ended = threading.Event()
    ended.set()
    with pytest.raises(PushError) as raised:
        remote_write.send(pushed.reading(pushed.gauge("a", (), 1), time=1000.0), ended)
    return str(raised.value)


def decoded(body: bytes) -> Any:
    request = write_request()()
    request.ParseFromString(bytes(cramjam.snappy.decompress_raw(body)))
    return request


def written(body: bytes) -> list[tuple[list[tuple[str, str]], list[tuple[float, int]]]]:
    """Return the labels of each series of *body*, and its samples."""
    return [
        (
            [(label.name, label.value) for label in series.labels],
            [(sample.value, sample.timestamp) for sample in series.samples],
        )
        for series in decoded(body).timeseries
    ]


def test_a_real_prometheus(shared: Path, tmp_path: Path) -> None:
    """
    Prometheus has for each series of the application the figure that a page of the directory shows, and no other series. While it is
    away nothing is kept but counted, and logged once; back, it has the figures of then. A gauge whose process ended is gone at once, and
    so are all series at the end of the command.
    """
    (tmp_path / "prometheus.yml").write_text("{}")
    with live.hold_port() as held, pushed.application(shared) as record:
        address = f"127.0.0.1:{held.getsockname()[1]}"
        command = ["prometheus", f"--config.file={tmp_path}/prometheus.yml", f"--web.listen-address={address}",
                   f"--storage.tsdb.path={tmp_path}/data", "--web.enable-remote-write-receiver"]  # fmt: skip

        def prometheus() -> live.LiveServer:
            return live.LiveServer(
                command, ready=(r"ready to receive web requests", 1), url=f"http://{address}", stop_signal=9
            )

        def shown(server: live.LiveServer) -> dict[Any, float]:
            found = Prometheus(server).query('{__name__=~"shop_.*",job="shop",instance="web-1"}')
            return {
                (
                    item["metric"].pop("__name__"),
                    frozenset(item["metric"].items() - OWN.items()),
                ): item["value"]
                for item in found
            }

        def page() -> dict[Any, float]:
            found = parse_samples(render(Collector(shared).collect()))
            return {key: value for key, value in found.items() if key[0].startswith("shop_")}

        record("book", 3, -4.5, [0.2, 9.0])
        options = ["--remote-write", f"http://{address}/api/v1/write", "--job", "shop", "--instance", "web-1"]
        with prometheus() as server, pushed.pushing(shared, *options) as push:
            figures = [(page(), live.eventually(lambda: shown(server), lambda found: found == page()))]
            server.stop()
            push.wait_for_log(r"does not answer")
            record("game", 1, 7)
            record("book", 0.5, 7)
            with prometheus() as again:
                push.wait_for_log(r"works again; \d+ readings were not sent")
                figures.append((page(), live.eventually(lambda: shown(again), lambda found: found == page())))
                record.__self__.stop()
                live.eventually(lambda: shown(again), lambda found: found == page())
                gone = ("shop_balance", frozenset()) not in shown(again)
                lost = Prometheus(again).query('wsgi_prom_push_lost_samples_total{to="remote_write"}')
                push.kill(15)
                assert 0 == push.wait()
                left = shown(again)
                log = push.log()
    assert {} == left
    assert all(pages == stored for pages, stored in figures)
    assert [8, 9] == [len(pages) for pages, _ in figures]
    assert gone
    assert lost[0]["value"] > 0
    assert 1 == log.count("does not answer")


def test_what_is_asked(receiver: pushed.Http) -> None:
    """
    The headers are the specification's. Labels are sorted, empty ones are absent, `job` and `instance` are added, and a metric's own
    are renamed. Times are milliseconds. Metadata are sent once. A series that is gone is marked as stale, once.
    """
    remote = remote_write(receiver.url)
    hits = pushed.counter("hits", (("a", ""), ("job", "own"), ("z", "1")), 2)
    wait = pushed.histogram("wait", (), {"1.0": 1, "+Inf": 2}, 3.5)
    send(remote, hits, wait, time=1.0004)
    send(remote, hits, time=2.0)
    send(remote, hits, time=3.0)
    environ = receiver.requests[0][0]
    names = ("CONTENT_TYPE", "HTTP_CONTENT_ENCODING", "HTTP_X_PROMETHEUS_REMOTE_WRITE_VERSION")
    assert ["application/x-protobuf", "snappy", "0.1.0"] == [environ[name] for name in names]
    assert environ["HTTP_USER_AGENT"].startswith("wsgi_prom/")
    metadata, first, described, second, third = receiver.bodies
    assert [("hits_total", 1, "Help."), ("wait", 3, "Help.")] == [
        (item.metric_family_name, item.type, item.help) for item in decoded(metadata).metadata
    ]
    assert 1 == len(decoded(described).metadata)
    own = [("instance", "web-1"), ("job", "shop")]
    hits_labels = [("__name__", "hits_total"), ("exported_job", "own"), *own, ("z", "1")]
    buckets = [
        ([("__name__", "wait_bucket"), *own, ("le", le)], [(count, 1000)])
        for le, count in (("1.0", 1.0), ("+Inf", 2.0))
    ]
    others = [
        ([("__name__", f"wait_{name}"), *own], [(value, 1000)])
        for name, value in (("count", 2.0), ("sum", 3.5))
    ]
    assert [(hits_labels, [(2.0, 1000)]), *buckets, *others] == written(first)
    stale = {tuple(labels): samples for labels, samples in written(second) if labels != hits_labels}
    assert {tuple(labels) for labels, _ in [*buckets, *others]} == set(stale)
    assert {(struct.pack("<Q", 0x7FF0000000000002), 2000)} == {
        (struct.pack("<d", value), time) for ((value, time),) in stale.values()
    }
    assert [(hits_labels, [(2.0, 3000)])] == written(third)


def test_answers(receiver: pushed.Http) -> None:
    """429, with its pause, and 5xx are tried again with the same samples; another 4xx loses its batch alone. Batches are bounded."""
    remote = remote_write(receiver.url)
    many = pushed.metric(
        "gauge", "many", *(((("n", str(n)),), [pushed.Sample("many", (), n)]) for n in range(4500))
    )
    taken = pushed.Answer()
    later = pushed.Answer("429 Too Many Requests", (("Retry-After", "1"),))
    receiver.answers += [taken, later, pushed.Answer("503 Service Unavailable"), taken]
    receiver.answers += [pushed.Answer("400 Bad Request", body=b"out of order\n"), taken]
    with pytest.raises(PushError) as raised:
        send(remote, many)
    sizes = [len(written(body)) for body in receiver.bodies]
    assert [0, 2000, 2000, 2000, 2000, 500] == sizes
    assert receiver.bodies[1] == receiver.bodies[2] == receiver.bodies[3]
    assert (2000, True) == (raised.value.lost, raised.value.lasting)
    assert f"--remote-write='{receiver.url}' answers 400 (out of order). It should be a receiver" in str(
        raised.value
    )


@pytest.mark.parametrize(
    "status", ["500 Internal Server Error", "501 Not Implemented", "507 Storage", "599 Other"]
)
def test_all_of_5xx_is_tried_again(status: str, receiver: pushed.Http) -> None:
    """The specification asks for it, whatever the number."""
    receiver.answers += [pushed.Answer(), pushed.Answer(status)]
    send(remote_write(receiver.url), pushed.gauge("a", (), 1))
    metadata, first, again = receiver.bodies
    assert (first, 1) == (again, len(decoded(metadata).metadata))


def test_a_reading_without_metrics(receiver: pushed.Http) -> None:
    """It marks all series as stale, again with the next one if the receiver did not take that, and then none; no sample is lost by that."""
    remote = remote_write(receiver.url, seconds=0.1)
    send(remote, pushed.gauge("a", (), 1))
    receiver.answers += [pushed.Answer("503 Busy")]
    with pytest.raises(PushError) as raised:
        send(remote, time=2.0)
    for time_ in (3.0, 4.0):
        send(remote, time=time_)
    labels = [("__name__", "a"), *sorted(OWN.items())]
    found = [
        (series, [when for _, when in samples])
        for body in receiver.bodies
        for series, samples in written(body)
    ]
    assert [(labels, [1_000_000]), (labels, [2000]), (labels, [3000])] == found
    assert 0 == raised.value.lost


def test_metadata_that_a_receiver_does_not_take(receiver: pushed.Http) -> None:
    """After a refused login they are sent with the next reading. A receiver that takes the samples and no metadata is not asked each time."""
    remote = remote_write(receiver.url)
    refused = pushed.Answer("401 Unauthorized")
    receiver.answers += [refused, refused, refused]
    with pytest.raises(PushError):
        send(remote, pushed.gauge("a", (), 1))
    for _ in range(2):
        send(remote, pushed.gauge("a", (), 1))
    assert [1, 0, 1, 0, 0] == [len(decoded(body).metadata) for body in receiver.bodies]


def test_an_interval_is_for_all_requests_of_a_reading(receiver: pushed.Http) -> None:
    """A receiver that takes each request at the second attempt gets no more of them than the attempts of an interval."""
    remote = remote_write(receiver.url, seconds=4.0)
    many = pushed.metric(
        "gauge", "many", *(((("n", str(n)),), [pushed.Sample("many", (), n)]) for n in range(12000))
    )
    receiver.answers += [
        pushed.Answer(),
        *[pushed.Answer("503 Busy", (("Retry-After", "2"),)), pushed.Answer()] * 6,
    ]
    with pytest.raises(PushError, match="answers 503") as raised:
        send(remote, many)
    # One pause of two seconds fits into four, and not a second one, since requests take time.
    assert (4, 10000) == (len(receiver.requests), raised.value.lost)


def test_nothing_is_tried_again_after_the_end(receiver: pushed.Http) -> None:
    """The end cuts a pause short, and no attempt follows it."""
    remote, ended = remote_write(receiver.url), threading.Event()
    receiver.answers += [pushed.Answer(), pushed.Answer("503 Busy", (("Retry-After", "9"),))]
    problems: list[PushError] = []

    def push() -> None:
        try:
            remote.send(pushed.reading(pushed.gauge("a", (), 1)), ended)
        except PushError as error:
            problems.append(error)

    thread = threading.Thread(target=push)
    thread.start()
    live.eventually(lambda: len(receiver.requests), lambda number: number == 2)
    ended.set()
    thread.join(live.STOP_SECONDS)
    assert (2, 1) == (len(receiver.requests), len(problems))


def test_a_pause_that_is_longer_than_an_interval(receiver: pushed.Http) -> None:
    """A receiver that wants a long pause is not asked again before, and nobody waits for it; once this process ends, nothing is tried again."""
    remote = remote_write(receiver.url, seconds=0.1)
    receiver.answers += [pushed.Answer("503 Busy", (("Retry-After", "300"),))]
    for _ in range(2):
        with pytest.raises(PushError, match=r"answers 503|wants no request for"):
            send(remote, pushed.gauge("a", (), 1))
    other = remote_write(receiver.url)
    ended = threading.Event()
    ended.set()
    receiver.answers += [pushed.Answer("503 Busy")]
    with pytest.raises(PushError, match="answers 503"):
        other.send(pushed.reading(pushed.gauge("a", (), 1)), ended)
    assert 2 == len(receiver.requests)


def test_logins(receiver: pushed.Http, tmp_path: Path) -> None:
    """A password or a token is read from its file, again when it changes; a refusal names the options, and no secret."""
    secret = tmp_path / "secret"
    secret.write_text("pass word\n")
    secret.chmod(0o600)
    remote = remote_write(receiver.url, Login("anne", password_file=str(secret)))
    send(remote, pushed.gauge("a", (), 1))
    secret.write_text("another")
    send(remote, pushed.gauge("a", (), 1))
    secret.write_text("token-1")
    receiver.answers += [pushed.Answer("401 Unauthorized")] * 2
    with pytest.raises(PushError, match="It refuses the login: correct --user and --password-file") as raised:
        send(remote_write(receiver.url, Login(token_file=str(secret))), pushed.gauge("a", (), 1))
    found = [environ["HTTP_AUTHORIZATION"] for environ, _ in receiver.requests]
    assert ["Basic YW5uZTpwYXNzIHdvcmQ=", "Basic YW5uZTphbm90aGVy", "Bearer token-1"] == list(
        dict.fromkeys(found)
    )
    assert "token-1" not in str(raised.value)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (
            "--remote-write nowhere",
            "--remote-write='nowhere' is not a URL. Give one such as https://HOST:PORT/PATH.",
        ),
        (
            "--remote-write http://anne:secret@host/",
            "--remote-write has a user in its URL. Give it by --user, and the password by --password-file.",
        ),
        (
            "--remote-write http:///?key=secret",
            "--remote-write='http:///?***' is not a URL. Give one such as https://HOST:PORT/PATH.",
        ),
        ("--remote-write http://h/ --user anne", "--user is given without --password-file. Give both."),
        (
            "--remote-write http://h/ --user anne --password-file /none --token-file /none",
            "--user and --token-file are both given. Give one of them.",
        ),
        (
            "--remote-write http://h/ --otlp http://other/ --token-file /none",
            "--remote-write and --otlp would all get the same login. Run a command for each.",
        ),
        ("--remote-write http://h/ --job=", "--job='' is empty. Give a name."),
        (
            "--remote-write http://h/ --ca-file /none",
            f"--ca-file='/none' cannot be read: No such file or directory. {READABLE}",
        ),
        (
            "--remote-write https://h/ --ca-file {empty}",
            "--ca-file='{empty}' cannot be used (no certificate or crl found). Give a file in PEM.",
        ),
        ("--remote-write https://h/ --key-file /none", "--key-file is given without --cert-file. Give both."),
        (
            "--remote-write https://h/ --cert-file /none --key-file /none",
            f"--cert-file='/none' cannot be read: No such file or directory. {READABLE}",
        ),
        (
            "--remote-write https://h/ --cert-file {empty} --key-file {empty}",
            "--cert-file='{empty}' and --key-file='{empty}' cannot be used (PEM lib). Give files in PEM, the key without a password.",
        ),
        (
            "--remote-write http://h/ --cert-file {empty} --key-file {empty}",
            "--remote-write='http://h/' is without TLS, which --cert-file needs. Give a URL with https://.",
        ),
        (
            "--remote-write https://h/ --otlp https://other/ --cert-file {empty} --key-file {empty}",
            "--remote-write and --otlp would all get the same login. Run a command for each.",
        ),
        (
            "--statsd 127.0.0.1:8125 --ca-file /none --job shop",
            "--job and --ca-file are of --remote-write, --pushgateway and --otlp. Give one of these, or leave them out.",
        ),
        (
            "--otlp http://h/ --tags none --datagram-bytes 512",
            "--tags and --datagram-bytes are of --statsd. Give it, or leave them out.",
        ),
        (
            "--otlp http://h/ --grouping a=b",
            "--grouping is of --pushgateway. Give it, or leave --grouping out.",
        ),
    ],
)
def test_options_that_cannot_be_used(
    options: str, expected: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What is wrong is told in one line before anything is sent, with no password in it."""
    empty = tmp_path / "empty"
    empty.touch(0o600)
    status = main(["push", "--directory", str(tmp_path), *options.format(empty=empty).split()])
    assert (1, f"wsgi_prom: {expected.format(empty=empty)}\n") == (status, capsys.readouterr().err)


def test_what_a_message_does_not_show(receiver: pushed.Http) -> None:
    """The query of a URL, which may be a key, is in no message, and of another URL that an answer names no more than its beginning."""
    url = f"{receiver.url}write?key=secret"
    found = ("Location", f"https://other/{'x' * 5000}?key=secret")
    receiver.answers += [pushed.Answer("307 Elsewhere", (found,))] * 2
    with pytest.raises(PushError) as raised:
        send(remote_write(url), pushed.gauge("a", (), 1))
    assert {"key=secret"} == {environ["QUERY_STRING"] for environ, _ in receiver.requests}
    told = str(raised.value)
    assert (
        f"--remote-write='{receiver.url}write?***' answers 307. Name the URL that it redirects to: https://other/xx"
        in told
    )
    assert ("secret" in told, len(told) < 500) == (False, True)


def test_a_login_that_can_be_read_on_the_way(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A login at another machine without TLS is told, with the remedy."""
    secret = tmp_path / "secret"
    secret.write_text("token-1")
    secret.chmod(0o600)
    for url, login in (
        ("http://192.0.2.1/", NOBODY),
        ("https://192.0.2.1/", Login(token_file=str(secret))),
        ("http://[::1]/", Login(token_file=str(secret))),
        ("http://localhost/", Login(token_file=str(secret))),
        ("http://192.0.2.1/", Login(token_file=str(secret))),
    ):
        remote_write(url, login)
    assert [
        "--remote-write='http://192.0.2.1/' gets the token without TLS: it can be read on the way. Name a URL with https://"
    ] == caplog.messages


def test_a_package_that_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a package of the extra the line says how to install it."""
    monkeypatch.setitem(sys.modules, "cramjam", None)
    with pytest.raises(
        SettingError, match=r"which is not installed. Run pip install 'wsgi-prom\[remote-write\]'"
    ):
        remote_write("http://127.0.0.1:1/")


@contextlib.contextmanager
def receiver_over_tls(folder: Path, files: dict[str, Path], more: str = "") -> Iterator[str]:
    """Run a Prometheus that takes remote writes over TLS with the certificate of *files*, and give its address."""
    (folder / "web.yml").write_text(
        f"tls_server_config: {{cert_file: {files['cert']}, key_file: {files['key']}{more}}}\n"
    )
    (folder / "prometheus.yml").write_text("{}")
    with live.hold_port() as held:
        address = f"127.0.0.1:{held.getsockname()[1]}"
        command = ["prometheus", f"--config.file={folder}/prometheus.yml", f"--web.listen-address={address}",
                   f"--storage.tsdb.path={folder}/data", "--web.enable-remote-write-receiver",
                   f"--web.config.file={folder}/web.yml"]  # fmt: skip
        with live.LiveServer(command, ready=(r"ready to receive web requests", 1), stop_signal=9):
            yield address


def test_certificates(tmp_path: Path) -> None:
    """A certificate that does not verify, and a port without TLS, are told with the remedy; with the authority's, it verifies."""
    found = etcds.certificates(tmp_path)
    with receiver_over_tls(tmp_path, found) as address:
        told = []
        for url, login in (
            (f"https://{address}/api/v1/write", NOBODY),
            (f"http://{address}/api/v1/write", NOBODY),
            (f"https://{address}/api/v2/write", Login(ca_file=str(found["ca"]))),
        ):
            with pytest.raises(PushError) as raised:
                send(remote_write(url, login), pushed.gauge("a", (), 1))
            told.append(str(raised.value))
        send(
            remote_write(f"https://{address}/api/v1/write", Login(ca_file=str(found["ca"]))),
            pushed.gauge("a", (), 1),
            time=time.time(),
        )
    assert "the certificate does not verify (" in told[0]
    assert "Set --ca-file to" in told[0]
    assert "answers 400 (Client sent an HTTP request to an HTTPS server.)" in told[1]
    assert "answers 404 (404 page not found). It should be a receiver of remote write" in told[2]


def test_a_client_certificate(tmp_path: Path) -> None:
    """A receiver that wants a client certificate refuses none and another authority's with the remedy, and takes a good one as soon as it is there."""
    folders = [tmp_path / name for name in ("receiver", "stranger")]
    for folder in folders:
        folder.mkdir()
    good, other = map(etcds.certificates, folders)
    own = {name: tmp_path / f"{name}.pem" for name in ("cert", "key")}
    trusted = Login(ca_file=str(good["ca"]))
    certified = dataclasses.replace(trusted, cert_file=str(own["cert"]), key_file=str(own["key"]))
    install(other, own)
    more = f", client_auth_type: RequireAndVerifyClientCert, client_ca_file: {good['ca']}"
    with receiver_over_tls(tmp_path, good, more) as address:
        url = f"https://{address}/api/v1/write"
        remote = remote_write(url, certified)
        told = [refusal(remote_write(url, trusted)), refusal(remote)]
        install(good, own)
        send(remote, pushed.gauge("a", (), 1), time=time.time())
    # Of a receiver that has closed before all was sent, its reason may be lost.
    remedy = "give one of an authority that it trusts by --cert-file and --key-file"
    assert [True, True] == ["client certificate" in text and text.lower().endswith(remedy) for text in told]


def test_a_receiver_that_closes_after_the_handshake(tmp_path: Path) -> None:
    """As a client certificate may be what it wants, the line says how to give one; without TLS it says no such thing."""
    files = etcds.certificates(tmp_path)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(files["cert"], files["key"])
    told = []
    for scheme in ("https", "http"):
        with socket.create_server(("127.0.0.1", 0)) as listening:

            def close(listening: socket.socket = listening, tls: bool = scheme == "https") -> None:
                connection, _ = listening.accept()
                if tls:
                    connection = context.wrap_socket(connection, server_side=True)
                connection.close()

            closing = threading.Thread(target=close)
            closing.start()
            host, port = listening.getsockname()
            told.append(refusal(remote_write(f"{scheme}://{host}:{port}/", Login(ca_file=str(files["ca"])))))
            closing.join(live.START_SECONDS)
    assert [True, False] == [text.endswith("by --cert-file and --key-file") for text in told], told


def install(files: dict[str, Path], own: dict[str, Path]) -> None:
    """Replace the certificate and the key of *own* by those of *files*, as a renewal does."""
    for name, path in own.items():
        part = path.with_suffix(".part")
        part.write_bytes(files[name].read_bytes())
        part.chmod(0o600)
        part.replace(path)
