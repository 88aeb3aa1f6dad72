"""The middleware by itself: what it hands to the server and records, for each kind of response."""

from __future__ import annotations

import gc
import io
import logging
import os
import weakref
from functools import partial
from typing import TYPE_CHECKING, Any
from wsgiref.util import FileWrapper, setup_testing_defaults
from wsgiref.validate import validator

import pytest
from samples import may_happen

from wsgi_prom import PrometheusMiddleware, set_route
from wsgi_prom.merge.collector import Collector

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

HEADERS = [("Content-Type", "text/plain")]


class FailureError(Exception):
    """The exception that the test applications raise."""


class Closable:
    """An iterable with close(), which notes each call."""

    def __init__(self, chunks: list[bytes], start: Callable[[], object] | None = None) -> None:
        self.chunks = chunks
        self.closed = 0
        self._start = start

    def __iter__(self) -> Iterator[bytes]:
        if self._start:
            self._start()
        yield from self.chunks

    def close(self) -> None:
        self.closed += 1


def environ_of(**more: Any) -> dict[str, Any]:
    environ: dict[str, Any] = {"SCRIPT_NAME": "", "PATH_INFO": "/", "QUERY_STRING": "", **more}
    setup_testing_defaults(environ)
    return environ


def all_recorded() -> dict[str, float]:
    """Return what this process has recorded in its memory: `name{label values}` and the figure."""
    return {
        name + "{" + ",".join(value for _, value in labels) + "}": value
        for family in Collector(None).collect()
        for (name, labels), value in zip(family.samples, family.values, strict=True)
        if value or not may_happen(name)
    }


def recorded() -> dict[str, float]:
    """Return the same without sizes, sums and buckets."""
    left_out = ("_bucket", "_sum", "_size_bytes_count")
    return {
        name: value for name, value in all_recorded().items() if not name.split("{")[0].endswith(left_out)
    }


def serve(app: Any, environ: dict[str, Any] | None = None, *, validate: bool = True) -> tuple[str, bytes]:
    """Serve one request as a server does, with PEP 3333's validator on both sides of the middleware."""
    environ = environ if environ is not None else environ_of()
    statuses: list[str] = []

    def start_response(status: str, _headers: Any, exc_info: Any = None) -> Callable[[bytes], None]:
        statuses.append(status)
        return lambda _data: None

    measured = PrometheusMiddleware(validator(app) if validate else app)
    result = (validator(measured) if validate else measured)(environ, start_response)
    try:
        body = b"".join(result)
    finally:
        if hasattr(result, "close"):
            result.close()
    return statuses[-1], body


def plain(environ: dict[str, Any], start_response: Any, body: Any = (b"ok",)) -> Any:
    set_route(environ, "/plain")
    start_response("200 OK", HEADERS)
    return body


def test_a_request_is_counted_by_method_route_and_status(in_child: Any) -> None:
    """A plain answer is counted, timed, and no longer in progress."""

    def work() -> Any:
        serve(plain)
        serve(plain, environ_of(REQUEST_METHOD="HEAD"))
        return recorded()

    assert in_child(work) == {
        "http_requests_total{GET,/plain,200}": 1,
        "http_requests_total{HEAD,/plain,200}": 1,
        "http_request_duration_seconds_count{GET,/plain}": 1,
        "http_request_duration_seconds_count{HEAD,/plain}": 1,
        "http_requests_in_progress{}": 0,
    }


@pytest.mark.parametrize("result", [[b"a", b"b"], (b"a",), [], b"bytes"], ids=str)
def test_a_complete_result_is_handed_back_as_the_same_object(result: Any, in_child: Any) -> None:
    """A list, tuple or bytes is counted at return and passed on as the same object."""

    def work() -> Any:
        got = PrometheusMiddleware(partial(plain, body=result))(environ_of(), lambda *_: None)
        return got is result, recorded()["http_requests_total{GET,/plain,200}"]

    assert in_child(work) == (True, 1)


def test_a_file_wrapper_result_is_handed_back_as_the_same_object(in_child: Any) -> None:
    """The result of file_wrapper stays the same object, whether that is a class (gunicorn) or a function (uWSGI)."""

    def work() -> Any:
        found = []
        for wrapper in (FileWrapper, lambda filelike, _size=8192: filelike):
            made = []

            def app(environ: Any, start_response: Any, made: list[Any] = made) -> Any:
                start_response("200 OK", HEADERS)
                made.append(environ["wsgi.file_wrapper"](io.BytesIO(b"file")))
                return made[0]

            environ = environ_of(**{"wsgi.file_wrapper": wrapper})
            result: Any = PrometheusMiddleware(app)(environ, lambda *_: None)
            during = recorded()["http_requests_in_progress{}"]
            body = result.read() if hasattr(result, "read") else b"".join(result)
            result.close()
            found.append((result is made[0], during, body))
        return found, all_recorded()

    found, figures = in_child(work)
    assert found == [(True, 1, b"file")] * 2
    assert figures["http_requests_total{GET,unmatched,200}"] == 2
    assert figures["http_response_size_bytes_sum{GET,unmatched}"] == 8
    assert figures["http_requests_in_progress{}"] == 0


