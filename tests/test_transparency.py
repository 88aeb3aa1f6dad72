"""
A measured application is, byte for byte, the bare one on the wire, in its exceptions, and in the use of its iterables.
Each server runs twice, with the application bare and measured, and both get the same bytes.
"""

from __future__ import annotations

import io
import re
import traceback
import warnings
from collections import Counter
from typing import TYPE_CHECKING, Any, NamedTuple
from wsgiref.util import FileWrapper, setup_testing_defaults
from wsgiref.validate import validator

import live
import pairs
import pytest
import servers
import wire
from apps import protocol
from apps.protocol import CASES
from pairs import Fleet, Pair
from werkzeug.middleware.lint import LintMiddleware

from wsgi_prom import PrometheusMiddleware
from wsgi_prom.merge.collector import Collector

if TYPE_CHECKING:
    from collections.abc import Iterator


# The folder of the applications' own lines in a traceback.
APPLICATIONS = protocol.__file__.removesuffix("__init__.py")

# One server of each code that handles what an application returns, and if it has several, one that keeps connections
# open: all cases. gunicorn's and uWSGI's other kinds of workers share that code.
FULLY = ("wsgiref", "waitress", "cheroot", "gunicorn gthread", "uwsgi prefork")
SERVERS = [name for name in pairs.ALL if name != "uwsgi keep-alive"]
# What the other kinds of workers are asked for: each type of result, framed and not, exceptions at each stage, bodies.
SOME = re.compile(
    r"(list|tuple|generator)_(one|many|length)|iterator(_close|_sized)?|write_(only|length|then_raise)"
    r"|file_(real|bytesio)(_length)?|file_(without_close|read_fails)|raise_(before|first|between|in_close)\w*"
    r"|head_(list|generator|file)|no_content|read_(all|not|partly|line_part)(_chunked)?|expect_(read|not)"
    r"|length_too_short|start_again_(before|after)|method_\w+"
)
# uWSGI's socket that keeps connections open puts no end of its own to a body: its client would wait.
FRAMED = re.compile(r"(list|tuple|bytes|generator|iterator|write|file_real|empty)\w*_length")


def cases_of(server: str) -> list[str]:
    """Return the names of the cases that *server* is asked for."""
    some = FRAMED if server == "uwsgi keep-alive" else SOME
    return [name for name in CASES if server in FULLY or some.fullmatch(name)]


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    with Fleet(tmp_path_factory.mktemp("events")) as found:
        yield found


@pytest.fixture(scope="module")
def pair(request: pytest.FixtureRequest, fleet: Fleet) -> Pair:
    """Return the pair of the server that the test is parametrized with."""
    return fleet[request.param]


class Asked(NamedTuple):
    """
    The answers of both servers of a pair to their cases, by HTTP version. The routes of the cases begin with
    /routed/closing in HTTP/1.1, and with /routed/old in HTTP/1.0.
    """

    closing: dict[str, dict[str, bytes]]
    old: dict[str, dict[str, bytes]]


@pytest.fixture(scope="module")
def asked(pair: Pair) -> Asked:
    """Return the answers to all that the servers of the pair are asked, once for all tests."""
    found = Asked({}, {})
    for which, url in pair.urls().items():
        found.closing[which] = {
            name: wire.exchange(url, closing_request(name)) for name in cases_of(pair.name)
        }
        for name in protocol.BIG:
            leave_in_the_middle(url, f"/routed/closing/{name}?closing-{name}")
        found.old[which] = {name: wire.exchange(url, old_request(name)) for name in cases_of(pair.name)}
    return found


def closing_request(name: str) -> bytes:
    """Return the request of a case in HTTP/1.1, after which the server closes the connection."""
    case = CASES[name]
    headers = (*case.headers, ("Connection", "close"))
    return wire.request(f"/routed/closing/{name}?closing-{name}", case.method, headers, case.body)


