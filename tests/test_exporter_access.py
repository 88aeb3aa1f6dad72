"""Who may read the metrics: networks, tokens, passwords, the socket's mode, and what the exporter says of it at start."""

from __future__ import annotations

import base64
import os
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import bcrypt
import exporters
import live
import pytest
import servers
from prometheus_client import CollectorRegistry
from webob import Request

from wsgi_prom import MetricsApp
from wsgi_prom.errors import SettingError
from wsgi_prom.exporter import access
from wsgi_prom.exporter.app import ExporterApp
from wsgi_prom.exporter.watched import Files, Watched
from wsgi_prom.settings import Settings

if TYPE_CHECKING:
    from pathlib import Path

    from webob import Response


@pytest.fixture
def token_file(tmp_path: Path) -> Path:
    return secret(tmp_path / "token", "s3cret\n")


@pytest.fixture
def web_config(tmp_path: Path) -> Path:
    return users_file(tmp_path, ann="right", **{"böb b": "grün:x"})


def users_file(folder: Path, cost: int = 4, **passwords: str) -> Path:
    """Return a web configuration of users, with hashes that are cheap to check."""
    lines = [f"  {name}: {hashed(word, cost)}\n" for name, word in passwords.items()]
    return secret(folder / "web.yml", "basic_auth_users:\n" + "".join(lines))


def hashed(password: str, cost: int = 4) -> str:
    return bcrypt.hashpw(password.encode(), bcrypt.gensalt(cost)).decode()


def secret(path: Path, text: str, mode: int = 0o600) -> Path:
    path.write_text(text)
    path.chmod(mode)
    return path


