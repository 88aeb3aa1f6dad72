"""
Real servers for tests: started on ports that the system chooses, watched through their log, ended with all they started.

Nothing here sends a request of its own accord: tests assert exact counts, so readiness is read from the log.
"""

# Rule 1: only processes that a LiveServer started are ever signalled, each by its id or its own group's.
# Rule 2: every wait is bounded, and one that runs out raises with the server's log.

from __future__ import annotations

import contextlib
import http.client
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple, TypeVar
from urllib.parse import urlsplit

from prometheus_client.parser import text_string_to_metric_families

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from types import TracebackType
    from typing import Self

ROOT: Final = Path(__file__).resolve().parent.parent
APPS: Final = ROOT / "tests" / "apps"
# The executables of the environment that runs the tests, whether or not it is activated.
BIN: Final = Path(sys.executable).parent

# Generous: a machine that runs the whole suite at once is slow, and only a failing test waits to the end.
START_SECONDS: Final = 30.0
STOP_SECONDS: Final = 20.0
REQUEST_SECONDS: Final = 60.0
POLL_SECONDS: Final = 0.02

METRICS_LINE: Final = re.compile(r"wsgi_prom: metrics at (http://\S+)")
GUNICORN_LINE: Final = re.compile(r"Listening at: (http://[^\s,]+).* \(\d+\)")
UWSGI_LINE: Final = re.compile(r"uwsgi socket 0 (?:bound to TCP|inherited INET) address (\S+:\d+)")

# Initial environments stay readable in /proc and are inherited: this finds also what has left the session. The exporter
# gets few variables of its server's, those of the locale among them.
MARK: Final = "LC_LIVE_SERVER_MARK"

# Lays an open folder over a closed one ($1) and what is needed of it (up to --) into that, then runs the rest. Seen by
# nobody outside the mount namespace.
OPEN_FOLDER: Final = """
closed=$1; shift
hold=$(mktemp -d)
mount --rbind "$closed" "$hold"
mount -t tmpfs -o mode=0755 opened "$closed"
while [ "$1" != -- ]; do
    mkdir -p "$1"
    mount --rbind "$hold${1#"$closed"}" "$1"
    shift
done
shift
umount -l "$hold"
rmdir "$hold"
exec "$@"
"""

Labels = frozenset[tuple[str, str]]
Samples = dict[tuple[str, Labels], float]
T = TypeVar("T")


class Response(NamedTuple):
    status: int
    headers: http.client.HTTPMessage
    body: bytes


class Driven(NamedTuple):
    """
    What became of the requests of `drive`: those answered to the last byte, and those that were not.
    """

    answered: Counter[tuple[str, int]]
    failed: list[tuple[str, Exception]]