def old_request(name: str) -> bytes:
    """Return the request of a case in HTTP/1.0, whose body's end is the connection's."""
    case = CASES[name]
    return wire.request(f"/routed/old/{name}", case.method, case.headers, case.body, "1.0")


def leave_in_the_middle(url: str, path: str) -> None:
    """Request a long answer, and close the connection when it has begun."""
    with wire.Connection(url) as connection:
        connection.send(wire.request(path))
        assert len(connection.read(100)) == 100
        connection.go_away()


def differing(bare: dict[str, bytes], measured: dict[str, bytes]) -> list[str]:
    """Return where two servers' answers to the same cases differ, readable."""
    return [
        wire.readable({f"{name} bare": answer, f"{name} measured": measured[name]})
        for name, answer in bare.items()
        if answer != measured[name]
    ]


# On the wire.


@pytest.mark.parametrize("pair", SERVERS, indirect=True)
def test_the_bytes_on_the_wire_are_those_of_the_bare_application(pair: Pair, asked: Asked) -> None:
    """Status line, headers in order and body are those of the bare application, in HTTP/1.1 and HTTP/1.0."""
    assert [] == differing(**asked.closing)
    assert [] == differing(**asked.old)


@pytest.mark.parametrize("pair", [name for name in pairs.ALL if name not in pairs.CLOSING], indirect=True)
def test_a_connection_stays_open_as_that_of_the_bare_application(pair: Pair) -> None:
    """A second request on the connection is answered, or the connection closed, as without us."""

    def ask(url: str, name: str) -> bytes:
        case = CASES[name]
        data = wire.request(f"/{name}", case.method, case.headers, case.body)
        answers = wire.in_turn(url, data, case.method, closing=pair.name != "uwsgi keep-alive")
        return b"".join(answers.values())

    bare, measured = (
        {name: ask(url, name) for name in cases_of(pair.name) if not CASES[name].short}
        for url in pair.urls().values()
    )
    assert [] == differing(bare, measured)


@pytest.mark.parametrize("pair", SERVERS, indirect=True)
def test_a_request_behind_another_is_answered_as_by_the_bare_application(pair: Pair) -> None:
    """A pipelined request behind a body that the application left unread is answered as without us."""
    # A server that closes with so much unread resets the connection, and what it has yet to send is lost.
    most = 1000 if pair.name in pairs.CLOSING else 10**9
    names = [name for name in cases_of(pair.name) if 0 < len(CASES[name].body) < most]

    def ask(url: str, name: str) -> bytes:
        case = CASES[name]
        return wire.exchange(url, wire.request(f"/{name}", case.method, case.headers, case.body) + wire.LAST)

    bare, measured = ({name: ask(url, name) for name in names} for url in pair.urls().values())
    assert [] == differing(bare, measured)


@pytest.mark.parametrize("pair", ["waitress", "cheroot", "gunicorn sync", "gunicorn gthread"], indirect=True)
@pytest.mark.parametrize("case", ["expect_read", "expect_late", "expect_not", "expect_raise"])
def test_a_client_that_waits_for_100_continue_gets_what_it_would_get(pair: Pair, case: str) -> None:
    """A client with Expect: 100-continue gets the interim answer, and the final one, as without us."""
    _, method, headers, body, _, _ = CASES[case]
    found = []
    for url in pair.urls().values():
        with wire.Connection(url) as connection:
            connection.send(wire.request(f"/{case}?waits", method, (*headers, ("Connection", "close"))))
            first = connection.answer(method)
            if wire.INTERIM.match(first):
                connection.send(body)
            found.append(wire.steady(first + connection.rest(), url))
    bare, measured = found
    assert bare == measured
    assert wire.INTERIM.match(bare)


# What becomes of iterables, and what is counted.