def test_a_file_is_handed_back_whichever_server_comes_next(in_child: Any) -> None:
    """One middleware can be called without a file_wrapper and then with those of several servers."""

    class Other(FileWrapper):
        pass

    def work() -> Any:
        made: list[Any] = []

        def app(environ: Any, start_response: Any) -> Any:
            start_response("200 OK", HEADERS)
            wrapper = environ.get("wsgi.file_wrapper", lambda filelike: [filelike.read()])
            made.append(wrapper(io.BytesIO(b"file")))
            return made[-1]

        measured = PrometheusMiddleware(app)
        functions = [lambda filelike, _size=8192: filelike for _ in range(2)]
        found = []
        for wrapper in (None, *functions, FileWrapper, Other, FileWrapper):
            given = {} if wrapper is None else {"wsgi.file_wrapper": wrapper}
            result: Any = measured(environ_of(**given), lambda *_: None)
            body = result.read() if hasattr(result, "read") else b"".join(result)
            getattr(result, "close", int)()
            found.append((result is made[-1], body))
        return found, all_recorded()

    found, figures = in_child(work)
    assert [(True, b"file")] * 6 == found
    assert 24 == figures["http_response_size_bytes_sum{GET,unmatched}"]
    assert 0 == figures["http_requests_in_progress{}"]


def test_a_stream_is_counted_at_its_end(in_child: Any) -> None:
    """A generator is in progress until its last chunk, and its status is that of a late start_response."""

    def work() -> Any:
        def app(environ: Any, start_response: Any) -> Iterator[bytes]:
            set_route(environ, "/stream")
            start_response("201 Created", HEADERS)
            yield b"a"
            yield b"b"

        result = PrometheusMiddleware(app)(environ_of(), lambda *_: None)
        iterator = iter(result)
        next(iterator)
        during = recorded()["http_requests_in_progress{}"]
        rest = list(iterator)
        after = recorded()
        result.close()
        return during, rest, after, after == recorded(), hasattr(result, "__len__")

    during, rest, after, same, sized = in_child(work)
    assert (during, rest, same, sized) == (1, [b"b"], True, False)
    assert after["http_requests_total{GET,/stream,201}"] == 1
    assert after["http_requests_in_progress{}"] == 0


def test_a_body_that_is_complete_is_counted_before_its_last_chunk_goes_out(in_child: Any) -> None:
    """
    With a Content-Length, a response is counted before its last chunk is sent, so that a worker killed after it has
    counted it.
    """

    def work() -> Any:
        def app(_environ: Any, start_response: Any) -> Any:
            start_response("200 OK", [*HEADERS, ("content-length", "4")])
            return Closable([b"ab", b"", b"cd"])

        iterator = iter(PrometheusMiddleware(app)(environ_of(), lambda *_: None))
        counts = []
        for _ in range(3):
            next(iterator)
            counts.append(recorded().get("http_requests_total{GET,unmatched,200}", 0))
        return counts

    assert in_child(work) == [0, 0, 1]


def test_the_length_of_a_body_is_told_where_the_application_tells_it(in_child: Any) -> None:
    """
    The iterable that the server gets has __len__ if, and only if, the application's has, since servers derive
    Content-Length from it.
    """

    def work() -> Any:
        class Sized(Closable):
            def __len__(self) -> int:
                return len(self.chunks)

        results = [
            PrometheusMiddleware(partial(plain, body=body))(environ_of(), lambda *_: None)
            for body in (Sized([b"a"]), Closable([b"a"]))
        ]
        return [len(result) if hasattr(result, "__len__") else None for result in results]

    assert in_child(work) == [1, None]


def test_close_is_passed_on_once_and_ends_the_request(in_child: Any) -> None:
    """close() ends the request and calls the inner close() once, even before the first chunk."""

    def work() -> Any:
        body = Closable([b"a", b"b"])
        result = PrometheusMiddleware(partial(plain, body=body))(environ_of(), lambda *_: None)
        result.close()
        return (
            body.closed,
            recorded()["http_requests_in_progress{}"],
            recorded()["http_requests_total{GET,/plain,200}"],
        )

    assert in_child(work) == (1, 0, 1)


