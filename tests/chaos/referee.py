"""
The referee of chaos cases: traffic with known answers, a scrape every tenth of a second, and three questions at the
end. Did every request get the answer that it would have got without us? Is every completed request counted exactly
once? Did each scrape answer, parse, and not go back?
"""

# Rule 1: a request that a fault has cut off is in doubt only if it was under way at that instant, and saw its
#         connection end. Whatever else fails is a failed request.
# Rule 2: nothing is sent twice: a request that failed may have been served all the same.
# Rule 3: a case that has ended is a row of the table, whatever its verdict.

from __future__ import annotations

import contextlib
import json
import os
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from http.client import BadStatusLine, HTTPException, IncompleteRead
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

import live
import servers
from chaos.scale import scale

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from types import TracebackType
    from typing import Self

    from live import LiveServer, Samples

SCRAPE_EVERY: Final = 0.1

# How a connection ends whose server is gone. A refusal, a timeout or a wrong answer is none of these.
CUT: Final = (ConnectionResetError, BrokenPipeError, BadStatusLine, IncompleteRead)

# What a scrape fails with: no connection, no page, or one that is not to be parsed.
UNANSWERED: Final = (OSError, HTTPException, RuntimeError, ValueError)

# What belongs to one process, and starts anew with it; and gauges, which may do so, one of which ends in _sum.
OF_A_PROCESS: Final = ("process_", "python_", "uwsgi_", "app_gauge_", "wsgi_listen_")

Row = tuple[str, str]


class Kind(NamedTuple):
    """
    A request, and the answer of the bare application; *route* is its label, and a *body* of None means the server's
    own.
    """

    path: str
    route: str
    status: int
    body: bytes | None
    headers: tuple[tuple[str, str], ...] = ()


# Each answer has a length, so that a client tells a whole one from one that was cut off.
KINDS: Final = (
    Kind("/", "/", 200, b"ok"),
    Kind("/record?kind=a&v=3", "/record", 200, b"recorded"),
    Kind("/pieces", "/pieces", 200, b"piece 0\npiece 1\npiece 2\n"),
    Kind("/nowhere", "unmatched", 404, b"no such path\n"),
    # Long enough to be under way when something happens.
    Kind("/sleep?s=0.02", "/sleep", 200, b"slept"),
)


class Cut(NamedTuple):
    """A request without a whole answer, with the times at which it was sent and at which that was noticed."""

    kind: Kind
    sent: float
    ended: float
    why: str


class Window(NamedTuple):
    """
    The time of a fault that may interrupt requests, of one *route* if not all; with *down* the server may refuse
    others.
    """

    began: float
    ended: float
    route: str | None
    down: bool

    def explains(self, cut: Cut) -> bool:
        return self.began <= cut.ended and cut.sent <= self.ended and self.route in {None, cut.kind.route}


class Figures(NamedTuple):
    """A row of the table."""

    case: str
    faults: int = 0
    requests: int = 0
    wrong: int = 0
    lost: int = 0
    doubled: int = 0
    in_doubt: int = 0
    scrapes: int = 0
    failed_scrapes: int = 0
    went_back: int = 0
    seconds: float = 0.0


# The rows of this run, in the order in which the cases ended.
table: Final[list[Figures]] = []


def file(figures: Figures) -> None:
    """Put *figures* into the table, and into the file that CHAOS_ROWS names."""
    table.append(figures)
    path = os.environ.get("CHAOS_ROWS")
    if path:
        with Path(path).open("a") as rows:
            rows.write(json.dumps(figures._asdict()) + "\n")


class Tally:
    """The outcome of the requests. Thread safe."""

    def __init__(self) -> None:
        self.completed: Counter[Row] = Counter()
        self.cut: list[Cut] = []
        self.refused: list[Cut] = []
        self.wrong: list[str] = []
        self._lock = threading.Lock()

    def send(self, url: str, kind: Kind) -> bool:
        """Send one request, and tell whether it was completed with the right answer."""
        sent = time.monotonic()
        try:
            answer = live.request(url + kind.path, headers=dict(kind.headers))
        except CUT as error:
            with self._lock:
                self.cut.append(Cut(kind, sent, time.monotonic(), repr(error)))
            return False
        except ConnectionRefusedError as error:
            with self._lock:
                self.refused.append(Cut(kind, sent, time.monotonic(), repr(error)))
            return False
        except (OSError, HTTPException) as error:
            with self._lock:
                self.wrong.append(f"{kind.path}: {error!r}")
            return False
        right = answer.status == kind.status and kind.body in {None, answer.body}
        with self._lock:
            # Completed, if not as it should be: it is counted all the same.
            self.completed[kind.route, str(answer.status)] += 1
            if not right:
                self.wrong.append(f"{kind.path}: {answer.status} {answer.body[:80]!r}")
        return right

    @property
    def count(self) -> int:
        with self._lock:
            return self.completed.total()