class LiveServer:
    """
    A server in a process group of its own, for the length of a `with` block.

    *ready* is a pattern of the log and how often it must be there before the block starts; *address* is the pattern
    of the log whose first group leads to the application's URL (the last match counts: a reload may log it again).
    A *url* given outright wins. Environment values that are None are taken away.
    """

    def __init__(
        self,
        command: Sequence[str | os.PathLike[str]],
        *,
        cwd: str | os.PathLike[str] | None = None,
        env: Mapping[str, str | None] | None = None,
        ready: tuple[re.Pattern[str] | str, int] | None = None,
        address: re.Pattern[str] | None = None,
        url: str | None = None,
        stop_signal: int = signal.SIGTERM,
    ) -> None:
        self.command = [os.fspath(word) for word in command]
        self.stop_signal = stop_signal
        # Processes that were still there, long after the server itself had ended, when `stop` swept them away.
        self.leftovers: list[tuple[int, str]] = []
        self._ready = ready
        self._address = address
        self._url = url
        self._mark = uuid.uuid4().hex
        self._folder = Path(tempfile.mkdtemp(prefix="live-"))
        # Workers that drop to another user must reach what is made beneath.
        self._folder.chmod(0o755)
        self._cwd = self._folder if cwd is None else Path(cwd)
        self._env = environment(env or {}, mark=self._mark, runtime=self._folder)
        self._log_path = self._folder / "log"
        self._kept_log = ""
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        shutil.rmtree(self._folder, ignore_errors=True)
        if kind is not None:
            print(f"--- log of {' '.join(self.command)}\n{self.log()}", file=sys.stderr)

    def start(self) -> None:
        """
        Start the command and wait until its log says that it is ready.
        """
        # Appending: programs that open /dev/stdout anew (nginx, supervisord) would else write over each other.
        with self._log_path.open("ab") as log:
            self._process = subprocess.Popen(
                self.command,
                cwd=self._cwd,
                env=self._env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        if self._ready is None:
            return
        pattern, count = self._ready
        try:
            self.wait_for_log(pattern, START_SECONDS, count=count)
        except BaseException as error:
            # __exit__ is not called when __enter__ raises.
            self.__exit__(type(error), error, error.__traceback__)
            raise

    @property
    def process(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise RuntimeError(f"{self.command[0]} was not started; use the server in a with block")
        return self._process

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def folder(self) -> Path:
        """
        The server's own temporary folder: its working directory unless one was given, gone after the with block.
        """
        return self._folder

    @property
    def url(self) -> str:
        if self._url is not None:
            return self._url
        if self._address is None:
            raise RuntimeError("neither url nor address was given")
        found = self.wait_for_log(self._address, START_SECONDS)[1]
        return found if found.startswith("http") else f"http://{found}"

    @property
    def metrics_url(self) -> str:
        return self.wait_for_log(METRICS_LINE, START_SECONDS)[1]

    def log(self) -> str:
        if not self._log_path.exists():
            return self._kept_log
        self._kept_log = self._log_path.read_text(errors="replace")
        return self._kept_log

    def wait_for_log(
        self, pattern: re.Pattern[str] | str, timeout: float = START_SECONDS, *, count: int = 1
    ) -> re.Match[str]:
        """
        Wait until *pattern* (a line's start is `(?m:^)`) is in the log at least *count* times, and return its last match.
        """
        deadline = time.monotonic() + timeout
        while True:
            # Asked before the log is read: what a server logs as it ends is still found.
            ended = self.process.poll() is not None
            matches = list(re.finditer(pattern, self.log()))
            if len(matches) >= count:
                return matches[-1]
            if ended or time.monotonic() > deadline:
                why = f"ended with {self.process.returncode}" if ended else f"{timeout} s passed"
                raise RuntimeError(
                    f"{self.command[0]}: {why}, {pattern!r} seen {len(matches)} of {count} times in:\n{self.log()}"
                )
            time.sleep(POLL_SECONDS)

    def get(
        self,
        path: str,
        *,
        method: str = "GET",
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
        base: str | None = None,
    ) -> Response:
        """
        Send one request on a connection of its own; *base* is another server's URL than the application's.
        """
        return request((base or self.url).rstrip("/") + path, method=method, headers=headers, body=body)

    def scrape(self) -> str:
        url = self.metrics_url
        answer = request(url)
        if answer.status != 200:
            raise RuntimeError(f"{url}: status {answer.status}: {answer.body[:500]!r}")
        return answer.body.decode()

    def samples(self) -> Samples:
        return parse_samples(self.scrape())

    def kill(self, number: int) -> None:
        """
        Send signal *number* to the main process alone.
        """
        self.process.send_signal(number)

    def signal_child(self, pid: int, number: int) -> None:
        """
        Send signal *number* to one of the processes that this server started, and to no other.
        """
        if pid not in self.processes():
            raise ValueError(f"process {pid} is none of {self.command[0]}'s: {self.processes()}")
        os.kill(pid, number)

    def wait(self, timeout: float = STOP_SECONDS) -> int:
        """
        Wait for the main process to end and return its exit status.
        """
        return self.process.wait(timeout)

    def children(self, pid: int | None = None) -> list[int]:
        """
        Living children of the main process (or of *pid*), an exporter and zombies included.
        """
        found = []
        # One file a thread: a child belongs to the thread that made it.
        for path in Path(f"/proc/{pid or self.pid}/task").glob("*/children"):
            with contextlib.suppress(OSError):
                found += [int(word) for word in path.read_text().split()]
        return sorted(found)

    def descendants(self, pid: int | None = None) -> list[int]:
        found = []
        for child in self.children(pid):
            found += [child, *self.descendants(child)]
        return found

    def workers(self, pid: int | None = None) -> list[int]:
        """
        Children that were forked and not exec'd: they run the command line of their parent, an exporter its own.
        """
        parent = pid or self.pid
        own = command_line(parent)
        return [child for child in self.children(parent) if own and command_line(child) == own]

    def processes(self) -> list[int]:
        """
        All living processes that this server started, wherever they have moved, the main process included.
        """
        if self._process is None:
            return []
        mark = f"{MARK}={self._mark}".encode()
        # The session as well: nginx writes its title over its environment, and supervisord gives each program a group.
        return [pid for pid in living() if session(pid) == self.pid or mark in initial_environment(pid)]

    def stop(self) -> None:
        """
        End the server and everything that it started; what did not end by itself is kept in `leftovers`.
        """
        if self._process is None:
            return
        if self._process.poll() is None:
            self._process.send_signal(self.stop_signal)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(STOP_SECONDS)
        # What watches the server's end from outside is given time to notice it.
        left = eventually(self.processes, lambda pids: not pids, STOP_SECONDS)
        self.leftovers += [(pid, command_line(pid)) for pid in left]
        if left:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            for pid in self.processes():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        self._process.wait(STOP_SECONDS)
        self.log()


def gunicorn(
    app: str = "plain:app",
    *args: str,
    workers: int = 4,
    config: str | None = "python:wsgi_prom.hooks.gunicorn",
    cwd: str | os.PathLike[str] | None = None,
    **env: str | None,
) -> LiveServer:
    """
    Return a gunicorn that serves *app* with the hook, or without where *config* is None.
    """
    # A gevent worker that was still booting missed its SIGTERM (tried), and the default waits 30 s for it.
    options = ["--bind", "127.0.0.1:0", "--workers", str(workers), "--graceful-timeout", "10"]
    if config is not None:
        options += ["--config", config]
    return LiveServer(
        [BIN / "gunicorn", *options, *args, app],
        cwd=cwd,
        env=env,
        ready=(r"Booting worker with pid", workers),
        address=GUNICORN_LINE,
    )


def uwsgi(
    *args: str,
    workers: int = 4,
    module: str = "wsgi_prom.wsgi:application",
    app: str | None = "plain:app",
    hook: str | None = "wsgi_prom.hooks.uwsgi",
    cwd: str | os.PathLike[str] | None = None,
    port: int = 0,
    **env: str | None,
) -> LiveServer:
    """
    Return a uWSGI that serves *module* with the hook, or without where *hook* is None; *app* goes to WSGI_PROM_APP.

    A *port* of one's own (`hold_port`) is for a test that reloads the master: it binds a port chosen by the system anew.
    """
    options = ["--http-socket", f"127.0.0.1:{port}", "--master", "--need-app", "--die-on-term"]
    # A worker that is still loading its application misses the signal to end (tried without wsgi_prom too), and the
    # master waits 60 s for it by default.
    options += ["--processes", str(workers), "--worker-reload-mercy", "10"]
    if hook is not None:
        options += ["--shared-import", hook]
    return LiveServer(
        [BIN / "uwsgi", *options, "--module", module, *args],
        cwd=cwd,
        env={"WSGI_PROM_APP": app, **env},
        ready=(r"WSGI app 0 .* ready" if "--lazy-apps" in args else r"spawned uWSGI worker \d+", workers),
        address=UWSGI_LINE,
    )


def for_any_user(command: Sequence[str | os.PathLike[str]]) -> list[str]:
    """
    Return *command* so that a server started as root may drop to a user who can still read Python and the checkout.

    Only needed where they lie under a closed folder (a pyenv in /root, mode 0700: uWSGI as www-data ends with "No
    module named 'encodings'"): there the command gets a mount namespace of its own, in which they can be reached.
    """
    words = [os.fspath(word) for word in command]
    needed = sorted({sys.base_prefix, sys.prefix, str(ROOT)})
    closed = {path: folder for path in needed if (folder := closed_folder(Path(path))) is not None}
    for folder in sorted(set(closed.values())):
        kept = [path for path in needed if closed.get(path) == folder]
        words = ["unshare", "--mount", "sh", "-euc", OPEN_FOLDER, "sh", str(folder), *kept, "--", *words]
    return words


def environment(env: Mapping[str, str | None], *, mark: str, runtime: Path) -> dict[str, str]:
    """
    Return the environment of a server under test: this process's own, less all that would configure wsgi_prom.
    """
    inherited = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("WSGI_PROM_", "_WSGI_PROM_")) and name.lower() != "prometheus_multiproc_dir"
    }
    path = [str(ROOT), str(APPS), *filter(None, [os.environ.get("PYTHONPATH")])]
    ours: dict[str, str | None] = {
        "PATH": f"{BIN}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
        "PYTHONPATH": os.pathsep.join(path),
        "PYTHONUNBUFFERED": "1",
        # Servers that run as root or www-data leave no byte code of theirs in the checkout.
        "PYTHONDONTWRITEBYTECODE": "1",
        # gunicorn puts its control socket here; in the home directory all servers of a test run would share one.
        "XDG_RUNTIME_DIR": str(runtime),
        "WSGI_PROM_BIND": "127.0.0.1:0",
        MARK: mark,
    }
    merged = {**inherited, **ours, **env}
    return {name: value for name, value in merged.items() if value is not None}