def test_a_response_that_is_never_closed_is_over_when_it_is_gone(in_child: Any) -> None:
    """A response that the server forgets to close is no longer in progress when it is collected."""

    def work() -> Any:
        result = PrometheusMiddleware(partial(plain, body=Closable([b"a"])))(environ_of(), lambda *_: None)
        next(iter(result))
        del result
        return recorded()

    found = in_child(work)
    assert found["http_requests_in_progress{}"] == 0
    assert found["http_requests_aborted_total{GET,/plain}"] == 1


@pytest.mark.parametrize("when", ["call", "iter", "first", "later", "close"])
def test_an_exception_passes_unchanged_and_is_counted(when: str, in_child: Any) -> None:
    """
    Whenever the application raises, the same exception reaches the server, and the request is counted once with the
    client's status.
    """

    def work() -> Any:
        failure = FailureError(when)

        class Body:
            def __iter__(self) -> Any:
                if when == "iter":
                    raise failure
                return self.chunks()

            def chunks(self) -> Iterator[bytes]:
                if when == "first":
                    raise failure
                yield b"a"
                if when == "later":
                    raise failure

            def close(self) -> None:
                if when == "close":
                    raise failure

        def app(environ: Any, start_response: Any) -> Any:
            set_route(environ, "/fail")
            start_response("200 OK", HEADERS)
            if when == "call":
                raise failure
            return Body()

        try:
            serve(app, validate=False)
        except FailureError as error:
            return error is failure, recorded()
        return None

    same, found = in_child(work)
    status = "200" if when in {"later", "close"} else "500"
    assert same
    assert found.pop("http_request_exceptions_total{FailureError,GET,/fail}", 0) == (
        0 if when == "close" else 1
    )
    assert found == {
        f"http_requests_total{{GET,/fail,{status}}}": 1,
        "http_request_duration_seconds_count{GET,/fail}": 1,
        "http_requests_in_progress{}": 0,
    }


def test_a_body_looks_like_no_file(in_child: Any) -> None:
    """The iterable that the server gets has no read(), by which frameworks such as Bottle recognise files."""

    def work() -> Any:
        from bottle import Bottle
        from flask import Flask

        shop = Flask("shop")
        shop.get("/")(lambda: "hello")
        root = Bottle()
        root.mount("/api/", PrometheusMiddleware(shop.wsgi_app))
        body = PrometheusMiddleware(partial(plain, body=Closable([b"a"])))(environ_of(), lambda *_: None)
        looks = {"read", "readline", "fileno", "seek", "tell", "closed", "name", "headers", "status"} & set(
            dir(body)
        )
        return b"".join(root(environ_of(PATH_INFO="/api/"), lambda *_: None)), looks

    assert in_child(work) == (b"hello", set())


def test_an_exception_without_a_name_passes_unchanged(in_child: Any) -> None:
    """
    If the class of an exception cannot be named, that is counted as our failure, and the server gets the application's
    exception.
    """

    class Nameless(type):
        @property
        def __name__(cls) -> str:
            raise RuntimeError("no name")

    class OddError(Exception, metaclass=Nameless):
        pass

    def work() -> Any:
        def app(_environ: Any, _start_response: Any) -> Any:
            raise OddError

        try:
            PrometheusMiddleware(app)(environ_of(), lambda *_: None)
        except OddError:
            return recorded()
        return None

    found = in_child(work)
    assert found["wsgi_prom_errors_total{record}"] == 1
    assert found["http_requests_total{GET,unmatched,500}"] == 1
    assert found["http_requests_in_progress{}"] == 0


def test_a_chunk_of_any_type_goes_to_the_server_as_it_is(in_child: Any) -> None:
    """A chunk without a truth value, like an array, is left to the server to refuse, and the request is counted."""

    class Odd:
        def __bool__(self) -> bool:
            raise ValueError("ambiguous")

    def work() -> Any:
        chunk = Odd()
        result = PrometheusMiddleware(partial(plain, body=Closable([chunk, b"a"])))(
            environ_of(), lambda *_: None
        )
        got = list(result)
        result.close()
        return got[0] is chunk, got[1], recorded()["http_requests_total{GET,/plain,200}"]

    assert in_child(work) == (True, b"a", 1)