def basic(name: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{name}:{password}".encode()).decode()


def exporter(**settings: object) -> ExporterApp:
    return ExporterApp(
        MetricsApp(registry=CollectorRegistry(), settings=Settings.read({}, **settings))  # type: ignore[arg-type]
    )


def ask(app: object, authorization: str | None = None, path: str = "/metrics", **environ: str) -> Response:
    request = Request.blank(path, environ=environ)
    if authorization is not None:
        request.headers["Authorization"] = authorization
    return request.get_response(app)


@pytest.mark.parametrize(
    ("authorization", "status"),
    [
        (None, 401), ("", 401), ("Bearer", 401), ("Bearer ", 401), ("Bearer s3cre", 401), ("Bearer s3crett", 401),
        ("Bearer s3cret", 200), ("bearer  s3cret ", 200), ("Bearer \xff", 401), ("Basic s3cret", 401), ("s3cret", 401),
        (basic("ann", "right"), 200), (basic("ann", "wrong"), 401), (basic("ann", ""), 401), (basic("", "right"), 401),
        (basic("bob", "right"), 401), (basic("böb b", "grün:x"), 200), (basic("böb b", "right"), 401),
        ("basic " + basic("ann", "right")[6:], 200), ("Basic !", 401), ("Basic " + "YQ" * 5001, 401),
        (basic("ann", "right\0"), 401), (basic("ann:right", ""), 401), ("Digest a", 401),
    ],
)  # fmt: skip
def test_either_secret_is_enough(
    authorization: str | None, status: int, token_file: Path, web_config: Path
) -> None:
    """A token or a user's password, exactly; whatever else is refused, with the ways that there are."""
    app = exporter(token_file=str(token_file), web_config=str(web_config))
    for _ in range(2):
        answer = ask(app, authorization)
        assert status == answer.status_code
    schemes = [value.split()[0] for value in answer.headers.getall("WWW-Authenticate")]
    assert schemes == ([] if status == 200 else ["Bearer", "Basic"])


def test_a_kind_that_is_not_set_is_not_offered(token_file: Path, web_config: Path) -> None:
    """With a token alone passwords are refused, and with users alone tokens."""
    tokens, users = exporter(token_file=str(token_file)), exporter(web_config=str(web_config))
    assert 401 == ask(tokens, basic("ann", "right")).status_code == ask(users, "Bearer s3cret").status_code
    assert [["Bearer"], ["Basic"]] == [
        [value.split()[0] for value in ask(app).headers.getall("WWW-Authenticate")] for app in (tokens, users)
    ]


def test_what_is_open(token_file: Path) -> None:
    """Without a secret, healthy alone is answered; the pages for people need it as the metrics do."""
    app = exporter(token_file=str(token_file))
    closed = ("/metrics", "/-/ready", "/", "/live")
    codes = {path: ask(app, None, path).status_code for path in (*closed, "/-/healthy", "/nowhere")}
    assert {**dict.fromkeys(closed, 401), "/-/healthy": 200, "/nowhere": 404} == codes
    assert [200] * len(closed) == [ask(app, "Bearer s3cret", path).status_code for path in closed]


@pytest.mark.parametrize(
    ("address", "admitted"),
    [("10.1.2.3", True), ("::ffff:10.1.2.3", True), ("11.1.2.3", False), ("::1", True), ("::2", False),
     ("fe80::1%eth0", True), ("::ffff:11.1.2.3", False), ("", False), ("localhost", False), ("127.0.0.1", False)],
)  # fmt: skip
def test_networks(address: str, admitted: bool) -> None:
    """An address in one of the networks, IPv4 in IPv6's clothes too; what is no address is in none."""
    settings = Settings.read({}, allow="10.0.0.0/8,::1,fe80::/64")
    assert admitted == access.Access(settings).admits(address)
    app = MetricsApp(registry=CollectorRegistry(), settings=settings)
    assert (200 if admitted else 403) == ask(app, REMOTE_ADDR=address).status_code


def test_a_token_is_replaced_while_it_runs(token_file: Path) -> None:
    """A new token replaces the old one at once. If its file cannot be used, the exporter keeps the last good one."""
    app = exporter(token_file=str(token_file))

    def codes() -> list[int]:
        return [ask(app, f"Bearer {token}").status_code for token in ("s3cret", "new", "")]

    assert [200, 401, 401] == codes()
    secret(token_file.with_name("next"), "new").replace(token_file)
    assert [401, 200, 401] == codes()
    token_file.write_text("")
    assert [401, 200, 401] == codes()
    token_file.unlink()
    assert [401, 200, 401] == codes()
    secret(token_file, "s3cret")
    assert [200, 401, 401] == codes()


def test_requests_while_several_files_are_read_again(tmp_path: Path) -> None:
    """One thread reads the files again; others that ask meanwhile get a value of one version, and no error."""
    paths = [tmp_path / name for name in "abcdefgh"]

    def write(version: int) -> None:
        for path in paths:
            path.write_text(str(version))

    def load(files: Files) -> set[bytes]:
        found = set()
        for path in paths:
            found.add(files.read("WSGI_PROM_WEB_CONFIG", str(path)))
            time.sleep(0.001)
        return found

    write(0)
    watched, over = Watched(load), threading.Event()

    def ask_often() -> None:
        while not over.is_set():
            assert watched.value

    with ThreadPoolExecutor(4) as pool:
        askers = [pool.submit(ask_often) for _ in range(4)]
        for version in range(1, 30):
            write(version)
            time.sleep(0.005)
        over.set()
    assert [None] * 4 == [asker.result() for asker in askers]
    assert {b"29"} == watched.value


def test_users_are_replaced_while_it_runs(web_config: Path) -> None:
    """A user who is no longer in the file is refused, though the password was right before."""
    app = exporter(web_config=str(web_config))
    assert 200 == ask(app, basic("ann", "right")).status_code
    users_file(web_config.parent, ann="other")
    assert [401, 200] == [ask(app, basic("ann", word)).status_code for word in ("right", "other")]


@pytest.mark.parametrize(
    ("name", "text", "mode", "told"),
    [
        ("token_file", None, 0o600, "cannot be read: No such file or directory. Name a file that this server's user"),
        ("token_file", "", 0o600, "does not hold one token. Fill it with: openssl rand -hex 32"),
        ("token_file", " \n", 0o600, "does not hold one token"),
        ("token_file", "a b", 0o600, "does not hold one token"),
        ("token_file", "a", 0o604, "can be read or written by others. Run chmod o-rwx on it."),
        ("token_file", "a", 0o602, "can be read or written by others"),
        ("token_file", "a" * 2_000_000, 0o600, "is not a regular file of at most 1 MB"),
    ],
)  # fmt: skip
def test_a_file_that_cannot_be_used_is_an_error_at_start(
    name: str, text: str | None, mode: int, told: str, tmp_path: Path
) -> None:
    """The message has the setting, its value and the remedy, and nothing of what the file holds."""
    path = tmp_path / "file"
    if text is not None:
        secret(path, text, mode)
    with pytest.raises(SettingError) as caught:
        exporter(**{name: str(path)})
    message = str(caught.value)
    assert message.startswith(f"WSGI_PROM_{name.upper()}={str(path)!r}")
    assert told in message
    assert not text or len(text) < 3 or text not in message


@pytest.mark.parametrize("kind", ["fifo", "directory", "device"])
def test_what_is_no_file_is_an_error_and_is_not_waited_for(kind: str, tmp_path: Path) -> None:
    """A pipe, a directory and a device are refused."""
    path = tmp_path / "thing"
    if kind == "fifo":
        os.mkfifo(path, 0o600)
    elif kind == "directory":
        path.mkdir(0o700)
    with pytest.raises(SettingError, match="WSGI_PROM_TOKEN_FILE"):
        exporter(token_file=str(path) if kind != "device" else "/dev/zero")


@pytest.fixture
def two_users(tmp_path: Path) -> tuple[Path, list[bytes]]:
    """A web configuration of ann and bob, and the hashes of their passwords."""
    path = users_file(tmp_path, ann="right", bob="other")
    return path, [line.split()[1].encode() for line in path.read_text().splitlines()[1:]]


def test_an_unknown_user_costs_what_a_known_one_does(
    two_users: tuple[Path, list[bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each refusal hashes once: an unknown name at the cost of a user's hash, and always of the same user's."""
    path, hashes = two_users
    costs: list[bytes] = []
    monkeypatch.setattr(bcrypt, "checkpw", lambda _, hashed: costs.append(hashed) or False)
    app = exporter(web_config=str(path))
    costs.clear()  # of the check at the start
    for name in ("ann", "bob", *(f"unknown {number}" for number in range(50))):
        assert [401, 401] == [ask(app, basic(name, word)).status_code for word in ("wrong", "wrong again")]
    known, unknown = costs[:4], costs[4:]
    assert [hashes[0]] * 2 + [hashes[1]] * 2 == known
    assert unknown[::2] == unknown[1::2]
    assert set(hashes) == set(unknown)


def test_an_unknown_user_is_refused_with_the_password_of_a_user(web_config: Path) -> None:
    """The hash that stands in for an unknown user's lets nobody in."""
    app = exporter(web_config=str(users_file(web_config.parent, ann="right")))
    assert [200, 401, 401] == [ask(app, basic(name, "right")).status_code for name in ("ann", "nobody", "")]


def test_a_right_password_is_hashed_once_and_never_waits_for_wrong_ones(
    two_users: tuple[Path, list[bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """While passwords are hashed, a client that was let in before is let in; of many more one waits, the rest are busy."""
    begun, go = threading.Event(), threading.Event()
    checked: list[bytes] = []

    def checkpw(password: bytes, _: bytes) -> bool:
        checked.append(password)
        if password == b"stuck":
            begun.set()
            assert go.wait(60)
        return password == b"right"

    monkeypatch.setattr(bcrypt, "checkpw", checkpw)
    app = exporter(web_config=str(two_users[0]))

    def status(password: str) -> int:
        return ask(app, basic("ann", password)).status_code

    assert 200 == status("right")
    with ThreadPoolExecutor(20) as pool:
        first = pool.submit(status, "stuck")
        assert begun.wait(60)
        others = [pool.submit(status, f"wrong {number}") for number in range(10)]
        assert live.eventually(lambda: sum(f.done() for f in others), lambda done: done == 9) == 9
        assert [200] * 20 == [status("right") for _ in range(20)]
        assert [429] * 9 == [future.result() for future in others if future.done()]
        go.set()
    assert 401 == first.result()
    assert 1 == checked.count(b"right")


def test_a_long_password_counts_as_far_as_bcrypt_reads_it(tmp_path: Path) -> None:
    """The first 72 bytes count, as for htpasswd and the exporters that share the format."""
    app = exporter(web_config=str(users_file(tmp_path, ann="x" * 72)))
    assert [200, 200, 401] == [ask(app, basic("ann", "x" * length)).status_code for length in (72, 80, 71)]


def test_a_flood_of_wrong_passwords(tmp_path: Path) -> None:
    """On a real exporter with hashes at their full cost, good scrapes are answered while 16 clients guess."""
    exporters.fill(tmp_path / "shared", 10)
    users = users_file(tmp_path, cost=10, ann="right")
    with exporters.serve(tmp_path / "shared", WSGI_PROM_WEB_CONFIG=str(users)) as server:
        good = {"Authorization": basic("ann", "right")}
        assert 200 == live.request(server.metrics_url, headers=good).status
        ended = threading.Event()
        guesses: list[int] = []

        def guess(client: int) -> None:
            number = 0
            while not ended.is_set():
                number += 1
                wrong = {"Authorization": basic("ann", f"{client} {number}")}
                guesses.append(live.request(server.metrics_url, headers=wrong).status)

        with ThreadPoolExecutor(16) as pool:
            for client in range(16):
                pool.submit(guess, client)
            try:
                found = [live.request(server.metrics_url, headers=good).status for _ in range(30)]
                live.eventually(lambda: set(guesses), lambda codes: codes == {401, 429})
            finally:
                ended.set()
        assert [] == exporters.complaints(server)
    assert [200] * 30 == found
    assert {401, 429} == set(guesses)


def test_only_allowed_networks_reach_the_exporter(tmp_path: Path) -> None:
    """A connection from elsewhere is closed before a byte is read; the networks' own are answered."""
    exporters.fill(tmp_path / "shared", 1)
    with exporters.serve(tmp_path / "shared", WSGI_PROM_ALLOW="127.0.0.2/31") as server:
        closed = b"GET /-/healthy HTTP/1.0\r\n\r\n"
        with exporters.connect(server) as client:
            assert b"" == exporters.until_closed(client)
        with socket.create_connection(exporters.address(server), 60, ("127.0.0.2", 0)) as client:
            client.sendall(closed)
            assert exporters.until_closed(client).startswith(b"HTTP/1.0 200")
    with exporters.serve(tmp_path / "shared", "[::ffff:127.0.0.1]:0", WSGI_PROM_ALLOW="127.0.0.1") as server:
        with socket.create_connection(("127.0.0.1", exporters.address(server)[1]), 60) as client:
            client.sendall(closed)
            assert exporters.until_closed(client).startswith(b"HTTP/1.0 200")


def test_the_sockets_mode(tmp_path: Path) -> None:
    """WSGI_PROM_SOCKET_MODE is the mode of the unix socket, whatever the umask; networks do not apply to it."""
    path = tmp_path / "socket"
    with exporters.serve(
        tmp_path / "shared", f"unix:{path}", WSGI_PROM_SOCKET_MODE="660", WSGI_PROM_ALLOW="10.0.0.0/8"
    ):
        assert "660" == oct(path.stat().st_mode)[-3:]
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))
            client.sendall(b"GET /-/healthy HTTP/1.0\r\n\r\n")
            assert exporters.until_closed(client).startswith(b"HTTP/1.0 200")


STARTS = {
    "loopback": ("127.0.0.1:0", {}, None),
    "another loopback": ("127.1.2.3:0", {}, None),
    "open": ("0.0.0.0:0", {}, "0.0.0.0 is open to every network that reaches it: every client that connects can read the metrics. Set"),
    "open, IPv6": ("[::]:0", {}, ":: is open to every network that reaches it: every client that connects can read the metrics. Set"),
    "networks": ("0.0.0.0:0", {"WSGI_PROM_ALLOW": "10.0.0.0/8"},
                 "0.0.0.0 is open to 10.0.0.0/8, by WSGI_PROM_ALLOW, without a password"),
    "token": ("0.0.0.0:0", {"WSGI_PROM_TOKEN_FILE": "{token}"},
              "0.0.0.0 is open to every network that reaches it, protected by WSGI_PROM_TOKEN_FILE; unencrypted"),
}  # fmt: skip


@pytest.mark.parametrize("kind", STARTS)
def test_what_is_said_at_start(kind: str, tmp_path: Path, token_file: Path) -> None:
    """Beyond loopback one line says to whom the metrics are open, and what protects them or would."""
    bind, env, told = STARTS[kind]
    env = {name: value.format(token=token_file) for name, value in env.items()}
    with exporters.serve(tmp_path / "shared", bind, **env) as server:
        lines = exporters.complaints(server)
    assert (0 if told is None else 1) == len(lines)
    assert all(f"] wsgi_prom: {told}" in line for line in lines)


def test_a_wrong_file_is_told_by_the_server(tmp_path: Path) -> None:
    """The exporter's error is in the server's log, with setting, value and remedy; the application is served."""
    with live.gunicorn(workers=1, WSGI_PROM_TOKEN_FILE=str(tmp_path / "none")) as server:
        assert 200 == server.get("/").status
        line = server.wait_for_log(r"wsgi_prom: WSGI_PROM_TOKEN_FILE=.*")[0]
    assert f"WSGI_PROM_TOKEN_FILE='{tmp_path / 'none'}' cannot be read: No such file" in line
    assert line.endswith("The application is served without metrics until a reload without this mistake")
    assert "Traceback" not in server.log()


def test_the_rules_hold_on_a_real_server(tmp_path: Path, token_file: Path) -> None:
    """The token that the server's environment names protects its exporter and the application's metrics_path alike."""
    env = {"WSGI_PROM_TOKEN_FILE": str(token_file), "WSGI_PROM_METRICS_PATH": "/inside"}
    good = {"Authorization": "Bearer s3cret"}
    with live.gunicorn(workers=2, **env) as server:
        codes = [
            live.request(url, headers=headers).status
            for url in (server.metrics_url, server.url + "/inside")
            for headers in ({}, {"Authorization": "Bearer wrong"}, good)
        ]
        live.drive(server.url, ["/"] * 4)
        page = live.request(server.metrics_url, headers=good).body.decode()
    assert [401, 401, 200] * 2 == codes
    assert 'http_requests_total{method="GET",route="/",status="200"} 4.0' in page


def test_the_rules_outlive_the_process_that_answers(web_config: Path) -> None:
    """The exporter's supervisor starts another with the same rules; who was let in before need not be looked at again."""
    good, wrong = ({"Authorization": basic("ann", word)} for word in ("right", "wrong"))
    with live.gunicorn(workers=1, WSGI_PROM_WEB_CONFIG=str(web_config)) as server:
        url = server.metrics_url
        for _ in range(3):
            assert [200, 401, 401] == [
                live.request(url, headers=headers).status for headers in (good, wrong, {})
            ]
            # Who connects before the next is there waits.
            for one_of_two in servers.supervisor_and_serving(server)[::-1]:
                server.signal_child(one_of_two, 9)
                assert 401 == live.request(url, headers=wrong).status
        assert 200 == live.request(url, headers=good).status