class Scrapes:
    """Successive scrapes, each compared with the one before. Thread safe."""

    def __init__(self, read: Callable[[], Samples]) -> None:
        self.read = read
        self.lock = threading.Lock()
        self.last: Samples = {}
        self.taken = 0
        self.failed: list[str] = []
        self.went_back: list[str] = []

    def scrape(self) -> bool:
        """Scrape, and tell whether there was a page."""
        with self.lock:
            self.taken += 1
            try:
                page = self.read()
            except UNANSWERED as error:
                self.failed.append(f"scrape {self.taken}: {error!r}")
                return False
            back = servers.gone_back(self.last, page)
            self.went_back += [
                f"scrape {self.taken}: {line}" for line in back if not line.startswith(OF_A_PROCESS)
            ]
            self.last = page
            return True


class Verdict(NamedTuple):
    """The difference between the counts and the completed requests, where a request in doubt may be counted or not."""

    lost: int
    doubled: int


def compare(completed: Counter[Row], in_doubt: Counter[str], counted: dict[Row, float]) -> Verdict:
    """
    Compare the requests *completed* and those *in_doubt* by route with those *counted*.

    By route, since a worker that is ended in mid-request may count it with a status that its client never saw.
    """
    lost = sum(max(0, count - int(counted.get(row, 0))) for row, count in completed.items())
    surplus: Counter[str] = Counter()
    for (route, status), count in counted.items():
        surplus[route] += max(0, int(count) - completed[route, status])
    doubled = sum(max(0, count - in_doubt[route]) for route, count in surplus.items())
    return Verdict(lost, doubled)