@pytest.mark.parametrize("pair", SERVERS, indirect=True)
def test_close_is_called_exactly_once(pair: Pair, asked: Asked) -> None:
    """close() is called once on every iterable and file that has it, even if the client leaves in the middle."""
    expected = {name: CASES[name].closed for name in cases_of(pair.name) if CASES[name].closed}
    expected |= dict.fromkeys(protocol.BIG, 1)

    def closed(which: str) -> dict[str, int]:
        return dict(Counter(re.findall(r"closing-(\w+) close", "\n".join(pair.noted(which)))))

    found = {
        which: live.eventually(lambda: closed(which), lambda counts: counts == expected, 10)  # noqa: B023
        for which in ("bare", "measured")
    }
    assert {"bare": expected, "measured": expected} == found


# uWSGI raises what start_response is given, in the application, also before the headers went out: the client has the
# second status and no body.
UWSGI_RAISES = {"start_again_before", "start_again_before_in_generator", "start_first_with_exc_info"}


@pytest.mark.parametrize("pair", SERVERS, indirect=True)
def test_a_request_is_one_observation_with_the_status_that_its_client_has(pair: Pair, asked: Asked) -> None:
    """
    Each request is one observation with the client's status. One that fails before its first byte is a 500 and one
    exception, though some servers send its intended status without a body.
    """
    expected: dict[str, Any] = {}
    for name, interim in asked.closing["measured"].items():
        answer = wire.INTERIM.sub(b"", interim)
        status = answer.split(None, 2)[1].decode() if answer else "500"
        if name in protocol.FAILING or (pair.name in pairs.UWSGI and name in UWSGI_RAISES):
            status = "500"
        if name not in protocol.MISTAKES:
            expected[f"/routed/closing/{name}", status] = 1.0
        if name in protocol.FAILING:
            expected[f"/routed/closing/{name}", "raised"] = "FailureError"

    def found() -> dict[str, Any]:
        samples = pair.samples()
        raised = live.labelled(samples, "http_request_exceptions_total")
        routes = {route for route, _ in expected}
        return {
            **{
                key: count
                for key, count in servers.requests_counted(samples).items()
                if key[0] in routes and count
            },
            **{
                (dict(labels)["route"], "raised"): dict(labels)["exception"]
                for labels, count in raised.items()
                if count == 1 and (dict(labels)["route"], "raised") in expected
            },
        }

    assert expected == live.eventually(found, lambda counted: counted == expected, 5)


@pytest.mark.parametrize("pair", SERVERS, indirect=True)
def test_the_size_of_a_response_is_that_of_the_body_on_the_wire(pair: Pair, asked: Asked) -> None:
    """The size is that of the body on the wire, for every method, status and kind of body."""
    expected = {}
    for name in asked.old["measured"].keys() - protocol.MISTAKES - protocol.FAILING - UWSGI_RAISES:
        head, _, body = wire.INTERIM.sub(b"", asked.old["measured"][name]).partition(wire.HEAD_END)
        # An error is a page of the server's own. And a wrapper of the application's own is taken for the server's.
        if head.split(None, 2)[1:2] < [b"400"] and name != "file_wrapper_replaced":
            expected[f"/routed/old/{name}"] = float(len(body))

    def found() -> dict[str, float]:
        summed = live.labelled(pair.samples(), "http_response_size_bytes_sum")
        sizes = {dict(labels)["route"]: value for labels, value in summed.items()}
        return {route: sizes[route] for route in expected.keys() & sizes.keys()}

    assert expected == live.eventually(found, lambda sizes: sizes == expected, 5)


@pytest.mark.parametrize("pair", SERVERS, indirect=True)
@pytest.mark.usefixtures("asked")
def test_nothing_stays_in_progress(pair: Pair) -> None:
    """No request stays in progress, even if the client leaves."""
    assert live.eventually(pair.in_progress, lambda found: found == 0, 5) == 0


