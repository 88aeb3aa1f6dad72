"""
The examples, started as a reader starts them: supervisord, uWSGI and nginx for Flask; gunicorn for the same
application. The Flask stack needs root, as in production: it starts as root and drops to www-data.
"""

# The house puts what is expected first.

from __future__ import annotations

import contextlib
import pwd
import re
import shutil
import signal
import socket
import struct
import subprocess
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import live
import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

EXAMPLES = live.ROOT / "examples"
# Where the files under examples/flask say so; a test replaces each by a port that is free.
PORTS = ("8040", "9040", "9464")
WORKERS = 4
WWW_DATA = pwd.getpwnam("www-data").pw_uid

# What each example is asked for, and how often.
TRAFFIC = {
    "/": 40,
    "/users/1": 10,
    "/users/2": 15,
    "/slow?seconds=0.01": 8,
    "/stream": 8,
    "/fail": 6,
    "/none/7": 5,
}
ANSWERED = {
    ("/", 200): 40,
    ("/users/1", 200): 10,
    ("/users/2", 200): 15,
    ("/slow?seconds=0.01", 200): 8,
    ("/stream", 200): 8,
    ("/fail", 500): 6,
    ("/none/7", 404): 5,
}
# By (method, route, status).
COUNTED = {
    ("GET", "/", "200"): 40.0,
    ("GET", "/users/<int:user_id>", "200"): 25.0,
    ("GET", "/slow", "200"): 8.0,
    ("GET", "/stream", "200"): 8.0,
    ("GET", "/fail", "500"): 6.0,
    ("GET", "unmatched", "404"): 5.0,
}
VIEWED = {"no": 10.0, "yes": 15.0}


class Stack:
    """The whole of examples/flask under supervisord, with free ports and paths of this run."""

    def __init__(self, server: live.LiveServer, folder: Path, ports: Mapping[str, int]) -> None:
        self.server = server
        self.folder = folder
        self.socket = folder / "run" / "wsgi-prom-flask" / "app.sock"
        self.application = f"http://127.0.0.1:{ports['8040']}"
        self.metrics = f"http://127.0.0.1:{ports['9040']}"

    def samples(self) -> live.Samples:
        answer = live.request(f"{self.metrics}/metrics")
        assert 200 == answer.status, answer.body
        return live.parse_samples(answer.body.decode())

    def program(self, name: str) -> int:
        """
        Return the main process of one of supervisord's programs.
        """
        return int(self.server.wait_for_log(rf"spawned: '{name}' with pid (\d+)")[1])


@contextlib.contextmanager
def flask_stack(**more: str) -> Iterator[Stack]:
    """
    Boot examples/flask in a folder of its own, with *more* at the end of the files: `uwsgi_ini="env = A=b"`.
    """
    with contextlib.ExitStack() as stack:
        # Not pytest's tmp_path, which www-data cannot enter.
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="stack-")))
        folder.chmod(0o755)
        (folder / "run").mkdir()
        # uWSGI and nginx cannot report a port that the system chose, so the ports are chosen first and held.
        holders = {port: stack.enter_context(live.hold_port()) for port in PORTS}
        ports = {port: holder.getsockname()[1] for port, holder in holders.items()}
        for source in sorted((EXAMPLES / "flask").iterdir()):
            if source.is_file():
                text = source.read_text().replace("/run/", f"{folder}/run/")
                for real, free in ports.items():
                    text = text.replace(real, str(free))
                (folder / source.name).write_text(text)
        for name, text in more.items():
            with (folder / name.replace("_", ".")).open("a") as file:
                file.write(f"\n{text}\n")
        server = stack.enter_context(
            live.LiveServer(
                live.for_any_user(["supervisord", "-c", folder / "supervisord.conf"]),
                cwd="/",
                # The example keeps to the default; the test has to say what else it is.
                env={"WSGI_PROM_BIND": f"127.0.0.1:{ports['9464']}"},
                ready=(r"spawned uWSGI worker \d+", WORKERS),
                url=f"http://127.0.0.1:{ports['8040']}",
            )
        )
        booted = Stack(server, folder, ports)
        # nginx says nothing when it is ready. This is no request to the application, which would be counted.
        live.eventually(lambda: connects(ports["8040"]) and connects(ports["9040"]), bool)
        # The first scrape starts when the exporter listens.
        assert server.metrics_url == f"http://127.0.0.1:{ports['9464']}/metrics"
        yield booted