def request(
    url: str,
    *,
    method: str = "GET",
    headers: Mapping[str, str] | None = None,
    body: bytes | None = None,
) -> Response:
    """
    Send one request and read the whole answer, whatever its status.
    """
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=REQUEST_SECONDS)
    with contextlib.closing(connection):
        return exchange(connection, target(parts.path, parts.query), method, headers, body)


def drive(url: str, paths: Iterable[str], clients: int = 8, *, keep_alive: bool = False) -> Driven:
    """
    Request each of *paths* once from *clients* threads, on a new connection each unless *keep_alive*, which uWSGI's
    http-socket does not go with: it closes after each answer and does not say so.

    Nothing is sent twice: a request that failed may have been served all the same. A body that has neither a length
    nor chunks ends where its connection does, so there a server that died in between is not told from the true end.
    """
    parts = urlsplit(url)
    prefix = parts.path.rstrip("/")
    shares: list[list[str]] = [[] for _ in range(clients)]
    for number, path in enumerate(paths):
        shares[number % clients].append(path)

    def client(share: list[str]) -> Driven:
        mine = Driven(Counter(), [])
        connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=REQUEST_SECONDS)
        for path in share:
            try:
                answer = exchange(connection, prefix + path)
            except (OSError, http.client.HTTPException) as error:
                mine.failed.append((path, error))
                connection.close()
            else:
                mine.answered[path, answer.status] += 1
                if not keep_alive:
                    connection.close()
        connection.close()
        return mine

    total = Driven(Counter(), [])
    with ThreadPoolExecutor(clients) as pool:
        for mine in pool.map(client, shares):
            total.answered.update(mine.answered)
            total.failed.extend(mine.failed)
    return total