def test_labels_are_bounded_whatever_a_client_sends(in_child: Any) -> None:
    """An unregistered method becomes OTHER, and a path without a route becomes unmatched."""

    def work() -> Any:
        def app(_environ: Any, start_response: Any) -> Any:
            start_response("404 Not Found", HEADERS)
            return [b""]

        for number in range(100):
            serve(app, environ_of(PATH_INFO=f"/{number}", REQUEST_METHOD=f"M{number}"), validate=False)
        return recorded()

    assert in_child(work) == {
        "http_requests_total{OTHER,unmatched,404}": 100,
        "http_request_duration_seconds_count{OTHER,unmatched}": 100,
        "http_requests_in_progress{}": 0,
    }


def test_routes_beyond_the_limit_are_folded_and_counted(in_child: Any) -> None:
    """Routes beyond the limit become OTHER, each request is counted, and so is each that was folded."""

    def work() -> Any:
        def app(environ: Any, start_response: Any) -> Any:
            set_route(environ, environ["PATH_INFO"])
            start_response("200 OK", HEADERS)
            return [b""]

        measured = PrometheusMiddleware(app, label_limit=3)
        for number in range(10):
            measured(environ_of(PATH_INFO=f"/{number}"), lambda *_: None)
        return {name: value for name, value in recorded().items() if "duration" not in name}

    assert in_child(work) == {
        **{f"http_requests_total{{GET,/{number},200}}": 1 for number in range(3)},
        "http_requests_total{GET,OTHER,200}": 7,
        "wsgi_prom_dropped_series_total{http_requests}": 7,
        "http_requests_in_progress{}": 0,
    }


def test_a_request_is_gone_when_it_is_over(in_child: Any) -> None:
    """Nothing of an environ is kept alive by a reference cycle of ours."""

    class Resource:
        pass

    def work() -> Any:
        gc.disable()
        left = []
        for body in ([b"a"], lambda: Closable([b"a"])):
            environ = environ_of(**{"server.resource": Resource()})
            left.append(weakref.ref(environ["server.resource"]))
            result: Any = PrometheusMiddleware(partial(plain, body=body() if callable(body) else body))(
                environ, lambda *_, kept=environ: kept and None
            )
            list(result)
            if hasattr(result, "close"):
                result.close()
            del environ, result
        return [reference() is None for reference in left]

    assert in_child(work) == [True, True]


def test_an_application_wrapped_twice_is_measured_once(in_child: Any) -> None:
    """An application wrapped by hand and by a hook is measured once."""

    def work() -> Any:
        serve(PrometheusMiddleware(plain))
        return recorded()["http_requests_total{GET,/plain,200}"]

    assert in_child(work) == 1


def answering(text: bytes) -> Callable[..., Any]:
    """Return what answers with *text* and the number of arguments that it was given."""

    def call(*given: Any) -> Any:
        given[-1]("200 OK", HEADERS)
        return [b"%s, %d" % (text, len(given))]

    return call


def ignore(*_: Any) -> Any:
    """Do nothing, as the start_response of a server."""


class Answering:
    """An application like Flask's, whose class has a `__call__` in Python."""

    __call__ = answering(b"the class")


class Slotted:
    __slots__ = ()
    __call__ = answering(b"the class")

    def __getattr__(self, name: str) -> Any:
        return answering(b"an attribute")


class StandIn(Answering):
    """An application that answers itself for every attribute."""

    def __getattribute__(self, name: str) -> Any:
        return answering(b"an attribute")


class Refusing(Answering):
    """An application that raises when any attribute is looked up."""

    @property
    def __dict__(self) -> Any:  # type: ignore[override]
        raise FailureError("too early")


class Static:
    __call__ = staticmethod(answering(b"no method"))


class Aside:
    """A callable that is no function, so that it gets no `self` as a method."""

    def __call__(self, *given: Any) -> Any:
        return answering(b"an object")(*given)


class Built:
    __call__ = Aside()


def of_a_hostile_class() -> Any:
    class Kind(type):
        def __getattribute__(cls, name: str) -> Any:
            raise FailureError("too early")

    class Hostile(Answering, metaclass=Kind):
        pass

    return Hostile()


def with_attribute() -> Any:
    app: Any = Answering()
    app.__call__ = answering(b"an attribute")
    return app


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (Answering, b"the class, 3"),
        (Slotted, b"the class, 3"),
        (StandIn, b"the class, 3"),
        (Refusing, b"the class, 3"),
        (of_a_hostile_class, b"the class, 3"),
        (with_attribute, b"the class, 3"),
        (Static, b"no method, 2"),
        (Built, b"an object, 2"),
        (partial(answering, b"a function"), b"a function, 2"),
    ],
)
def test_an_application_is_called_as_a_server_calls_it(make: Any, expected: bytes, in_child: Any) -> None:
    """Any kind of callable is called as `application(environ, start_response)`, whatever attributes it has."""

    def work() -> Any:
        app = make()
        return PrometheusMiddleware(app)(environ_of(), ignore), app(environ_of(), ignore)

    assert ([expected], [expected]) == in_child(work)