def test_flask_counts_every_request_exactly() -> None:
    """Behind nginx and four uWSGI workers, one scrape has each request once, under its route."""
    with flask_stack() as stack:
        driven = live.drive(stack.application, requests())
        assert ([], ANSWERED) == (driven.failed, driven.answered)
        # A response may have arrived before its close() has run, so the last ones may be counted a moment later.
        assert COUNTED == live.eventually(lambda: requests_total(stack.samples()), COUNTED.__eq__)
        samples = stack.samples()
        assert VIEWED == {
            dict(labels)["member"]: value
            for labels, value in live.labelled(samples, "shop_profile_views_total").items()
        }
        assert {frozenset(): 0.0} == live.labelled(samples, "http_requests_in_progress")


def test_flask_keeps_its_counts_when_a_worker_is_killed() -> None:
    """SIGKILL of a worker loses no count, and another worker continues."""
    with flask_stack() as stack:
        live.drive(stack.application, requests())
        assert COUNTED == live.eventually(lambda: requests_total(stack.samples()), COUNTED.__eq__)
        uwsgi = stack.program("uwsgi")
        before = stack.server.workers(uwsgi)
        victim = stack.server.wait_for_log(r"spawned uWSGI worker \d+ \(pid: (\d+)")[1]
        stack.server.signal_child(int(victim), signal.SIGKILL)
        stack.server.wait_for_log(r"Respawned uWSGI worker \d+")
        after = live.eventually(lambda: stack.server.workers(uwsgi), lambda pids: len(pids) == len(before))
        assert (len(before), False) == (len(after), int(victim) in after)
        assert COUNTED == requests_total(stack.samples())
        live.drive(stack.application, requests())
        doubled = {labels: 2 * value for labels, value in COUNTED.items()}
        assert doubled == live.eventually(lambda: requests_total(stack.samples()), doubled.__eq__)


ECHO = "@app.get('/start')\ndef start():\n    return request.headers['X-Request-Start']"


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    """The example with a page of its own, and a view that returns a header."""
    with flask_stack(uwsgi_ini="env = WSGI_PROM_METRICS_PATH=/metrics", app_py=ECHO) as found:
        yield found


def test_flask_hides_metrics_from_users_and_all_else_from_prometheus(stack: Stack) -> None:
    """
    Port 8040 answers /metrics with 404 although the application serves it; port 9040 has /metrics and nothing else.
    """
    live.request(f"{stack.application}/")
    # Past nginx it does answer. A response may arrive a moment before it is counted.
    _, body = live.eventually(
        lambda: ask_uwsgi(stack.socket, "/metrics"), lambda answer: b"http_requests_total" in answer[1]
    )
    assert b"http_requests_total" in body
    for path in (
        "/metrics",
        "/metrics/",
        "/metrics/x",
        "//metrics",
        "/%6Detrics",
        "/x/../metrics",
        "/metrics?name[]=x",
    ):
        answer = live.request(stack.application + path)
        assert (path, 404, False) == (path, answer.status, b"http_requests_total" in answer.body)
    # To the exporter these are pages, and to the application.
    for path in ("/", "/users/1", "/-/healthy", "/-/ready", "/metrics/", "/metricsx"):
        assert (path, 404) == (path, live.request(stack.metrics + path).status)
    assert 200 == live.request(f"{stack.metrics}/metrics").status


def test_flask_is_told_by_nginx_when_the_request_came(stack: Stack) -> None:
    """nginx sets X-Request-Start to its own time, whatever the client sends under that name."""
    sent = {"X-Request-Start": "t=1.000"}
    before = time.time()
    told = live.request(f"{stack.application}/start", headers=sent).body.decode()
    after = time.time()
    assert re.fullmatch(r"t=\d+\.\d{3}", told)
    # nginx's clock is that of its last turn through the event loop, in whole milliseconds.
    assert before - 1 < float(told.removeprefix("t=")) < after