@pytest.mark.parametrize("pair", SERVERS, indirect=True)
def test_a_stream_takes_as_long_as_its_last_chunk(pair: Pair) -> None:
    """The duration of a stream lasts until its last chunk, though the application returned at once."""
    url = pair.urls()["measured"]
    wire.exchange(url, wire.request("/routed/stream", headers=(("Connection", "close"),)))
    labels = {"method": "GET", "route": "/routed/stream"}

    def observed() -> tuple[float | None, float | None]:
        samples = pair.samples()
        return (
            servers.value(samples, "http_request_duration_seconds_count", **labels),
            servers.value(samples, "http_request_duration_seconds_sum", **labels),
        )

    count, seconds = live.eventually(observed, lambda found: found[0] == 1, 5)
    assert count == 1
    assert seconds is not None
    assert seconds >= protocol.STREAM_SECONDS


@pytest.mark.parametrize("pair", SERVERS, indirect=True)
@pytest.mark.usefixtures("asked")
def test_a_method_that_nobody_knows_is_other(pair: Pair) -> None:
    """The method FOOBAR becomes OTHER on all these servers, which let it through."""

    def counted() -> dict[str, float]:
        found = live.labelled(pair.samples(), "http_requests_total")
        return {
            dict(labels)["method"]: count
            for labels, count in found.items()
            if dict(labels)["route"] == "/routed/closing/method_unknown"
        }

    assert {"OTHER": 1.0} == live.eventually(counted, bool, 5)


# In this process.


class Server:
    """One request, served strictly by PEP 3333, and all that a server sees of it."""

    def __init__(self, app: Any, name: str) -> None:
        case = CASES[name]
        self.starts: list[Any] = []
        self.sent: list[Any] = []
        self.events: list[str] = []
        self.error: BaseException | None = None
        self.log = io.StringIO()
        self.environ: dict[str, Any] = {
            "REQUEST_METHOD": case.method,
            "SCRIPT_NAME": "",
            "PATH_INFO": f"/{name}",
            "QUERY_STRING": "",
            "CONTENT_LENGTH": str(len(case.body)),
            "CONTENT_TYPE": "text/plain",
            "wsgi.input": io.BytesIO(case.body),
            "wsgi.errors": self.log,
            "wsgi.file_wrapper": FileWrapper,
            "protocol.events": self.events,
        }
        setup_testing_defaults(self.environ)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                self._serve(app)
            except BaseException as error:
                self.error = error
        # That a file is left open is told when it is collected, which is not the judge's verdict.
        self.warned = {
            f"{warning.category.__name__}: {warning.message}"
            for warning in caught
            if warning.category is not ResourceWarning
        }

    def seen(self) -> str:
        """Return all of it as text, less the addresses of objects."""
        error = f"{type(self.error).__name__}: {self.error}"
        found = [*self.starts, *self.sent, error, *self.events, self.log.getvalue(), *sorted(self.warned)]
        return re.sub(r" at 0x[0-9a-f]+", "", "\n".join(map(str, found)))

    def _serve(self, app: Any) -> None:
        result = app(self.environ, self._start_response)
        try:
            for chunk in result:
                self.sent.append(chunk)
        finally:
            if hasattr(result, "close"):
                result.close()

    def _start_response(self, status: Any, headers: Any, exc_info: Any = None) -> Any:
        if exc_info and self.sent:
            raise exc_info[1]
        self.starts.append((status, list(headers), repr(exc_info and exc_info[1])))
        return self.sent.append


JUDGES = {"validator": validator, "lint": LintMiddleware}
# From the server inwards: without the middleware, and with it.
ARRANGEMENTS = {
    "outside": (["judge"], ["judge", "measured"]),
    "inside": (["judge"], ["measured", "judge"]),
    "both sides": (["judge", "judge"], ["judge", "measured", "judge"]),
}


def arranged(layers: list[str], judge: Any) -> Any:
    app: Any = protocol.app
    for layer in reversed(layers):
        app = PrometheusMiddleware(app) if layer == "measured" else judge(app)
    return app