def parse_samples(text: str) -> Samples:
    """
    Return the samples of an exposition by name and labels; a series that is there twice is an error.
    """
    found: Samples = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            key = (sample.name, frozenset(sample.labels.items()))
            # Prometheus 2.42 takes the last of duplicates and says nothing.
            if key in found:
                raise ValueError(f"{sample.name}{sample.labels}: more than once in one scrape")
            found[key] = sample.value
    return found


def labelled(samples: Samples, name: str) -> dict[Labels, float]:
    """
    Return the samples called *name*, by their labels.
    """
    return {labels: value for (found, labels), value in samples.items() if found == name}


def eventually(read: Callable[[], T], good: Callable[[T], bool], timeout: float = START_SECONDS) -> T:
    """
    Read until *good* or *timeout*, and return what was read last for the caller to assert on.
    """
    deadline = time.monotonic() + timeout
    while True:
        value = read()
        if good(value) or time.monotonic() > deadline:
            return value
        time.sleep(POLL_SECONDS)


def hold_port() -> socket.socket:
    """
    Return a socket bound to a free port, for a server that cannot report the port that the system chose.

    Keep it open while that server runs: Linux lets a second socket bind and listen as long as both have SO_REUSEADDR
    and this one does not listen, and gives the port to nobody who asks for any (tried: nginx, waitress, 3000 binds).
    """
    holder = socket.socket()
    holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    # All addresses, so that the port is free whichever of them the server listens on.
    holder.bind(("", 0))
    return holder


def exchange(
    connection: http.client.HTTPConnection,
    path: str,
    method: str = "GET",
    headers: Mapping[str, str] | None = None,
    body: bytes | None = None,
) -> Response:
    connection.request(method, path, body=body, headers=dict(headers or {}))
    answer = connection.getresponse()
    return Response(answer.status, answer.headers, answer.read())


def target(path: str, query: str) -> str:
    return f"{path or '/'}?{query}" if query else path or "/"


def closed_folder(path: Path) -> Path | None:
    """
    Return the outermost folder on the way to *path* that others may not pass, None where there is none.
    """
    for folder in reversed([path, *path.parents]):
        if not folder.stat().st_mode & 0o001:
            return folder
    return None


def living() -> list[int]:
    """
    All processes but zombies, which have ended and wait only for their parent to ask.
    """
    pids = (int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit())
    return [pid for pid in pids if stat_fields(pid)[:1] not in ([], ["Z"], ["X"])]


def session(pid: int) -> int:
    fields = stat_fields(pid)
    return int(fields[3]) if fields else 0


def parent(pid: int) -> int:
    fields = stat_fields(pid)
    return int(fields[1]) if fields else 0


def stat_fields(pid: int) -> list[str]:
    """
    Return the fields of /proc/PID/stat after the name, the state first; none for a process that is gone.
    """
    with contextlib.suppress(OSError):
        # The name may itself have blanks and parentheses.
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return []


def command_line(pid: int) -> str:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    return ""


def initial_environment(pid: int) -> bytes:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/environ").read_bytes()
    return b""


def user_id(pid: int) -> int:
    """
    Return the effective user id of a process, -1 for one that is gone.
    """
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("Uid:"):
                return int(line.split()[2])
    return -1