def test_flask_serves_as_a_plain_user_and_leaves_nothing_running() -> None:
    """uWSGI's master, its workers and both processes of the exporter run as www-data, and all end with supervisord."""
    with flask_stack() as stack:
        uwsgi, nginx = stack.program("uwsgi"), stack.program("nginx")
        assert WORKERS == len(stack.server.workers(uwsgi))

        # The exporter is not one of the workers, whoever its parent is.
        def processes() -> list[int]:
            others = {stack.server.pid, nginx, *stack.server.children(nginx)}
            return [pid for pid in stack.server.processes() if pid not in others]

        # The master, and the exporter's pair.
        family = live.eventually(processes, lambda pids: len(pids) == WORKERS + 3)
        assert WORKERS + 3 == len(family), [live.command_line(pid) for pid in family]
        assert {WWW_DATA} == {live.user_id(pid) for pid in family}
        assert {WWW_DATA} == {live.user_id(pid) for pid in stack.server.children(nginx)}
        assert stack.socket.is_socket()
        stack.server.stop()
        assert [] == stack.server.leftovers
        assert not stack.socket.exists()


def test_flask_finishes_what_is_under_way_when_uwsgi_is_restarted() -> None:
    """A request in progress is answered when uWSGI is restarted, and the counts continue."""
    with flask_stack() as stack:
        answers: list[live.Response] = []
        slow = threading.Thread(
            target=lambda: answers.append(live.request(f"{stack.application}/slow?seconds=2"))
        )
        slow.start()
        in_progress: dict[live.Labels, float] = {frozenset(): 1.0}
        assert in_progress == live.eventually(
            lambda: live.labelled(stack.samples(), "http_requests_in_progress"), in_progress.__eq__
        )
        control = ["supervisorctl", "-c", str(stack.folder / "supervisord.conf"), "restart", "uwsgi"]
        subprocess.run(control, check=True, timeout=live.START_SECONDS, stdout=subprocess.DEVNULL)
        slow.join()
        assert [200] == [answer.status for answer in answers]
        stack.server.wait_for_log(r"spawned uWSGI worker \d+", count=2 * WORKERS)
        stack.server.wait_for_log(live.METRICS_LINE, count=2)
        assert 200 == live.request(f"{stack.application}/").status


def test_gunicorn_counts_every_request_exactly_and_leaves_nothing_running() -> None:
    """The unchanged application has the same counts and routes under gunicorn."""
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="gunicorn-")))
        # A copy, because gunicorn reads its configuration from where it is started; the bind given there has to go.
        shutil.copytree(EXAMPLES / "flask", folder / "flask", ignore=shutil.ignore_patterns("__pycache__"))
        config = (EXAMPLES / "gunicorn" / "gunicorn.conf.py").read_text()
        (folder / "gunicorn").mkdir()
        (folder / "gunicorn" / "gunicorn.conf.py").write_text(config.replace("127.0.0.1:8040", "127.0.0.1:0"))
        server = stack.enter_context(
            live.LiveServer(
                [live.BIN / "gunicorn"],
                cwd=folder / "gunicorn",
                ready=("Booting worker with pid", WORKERS),
                address=live.GUNICORN_LINE,
            )
        )
        driven = live.drive(server.url, requests())
        assert ([], ANSWERED) == (driven.failed, driven.answered)
        assert COUNTED == live.eventually(lambda: requests_total(server.samples()), COUNTED.__eq__)
        server.stop()
        assert [] == server.leftovers


def requests() -> list[str]:
    """
    Return the paths of TRAFFIC, mixed so that all routes are under way at once.
    """
    paths = [(turn / times, path) for path, times in TRAFFIC.items() for turn in range(times)]
    return [path for _, path in sorted(paths)]


def requests_total(samples: live.Samples) -> dict[tuple[str, str, str], float]:
    found = {}
    for labels, value in live.labelled(samples, "http_requests_total").items():
        by_name = dict(labels)
        found[by_name["method"], by_name["route"], by_name["status"]] = value
    return found


def connects(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False


def ask_uwsgi(path: Path, target: str) -> tuple[str, bytes]:
    """
    Request *target* from uWSGI's own socket, past nginx, and return the status and the body.
    """
    variables = {
        "REQUEST_METHOD": "GET",
        "PATH_INFO": target,
        "REQUEST_URI": target,
        "QUERY_STRING": "",
        "SERVER_NAME": "localhost",
        "SERVER_PORT": "80",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "HTTP_HOST": "localhost",
    }
    packed = b"".join(
        struct.pack("<H", len(word)) + word.encode() for pair in variables.items() for word in pair
    )
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(live.REQUEST_SECONDS)
        connection.connect(str(path))
        # The uwsgi protocol's header: modifier1, the length of the variables, modifier2.
        connection.sendall(struct.pack("<BHB", 0, len(packed), 0) + packed)
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
    head, _, body = answer.partition(b"\r\n\r\n")
    return head.split()[1].decode(), body