@pytest.mark.parametrize("judge", JUDGES)
def test_a_judge_finds_what_it_finds_in_the_bare_application(judge: str, in_child: Any) -> None:
    """PEP 3333's validator and Werkzeug's lint give the same verdict around and inside the middleware as without it."""

    def work() -> Any:
        return [
            {
                (case, name): Server(arranged(layers[which], JUDGES[judge]), case).seen()
                for case in CASES
                for name, layers in ARRANGEMENTS.items()
            }
            for which in (0, 1)
        ]

    bare, measured = in_child(work)
    assert bare == measured


@pytest.mark.parametrize("judge", JUDGES)
def test_a_judge_has_nothing_to_say_of_what_is_right(judge: str, in_child: Any) -> None:
    """The validator and the lint accept a correct application, so that equal verdicts mean something."""
    right = r"(list|tuple)_(one|many|empty)\w*|(generator|lazy_start|iterator|iterable|write|file|read|head)(_\w+)?"
    wrong = r"file_close_fails|head_(raise|empty)|read_by_next\w*|read_line\w*|write_then_raise"
    names = [
        name
        for name in sorted(CASES.keys() - protocol.MISTAKES - protocol.FAILING)
        if re.fullmatch(right, name) and not re.fullmatch(wrong, name)
    ]

    def work() -> Any:
        found = {
            name: Server(arranged(["judge", "measured", "judge"], JUDGES[judge]), name) for name in names
        }
        return {name: server.seen() for name, server in found.items() if server.error or server.warned}

    assert len(names) > 50
    assert {} == in_child(work)


def test_an_exception_passes_unchanged_with_its_traceback(in_child: Any) -> None:
    """
    The same exception object reaches the server, with its cause and each of the application's lines in its traceback.
    """

    def frames(error: BaseException | None) -> list[tuple[str, int | None]]:
        found = traceback.extract_tb(error and error.__traceback__)
        return [(frame.name, frame.lineno) for frame in found if frame.filename.startswith(APPLICATIONS)]

    def serve(app: Any, case: str) -> Any:
        server = Server(app, case)
        error = server.error
        raised = server.environ.get("protocol.raised")
        return (
            error is raised,
            type(error).__name__,
            str(error),
            frames(error),
            repr(error and error.__cause__),
            repr(error and error.__context__),
            error and error.__suppress_context__,
        )

    def work() -> Any:
        apps = (protocol.app, PrometheusMiddleware(protocol.app))
        return [{case: serve(app, case) for case in CASES} for app in apps]

    bare, measured = in_child(work)
    assert bare == measured


def test_close_before_the_first_chunk_leaves_nothing_in_progress(in_child: Any) -> None:
    """A response that is closed before its first chunk is counted once and no longer in progress."""

    def work() -> Any:
        found = {}
        for name in ("generator", "lazy_start", "iterator_close", "iterator_sized"):
            environ: dict[str, Any] = {"PATH_INFO": f"/routed/{name}", "protocol.events": []}
            setup_testing_defaults(environ)
            result: Any = PrometheusMiddleware(protocol.app)(environ, lambda *_: None)
            result.close()
            # A generator that has not begun has nothing to finish: its own close() runs no line of it.
            found[name] = environ["protocol.events"]
        samples = {
            (name, *(text for _, text in labels)): value
            for family in Collector(None).collect()
            for (name, labels), value in zip(family.samples, family.values, strict=True)
        }
        counted = {
            key[2:]: value for key, value in samples.items() if key[0] == "http_requests_total" and value
        }
        return found, counted, samples["http_requests_in_progress",]

    assert in_child(work) == (
        {"generator": [], "lazy_start": [], "iterator_close": ["close"], "iterator_sized": ["close"]},
        {
            ("/routed/generator", "200"): 1,
            ("/routed/lazy_start", "500"): 1,
            ("/routed/iterator_close", "200"): 1,
            ("/routed/iterator_sized", "200"): 1,
        },
        0,
    )