class Case:
    """
    Traffic and scrapes during a `with` block, in which a test does harm. Its end asks the three questions, and raises
    AssertionError with all that was wrong. *kinds* are the requests, *clients* the number in progress at a time (none
    for a test that sends its own by `send`); between two requests of a client there are *rest* seconds, so that a small
    machine has time for the rest of the test. *read* returns a page, by default a scrape of *server*. A case that is
    not *filed* is no row of the table.
    """

    def __init__(
        self,
        name: str,
        server: LiveServer,
        *,
        kinds: tuple[Kind, ...] = KINDS,
        clients: int = 4,
        rest: float = scale.rest,
        read: Callable[[], Samples] | None = None,
        filed: bool = True,
    ) -> None:
        self.name = name
        self.server = server
        self.tally = Tally()
        self.scrapes = Scrapes(read or self.page)
        self.figures = Figures(name)
        self._filed = filed
        # Faults that were injected, and the instants at which one may have cut requests off.
        self.faults = 0
        # Requests whose counts a fault may destroy: recorded in a file after it was damaged, say.
        self.may_lose = 0
        self._windows: list[Window] = []
        self._kinds = kinds
        self._clients = clients
        self._rest = rest
        self._url = ""
        self._metrics_url = ""
        self._ended = threading.Event()
        self._scraped = threading.Event()
        self._pool = ThreadPoolExecutor(clients + 1)
        self._running: list[object] = []
        self._started = time.monotonic()

    def __enter__(self) -> Self:
        self._url = self.server.url.rstrip("/")
        self._metrics_url = self.server.metrics_url
        self._started = time.monotonic()
        self._running = [self._pool.submit(self._drive, number) for number in range(self._clients)]
        self._running.append(self._pool.submit(self._scrape))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop_traffic()
        self._scraped.set()
        self._pool.shutdown()
        wrong = self._judge(final=kind is None)
        if kind is None:
            assert [] == wrong, "\n".join(wrong)

    @contextlib.contextmanager
    def fault(
        self, count: int = 1, *, cuts: bool = True, route: str | None = None, down: bool = False
    ) -> Iterator[None]:
        """
        Do *count* faults in the block. Requests in progress may be interrupted, those of one *route* if not all, unless
        the fault *cuts* none. With *down* the server is gone at the end, and refuses.
        """
        began = time.monotonic()
        try:
            yield
        finally:
            self.faults += count
            if cuts:
                self._windows.append(Window(began, time.monotonic(), route, down))

    @contextlib.contextmanager
    def unscraped(self) -> Iterator[None]:
        """Pause scrapes during the block, in which nobody answers them."""
        with self.scrapes.lock:
            yield

    def send(self, kind: Kind) -> bool:
        """Send one request besides the traffic, and tell whether it was completed with the right answer."""
        return self.tally.send(self._url, kind)

    def send_all(self, kinds: Iterable[Kind], clients: int = 4) -> None:
        """Send *kinds* besides the traffic, some at a time."""
        with ThreadPoolExecutor(clients) as pool:
            list(pool.map(self.send, kinds))

    def wait_for(self, count: int) -> None:
        """Wait until *count* more requests were completed, as long as some are from time to time."""
        found = self.tally.count
        wanted = found + count
        while found < wanted:
            before = found
            found = live.latest(lambda: self.tally.count, lambda now, than=before: now > than)
            assert found > before, self.tally.wrong

    def wait_for_scrapes(self, count: int) -> None:
        """Wait until *count* more scrapes have answered or failed."""
        wanted = self.scrapes.taken + count
        assert live.eventually(lambda: self.scrapes.taken, lambda found: found >= wanted) >= wanted

    def page(self) -> Samples:
        """Scrape once more, and return the page. Raises what a scrape may fail with."""
        # The address was read from the log once: that of a server under load is long.
        try:
            answer = live.request(self._metrics_url)
        except ConnectionRefusedError:
            # An exporter that was started anew on a port that the system chose has another.
            before, self._metrics_url = self._metrics_url, self.server.metrics_url
            if before == self._metrics_url:
                raise
            answer = live.request(self._metrics_url)
        if answer.status != 200:
            raise RuntimeError(f"{self._metrics_url}: status {answer.status}: {answer.body[:300]!r}")
        return live.parse_samples(answer.body.decode())

    def stop_traffic(self) -> None:
        """Let the requests in progress end, and send no more."""
        self._ended.set()
        for running in self._running[: self._clients]:
            running.result()  # type: ignore[attr-defined]

    def _drive(self, number: int) -> None:
        kinds = self._kinds[number % len(self._kinds) :] + self._kinds[: number % len(self._kinds)]
        while True:
            for kind in kinds:
                if self._ended.is_set():
                    return
                if not self.send(kind):
                    self._ended.wait(0.05)  # not all of a run's failures in one second
                self._ended.wait(self._rest)

    def _scrape(self) -> None:
        due = time.monotonic()
        while not self._scraped.is_set():
            self.scrapes.scrape()
            due = max(due + SCRAPE_EVERY, time.monotonic())
            self._scraped.wait(due - time.monotonic())

    def _recorded(self, in_doubt: Counter[str]) -> tuple[Counter[Row], Counter[str], dict[Row, float]]:
        """Return what `compare` asks for, of the application's own counter."""
        row = "/record", "200"
        counted = servers.value(self.scrapes.last, "app_orders_total", kind="a") or 0.0
        return Counter({row: self.tally.completed[row]}), in_doubt, {row: counted / 3}

    def _judge(self, *, final: bool) -> list[str]:
        in_doubt: Counter[str] = Counter()
        wrong = list(self.tally.wrong)
        for cut in self.tally.cut:
            if any(window.explains(cut) for window in self._windows):
                in_doubt[cut.kind.route] += 1
            else:
                wrong.append(f"{cut.kind.path}: cut off without a fault: {cut.why}")
        wrong += [
            f"{refused.kind.path}: {refused.why}"
            for refused in self.tally.refused
            if not any(window.down and window.explains(refused) for window in self._windows)
        ]
        verdict = Verdict(0, 0)
        counted: dict[Row, float] = {}
        # Once, and not until it is right: what is completed is counted at the next scrape.
        if final and self.scrapes.scrape():
            counted = servers.requests_counted(self.scrapes.last)
            verdict = compare(self.tally.completed, in_doubt, counted)
            own = compare(*self._recorded(in_doubt))
            verdict = Verdict(verdict.lost + own.lost, verdict.doubled + own.doubled)
        self.figures = Figures(
            case=self.name,
            faults=self.faults,
            requests=self.tally.count + len(self.tally.cut),
            wrong=len(wrong),
            lost=verdict.lost,
            doubled=verdict.doubled,
            in_doubt=in_doubt.total(),
            scrapes=self.scrapes.taken,
            failed_scrapes=len(self.scrapes.failed),
            went_back=len(self.scrapes.went_back),
            seconds=round(time.monotonic() - self._started, 1),
        )
        if self._filed:
            file(self.figures)
        if verdict.lost > self.may_lose or verdict.doubled:
            wrong.append(
                f"{verdict}: completed {dict(self.tally.completed)}, in doubt {dict(in_doubt)}, {counted=}"
            )
        return [*wrong, *self.scrapes.failed, *self.scrapes.went_back]