@pytest.mark.parametrize(
    ("replacement", "expected"),
    [
        (answering(b"another"), b"another, 3"),
        (staticmethod(answering(b"no method")), b"no method, 2"),
        (Aside(), b"an object, 2"),
    ],
)
def test_an_application_s_class_may_be_changed_later(
    replacement: Any, expected: bytes, in_child: Any
) -> None:
    """A `__call__` that an agent replaces after the application was wrapped is the one that is called."""

    def work() -> Any:
        app = Answering()
        measured = PrometheusMiddleware(app)
        before = measured(environ_of(), ignore)
        Answering.__call__ = replacement  # type: ignore[method-assign]
        return before, measured(environ_of(), ignore), app(environ_of(), ignore)

    assert ([b"the class, 3"], [expected], [expected]) == in_child(work)


def test_making_the_middleware_asks_nothing_of_a_proxy(in_child: Any) -> None:
    """Wrapping a Werkzeug proxy does not make its application, which is made at the first request, after the fork."""

    def work() -> Any:
        from werkzeug.local import LocalProxy

        made = []

        def make() -> Any:
            made.append(True)
            return Answering()

        measured: Any = PrometheusMiddleware(LocalProxy(make))  # type: ignore[arg-type]
        before = len(made)
        return before, measured(environ_of(), ignore)

    assert (0, [b"the class, 3"]) == in_child(work)


def test_a_failure_of_ours_is_counted_and_logged_once_and_the_request_goes_on(in_child: Any) -> None:
    """
    If reading the route raises, the failure is counted and logged once, and the application's answer is unchanged.
    """

    class Hostile:
        @property
        def url_rule(self) -> object:
            raise FailureError("not your business")

    def work() -> Any:
        lines: list[str] = []
        handler = logging.Handler()
        handler.emit = lambda record: lines.append(record.getMessage())  # type: ignore[method-assign]
        logging.getLogger("wsgi_prom").addHandler(handler)

        def app(environ: Any, start_response: Any) -> Any:
            environ["werkzeug.request"] = Hostile()
            start_response("200 OK", HEADERS)
            return [b"ok"]

        answers = [serve(app) for _ in range(3)]
        return answers, len([line for line in lines if "stage route" in line]), recorded()

    answers, logged, found = in_child(work)
    assert answers == [("200 OK", b"ok")] * 3
    assert logged == 1
    assert found["wsgi_prom_errors_total{route}"] == 3
    assert found["http_requests_in_progress{}"] == 0


def test_a_fork_in_a_request_leaves_the_request_to_the_parent(in_child: Any, shared: Any) -> None:
    """A child that the application forks counts no request and ends none twice."""

    def work() -> Any:
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(shared)

        def app(environ: Any, start_response: Any) -> Any:
            pid = os.fork()
            if pid:
                os.waitpid(pid, 0)
            else:
                environ["in the child"] = True
            return plain(environ, start_response)

        environ = environ_of()
        serve(app, environ, validate=False)
        if "in the child" in environ:
            os._exit(0)
        families = Collector(shared).collect()
        return {
            name: value
            for family in families
            for (name, _), value in zip(family.samples, family.values, strict=True)
            if name in {"http_requests_total", "http_requests_in_progress"}
            and (value or not may_happen(name))
        }

    assert in_child(work) == {"http_requests_total": 1, "http_requests_in_progress": 0}


def test_flask_routes_are_templates(in_child: Any) -> None:
    """Flask's rule with its mount prefix is the label; a path without a rule is unmatched."""

    def work() -> Any:
        from flask import Flask
        from werkzeug.middleware.dispatcher import DispatcherMiddleware

        app = Flask("shop")
        app.get("/users/<int:user_id>")(lambda user_id: str(user_id))  # noqa: PLW0108 - called by keyword
        mounted = DispatcherMiddleware(app, {"/api": app})
        for path in ("/users/1", "/users/2", "/api/users/3", "/nowhere"):
            serve(mounted, environ_of(PATH_INFO=path), validate=False)
        return {name: value for name, value in recorded().items() if name.startswith("http_requests_total")}

    assert in_child(work) == {
        "http_requests_total{GET,/users/<int:user_id>,200}": 2,
        "http_requests_total{GET,/api/users/<int:user_id>,200}": 1,
        "http_requests_total{GET,unmatched,404}": 1,
    }
