"""Each figure that is measured of a request, and the settings that shape it."""

from __future__ import annotations

import io
import os
import tempfile
import time
from typing import TYPE_CHECKING, Any
from wsgiref.util import FileWrapper

import processes
import pytest
from test_middleware import HEADERS, Closable, all_recorded, environ_of, plain

from wsgi_prom import PrometheusMiddleware, set_route
from wsgi_prom.errors import SettingError
from wsgi_prom.merge.collector import Collector
from wsgi_prom.request.headers import content_length, queue_seconds
from wsgi_prom.store.current_slot import current_slot

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

NOW = 1_700_000_000.0


def nothing(*_: Any) -> Any:
    """A server's start_response, and its write()."""
    return nothing


def get(app: Any, environ: dict[str, Any] | None = None, **settings: Any) -> bytes:
    """Serve one request to its end through a middleware with *settings*."""
    result: Any = PrometheusMiddleware(app, **settings)(environ or environ_of(), nothing)
    body = b"".join(result) if not isinstance(result, bytes) else result
    if hasattr(result, "close"):
        result.close()
    return body


def app_of(body: Any, headers: list[tuple[str, str]] | None = None) -> Any:
    def app(environ: dict[str, Any], start_response: Any) -> Any:
        set_route(environ, "/r")
        start_response("200 OK", headers or HEADERS)
        return body() if callable(body) else body

    return app


def written(environ: dict[str, Any], start_response: Any) -> Any:
    set_route(environ, "/r")
    write = start_response("200 OK", HEADERS)
    write(b"abc")
    write(b"de")
    return [b"f"]


SIZES = {
    "list": app_of([b"abc", b"def"]),
    "tuple": app_of((b"abcdef",)),
    "bytes": app_of(b"abcdef"),
    "generator": app_of(lambda: (chunk for chunk in (b"abc", b"", b"def"))),
    "closable": app_of(lambda: Closable([b"abc", b"def"])),
    "write": written,
    "content-length": app_of(lambda: Closable([b"abc", b"def"]), [*HEADERS, ("Content-Length", "6")]),
}


@pytest.mark.parametrize("kind", SIZES)
def test_the_size_of_a_response_is_what_passed(kind: str, in_child: Any) -> None:
    """The size of a response is counted for every kind of result."""

    def work() -> Any:
        get(SIZES[kind])
        return all_recorded()

    found = in_child(work)
    assert found["http_response_size_bytes_sum{GET,/r}"] == 6
    assert found["http_response_size_bytes_count{GET,/r}"] == 1


@pytest.mark.parametrize("sendfile", [True, False])
def test_the_size_of_a_file_is_what_was_sent(sendfile: bool, in_child: Any) -> None:
    """The size of a file is what the server read, or the rest of the file if the server used sendfile."""

    def work() -> Any:
        with tempfile.TemporaryFile() as file:
            file.write(b"x" * 1000)
            file.seek(100)

            def app(environ: Any, start_response: Any) -> Any:
                set_route(environ, "/r")
                start_response("200 OK", HEADERS)
                return environ["wsgi.file_wrapper"](file)

            result: Any = PrometheusMiddleware(app)(environ_of(**{"wsgi.file_wrapper": FileWrapper}), nothing)
            if sendfile:
                with open(os.devnull, "wb") as sink:  # noqa: PTH123
                    os.sendfile(sink.fileno(), result.filelike.fileno(), 100, 900)
            else:
                assert len(b"".join(result)) == 900
            result.close()
        return all_recorded()

    assert in_child(work)["http_response_size_bytes_sum{GET,/r}"] == 900


class Descriptor:
    """A file that has no more than PEP 3333 asks for where a server sends it by its descriptor."""

    def __init__(self, file: Any) -> None:
        self._file = file

    def read(self, size: int) -> bytes:
        raise AssertionError("The server sends it without reading it.")

    def fileno(self) -> int:
        return int(self._file.fileno())


class Slotted:
    """A server's own wrapper of a file, which takes no other file in its place."""

    __slots__ = ("filelike",)

    def __init__(self, filelike: Any, _block: int = 8192) -> None:
        self.filelike = filelike


@pytest.mark.parametrize("wrapper", [FileWrapper, Slotted])
def test_the_size_of_a_file_that_is_only_a_descriptor(wrapper: Any, in_child: Any) -> None:
    """Of a file that can neither seek nor tell, sent by its descriptor, the size is what is left of it."""

    def work() -> Any:
        with tempfile.TemporaryFile() as file:
            file.write(b"x" * 1000)
            file.flush()
            file.seek(100)

            def app(environ: Any, start_response: Any) -> Any:
                set_route(environ, "/r")
                start_response("200 OK", HEADERS)
                return environ["wsgi.file_wrapper"](Descriptor(file))

            result: Any = PrometheusMiddleware(app)(environ_of(**{"wsgi.file_wrapper": wrapper}), nothing)
            if hasattr(result, "close"):
                result.close()
        return all_recorded()

    found = in_child(work)
    assert found["http_response_size_bytes_sum{GET,/r}"] == 900
    assert found["http_requests_total{GET,/r,200}"] == 1


def test_a_file_that_is_not_the_response_itself_is_counted_once(in_child: Any) -> None:
    """If a framework wraps the result of file_wrapper, its bytes are counted once."""

    def work() -> Any:
        def app(environ: Any, start_response: Any) -> Any:
            set_route(environ, "/r")
            start_response("200 OK", HEADERS)
            wrapped = environ["wsgi.file_wrapper"](io.BytesIO(b"abcdef"))
            return Closable(list(wrapped))

        get(app, environ_of(**{"wsgi.file_wrapper": FileWrapper}))
        return all_recorded()

    found = in_child(work)
    assert found["http_response_size_bytes_sum{GET,/r}"] == 6
    assert found["http_requests_total{GET,/r,200}"] == 1


class Source(io.BytesIO):
    """A `wsgi.input` with more methods than PEP 3333 asks for, as some servers have."""

    def recv(self, size: int) -> bytes:
        return self.read(size)


READS: dict[str, Any] = {
    "nothing": lambda body: None,
    "read": lambda body: body.read(),
    "read in parts": lambda body: (body.read(2), body.read(3)),
    "lines": lambda body: (body.readline(), body.readline(1), body.readlines()),
    "iteration": list,
    "next": next,
    "read1": lambda body: body.read1(4),
    "readinto": lambda body: body.readinto(bytearray(5)),
    "recv": lambda body: body.recv(6),
    "again": lambda body: (body.read(), body.seek(0), body.read(3), body.seek(-1, 1), body.read(2)),
    "length first": lambda body: (body.seek(0, 2), body.tell(), body.seek(0), body.read(6)),
    "getvalue": lambda body: body.getvalue(),
}


@pytest.mark.parametrize(
    "headers",
    [
        {"CONTENT_LENGTH": "7"},
        {"CONTENT_LENGTH": 7},
        {"CONTENT_LENGTH": "9" * 100},
        {"CONTENT_LENGTH": "nonsense"},
        {"HTTP_TRANSFER_ENCODING": "chunked"},
    ],
    ids=str,
)
@pytest.mark.parametrize(
    ("how", "size"),
    [("nothing", 0), ("read", 7), ("read in parts", 5), ("lines", 7), ("iteration", 7), ("next", 4),
     ("read1", 4), ("readinto", 5), ("recv", 6), ("again", 7), ("length first", 6)],
)  # fmt: skip
def test_the_size_of_a_request_is_what_was_read_of_its_body(
    headers: dict[str, Any], how: str, size: int, in_child: Any
) -> None:
    """The size of a request is what was read, however it is read and whatever length the client announced."""

    def work() -> Any:
        got = []

        def app(environ: Any, start_response: Any) -> Any:
            set_route(environ, "/r")
            got.append(READS[how](environ["wsgi.input"]))
            start_response("200 OK", HEADERS)
            return [b""]

        for _ in range(2):  # the second finds its labels
            get(app, environ_of(**{"wsgi.input": Source(b"abc\nd\ne"), **headers}))
        return got, READS[how](Source(b"abc\nd\ne")), all_recorded()

    (first, second), bare, found = in_child(work)
    assert (first, second) == (bare, bare)
    assert found["http_request_size_bytes_sum{GET,/r}"] == 2 * size
    assert found["http_request_size_bytes_count{GET,/r}"] == 2


@pytest.mark.parametrize(
    "environ",
    [
        {"CONTENT_LENGTH": "5", "wsgi.input": None},
        {"HTTP_TRANSFER_ENCODING": "chunked", "CONTENT_LENGTH": "", "uwsgi.version": b"2.0.31"},
    ],
    ids=["no input", "read by uwsgi.chunked_read()"],
)
def test_a_body_that_cannot_be_counted_is_left_out(environ: dict[str, Any], in_child: Any) -> None:
    """A body that the application does not read from wsgi.input has no size."""

    def work() -> Any:
        get(plain, environ_of(**environ))
        get(plain)
        return all_recorded()

    found = in_child(work)
    assert found["http_request_size_bytes_count{GET,/plain}"] == 1
    assert found["http_requests_total{GET,/plain,200}"] == 2


GUNICORN, OLD_GUNICORN, WSGIREF = (
    {"SERVER_SOFTWARE": name} for name in ("gunicorn/27.0.1", "gunicorn/26.0.0", "WSGIServer/0.2")
)
WAITRESS = {"SERVER_SOFTWARE": "of the operator's choice", "waitress.client_disconnected": int}


@pytest.mark.parametrize(
    ("server", "method", "status", "size"),
    [
        (GUNICORN, "GET", "200 OK", 6),
        (GUNICORN, "HEAD", "200 OK", 0),
        (GUNICORN, "GET", "204 No Content", 0),
        (GUNICORN, "GET", "304 Not Modified", 0),
        (GUNICORN, "GET", "103 Early Hints", 0),
        (OLD_GUNICORN, "HEAD", "200 OK", 6),
        (WAITRESS, "HEAD", "200 OK", 6),
        (WAITRESS, "GET", "304 Not Modified", 0),
        (WSGIREF, "HEAD", "200 OK", 6),
        (WSGIREF, "GET", "304 Not Modified", 6),
        ({}, "HEAD", "200 OK", 6),
    ],
)
@pytest.mark.parametrize("body", [[b"abcdef"], lambda: Closable([b"abc", b"def"])], ids=["list", "iterable"])
def test_a_body_that_the_server_does_not_send_has_no_size(
    server: dict[str, Any], method: str, status: str, size: int, body: Any, in_child: Any
) -> None:
    """Responses to HEAD and with a status without body have no size, since servers differ in what they send."""
    empty = [b""], lambda: Closable([])

    def work() -> Any:
        def app(environ: Any, start_response: Any) -> Any:
            set_route(environ, "/r")
            start_response(status, HEADERS)
            result = bodies.pop()
            return result() if callable(result) else result

        bodies = [body, *empty, body, *empty]
        while bodies:
            get(app, environ_of(REQUEST_METHOD=method, **server))
        return all_recorded()

    found = in_child(work)
    assert found[f"http_response_size_bytes_sum{{{method},/r}}"] == 2 * size
    assert found[f"http_response_size_bytes_count{{{method},/r}}"] == 6
    assert found[f"http_request_duration_seconds_count{{{method},/r}}"] == 6
    assert found[f"http_requests_total{{{method},/r,{status[:3]}}}"] == 6


def test_a_response_closed_before_its_end_is_aborted(in_child: Any) -> None:
    """A response closed before its end is counted as aborted; a complete one, or one without a body, is not."""

    def work() -> Any:
        def stream() -> Iterator[bytes]:
            yield b"a"
            yield b"b"

        for _ in range(2):
            result: Any = PrometheusMiddleware(app_of(stream))(environ_of(), nothing)
            next(iter(result))
            result.close()
        get(app_of(stream))
        get(app_of(lambda: Closable([b"ab"]), [*HEADERS, ("Content-Length", "2")]))
        head: Any = PrometheusMiddleware(app_of(stream))(environ_of(REQUEST_METHOD="HEAD"), nothing)
        head.close()
        return all_recorded()

    found = in_child(work)
    assert found["http_requests_aborted_total{GET,/r}"] == 2
    assert found["http_requests_total{GET,/r,200}"] == 4
    assert found["http_requests_total{HEAD,/r,200}"] == 1
    assert "http_requests_aborted_total{HEAD,/r}" not in found
    assert found["http_requests_in_progress{}"] == 0


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        (f"{NOW - 2}", 2.0),
        (f"t={NOW - 2}", 2.0),
        (f" t={NOW - 2} ", 2.0),
        (f"{int((NOW - 2) * 1e3)}", 2.0),
        (f"t={int((NOW - 2) * 1e3)}", 2.0),
        (f"t={int((NOW - 2) * 1e6)}", 2.0),
        (f"{NOW}", 0.0),
        (f"{NOW + 0.5}", 0.0),
        (f"{NOW + 5}", None),
        (f"{NOW - 4000}", None),
        ("0", None),
        ("-1", None),
        ("nan", None),
        ("inf", None),
        ("t=", None),
        ("garbage", None),
        ("1" * 400, None),
        ("\ud800", None),
    ],
)
def test_queue_time_is_told_in_any_unit_and_never_absurd(header: str, seconds: float | None) -> None:
    """
    Queue time is read in seconds, milliseconds or microseconds, with or without t=; negative and impossible values are
    ignored.
    """
    for name in ("HTTP_X_REQUEST_START", "HTTP_X_QUEUE_START"):
        found = queue_seconds({name: header}, NOW)
        assert found == (seconds if seconds is None else pytest.approx(seconds, abs=1e-3))


def test_queue_time_is_observed_where_a_proxy_tells_it(in_child: Any) -> None:
    """A request with the header is one observation, a request without it is none."""

    def work() -> Any:
        get(plain, environ_of(HTTP_X_REQUEST_START=f"t={time.time() - 20}"))
        get(plain)
        return all_recorded()

    found = in_child(work)
    assert found["http_request_queue_seconds_count{}"] == 1
    assert found["http_request_queue_seconds_bucket{10.0}"] == 0
    assert found["http_request_queue_seconds_bucket{30.0}"] == 1


def test_queue_times_are_counted_across_slots_and_forks(recording: Any, shared: Path) -> None:
    """Each request with the header is one observation, in a slot, in one that takes its place, and in a forked child."""

    def send(count: int) -> None:
        for _ in range(count):
            get(plain, environ_of(HTTP_X_REQUEST_START=f"t={time.time() - 20}"))

    def work() -> None:
        send(3)
        for path in shared.glob("wsgi_prom.0.*"):
            path.unlink()
        current_slot.check()
        send(3)
        processes.fork(lambda: send(4))
        send(1)

    recording(work)
    (family,) = (f for f in Collector(shared).collect() if f.name == "http_request_queue_seconds")
    found = dict(zip(family.samples, family.values, strict=True))
    assert 11.0 == found["http_request_queue_seconds_count", ()]
    assert 220 == pytest.approx(found["http_request_queue_seconds_sum", ()], abs=11)
    assert 0.0 == found["http_request_queue_seconds_bucket", (("le", "10.0"),)]
    assert 11.0 == found["http_request_queue_seconds_bucket", (("le", "30.0"),)]


@pytest.mark.parametrize(
    ("headers", "length"),
    [([], None), ([("content-LENGTH", "5")], 5), ([("Content-Length", "x")], None), ([("X", "5")], None)],
)
def test_a_content_length_is_read_in_any_case(headers: list[tuple[str, str]], length: int | None) -> None:
    """Header names match in any case, and an invalid Content-Length is ignored."""
    assert content_length(headers) == length


def test_the_first_byte_is_a_histogram_of_its_own(in_child: Any) -> None:
    """The time to the first byte is measured on request, for each kind of body that has a byte."""

    def work() -> Any:
        get(app_of([b"a"]))
        before = all_recorded()
        for body in ([b"a"], lambda: Closable([b"", b"a"]), []):
            get(app_of(body), first_byte=True)
        return before, all_recorded()

    before, found = in_child(work)
    assert "http_request_first_byte_seconds_count{GET,/r}" not in before
    assert found["http_request_first_byte_seconds_count{GET,/r}"] == 2
    assert found["http_requests_total{GET,/r,200}"] == 4


def test_each_metric_can_be_turned_off(in_child: Any) -> None:
    """With all optional metrics off, only the count of requests is left."""
    from wsgi_prom.metrics import OPTIONAL

    def fail(_environ: Any, _start_response: Any) -> Any:
        raise ZeroDivisionError

    def work() -> Any:
        get(plain, environ_of(HTTP_X_REQUEST_START="t=0"), disable=OPTIONAL)
        with pytest.raises(ZeroDivisionError):
            get(fail, disable=sorted(OPTIONAL))
        return all_recorded()

    assert in_child(work) == {
        "http_requests_total{GET,/plain,200}": 1,
        "http_requests_total{GET,unmatched,500}": 1,
    }


def test_names_take_a_prefix(in_child: Any) -> None:
    """Two applications of one job can have the same metrics under different prefixes."""

    def work() -> Any:
        get(plain, prefix="shop_", buckets=(0.5, 5))
        return {name.split("{")[0] for name in all_recorded()}, all_recorded()[
            "shop_http_request_duration_seconds_bucket{GET,/plain,5.0}"
        ]

    names, bucket = in_child(work)
    assert all(name.startswith("shop_http_") for name in names)
    assert bucket == 1


def test_extra_labels_are_static_or_of_the_request(in_child: Any) -> None:
    """
    An extra label is a string or a callable on environ; a callable that fails gives OTHER, and the request continues.
    """

    def tenant(environ: Any) -> str:
        return environ["HTTP_X_TENANT"]

    def work() -> Any:
        labels = {"region": "eu", "tenant": tenant}
        get(plain, environ_of(HTTP_X_TENANT="a"), labels=labels)
        get(plain, labels=labels)
        get(plain, environ_of(HTTP_X_TENANT="long" * 1000), labels=labels)
        return {name: value for name, value in all_recorded().items() if "_total" in name}

    found = in_child(work)
    assert found.pop("wsgi_prom_errors_total{label}") == 1
    assert found == {
        "http_requests_total{GET,eu,/plain,200,a}": 1,
        "http_requests_total{GET,eu,/plain,200,OTHER}": 1,
        f"http_requests_total{{GET,eu,/plain,200,{'long' * 32}}}": 1,
    }


def test_each_callable_label_is_asked_once_in_a_request(in_child: Any) -> None:
    """Each callable of the labels is called once in a request, whatever the response is, and its row known or new."""

    def work() -> Any:
        asked: list[str] = []

        def tenant(_environ: Any) -> str:
            asked.append("tenant")
            return "a"

        def shard(_environ: Any) -> int:
            asked.append("shard")
            return 7

        labels = {"tenant": tenant, "region": "eu", "shard": shard}
        length = [*HEADERS, ("Content-Length", "4")]
        for app in (app_of([b"list"]), app_of(lambda: iter([b"st", b"re"]), length), written):
            for _ in range(2):
                get(app, labels=labels)
        return asked, {name: value for name, value in all_recorded().items() if "_total" in name}

    asked, found = in_child(work)
    assert asked == ["tenant", "shard"] * 6
    assert found == {"http_requests_total{GET,eu,/r,7,200,a}": 6}


def test_a_route_may_be_of_a_class_derived_from_str(in_child: Any) -> None:
    """A route of a text class of a framework's, such as Markup, is counted with the labels of callables."""

    class Markup(str):
        __slots__ = ()

    def app(environ: dict[str, Any], start_response: Any) -> Any:
        set_route(environ, Markup("/m"))
        start_response("200 OK", HEADERS)
        return [b"m"]

    def work() -> Any:
        for _ in range(2):
            get(app, labels={"tenant": lambda _environ: Markup("a")})
        return {name: value for name, value in all_recorded().items() if "_total" in name}

    assert in_child(work) == {"http_requests_total{GET,/m,200,a}": 2}


def test_values_that_a_client_makes_up_take_nothing_from_routes(in_child: Any) -> None:
    """A callable label with too many values becomes OTHER alone, since routes have a limit of their own."""

    def work() -> Any:
        def app(environ: Any, start_response: Any) -> Any:
            set_route(environ, environ["test.route"])
            start_response("200 OK", HEADERS)
            return [b""]

        middleware = PrometheusMiddleware(
            app, labels={"tenant": lambda environ: environ["HTTP_X_TENANT"]}, label_limit=5
        )
        for number in range(50):
            middleware(environ_of(**{"test.route": "/", "HTTP_X_TENANT": f"junk{number}"}), nothing)
        for number in range(8):
            for _ in range(2):
                middleware(environ_of(**{"test.route": f"/real{number}", "HTTP_X_TENANT": "real"}), nothing)
        return {name: value for name, value in all_recorded().items() if "requests_total" in name}

    found = in_child(work)
    assert {
        **{f"http_requests_total{{GET,/,200,junk{number}}}": 1 for number in range(5)},
        "http_requests_total{GET,/,200,OTHER}": 45,
        **{f"http_requests_total{{GET,/real{number},200,OTHER}}": 2 for number in range(4)},
        "http_requests_total{GET,OTHER,200,OTHER}": 8,
    } == found


def test_a_route_that_is_said_is_no_longer_than_a_label(in_child: Any) -> None:
    """A route that the application names is cut to the length of a label."""

    def work() -> Any:
        def app(environ: Any, start_response: Any) -> Any:
            set_route(environ, "/" + "x" * 1000)
            start_response("200 OK", HEADERS)
            return [b""]

        get(app)
        return all_recorded()

    assert in_child(work)[f"http_requests_total{{GET,/{'x' * 127},200}}"] == 1


def test_the_duration_may_have_the_class_of_the_status(in_child: Any) -> None:
    """status_class="on" adds 2xx, 4xx and so on to the histogram alone."""

    def work() -> Any:
        get(plain, status_class="on")
        return set(all_recorded())

    names = in_child(work)
    assert "http_request_duration_seconds_count{GET,/plain,2xx}" in names
    assert "http_requests_total{GET,/plain,200}" in names


@pytest.mark.parametrize(
    ("exclude", "counted"),
    [
        (None, 4),
        ("/health", 3),
        ("/health /static/.*", 2),
        (["/health", "/static/.*"], 2),
        ("/stat", 4),
        ("(?i)/HEALTH (?i)/STATIC/.*", 2),
        (r"/(x) /(s)tatic/(.) /healt(h)y", 2),
        (lambda environ: environ["PATH_INFO"].startswith("/static"), 3),
        (lambda environ: environ["missing"], 4),
    ],
)
def test_paths_are_excluded_whole(exclude: Any, counted: int, in_child: Any) -> None:
    """Paths are excluded by patterns of the whole path or by a callable; one that fails excludes nothing."""

    def work() -> Any:
        for path in ("/health", "/healthy", "/static/a", "/"):
            get(plain, environ_of(PATH_INFO=path), exclude=exclude)
        return all_recorded()["http_requests_total{GET,/plain,200}"]

    assert in_child(work) == counted


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("buckets", (1, 0.5)),
        ("buckets", ("a",)),
        ("buckets", ()),
        ("queue_buckets", "5,1"),
        ("labels", {"le": "x"}),
        ("labels", {"__name__": "x"}),
        ("labels", {"a-b": "x"}),
        ("labels", {"a": 5}),
        ("exclude", "("),
        ("disable", "http_requests_total"),
        ("prefix", "1_"),
        ("first_byte", "perhaps"),
        ("colour", "blue"),
    ],
)
def test_a_wrong_setting_is_refused_at_once(setting: str, value: Any) -> None:
    """A wrong setting is refused when the middleware is made, with its name and value."""
    with pytest.raises(SettingError, match=setting) as caught:
        PrometheusMiddleware(plain, **{setting: value})
    assert repr(value) in str(caught.value)


def test_the_limit_of_label_sets_holds_across_all_processes(in_child: Any, shared: Any) -> None:
    """Eight processes with different label sets have together no more than the limit, and lose no count."""
    limit, processes, each = 20, 8, 30

    def work() -> Any:
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(shared)

        def app(environ: Any, start_response: Any) -> Any:
            set_route(environ, environ["PATH_INFO"])
            start_response("200 OK", HEADERS)
            return [b""]

        pids = []
        for number in range(processes):
            pid = os.fork()
            if pid == 0:
                for path in range(each):
                    get(app, environ_of(PATH_INFO=f"/{number}/{path}"), label_limit=limit)
                os._exit(0)
            pids.append(pid)
        assert [os.waitpid(pid, 0)[1] for pid in pids] == [0] * processes
        return {
            (family.name, labels): value
            for family in Collector(shared).collect()
            for (_, labels), value in zip(family.samples, family.values, strict=True)
            if family.type == "counter" and value
        }

    found = in_child(work)
    requests = {
        dict(labels)["route"]: value for (name, labels), value in found.items() if name == "http_requests"
    }
    folded = requests.pop("OTHER")
    assert len(requests) == limit
    assert set(requests.values()) == {1}
    assert folded + limit == processes * each
    assert found["wsgi_prom_dropped_series", (("metric", "http_requests"),)] == folded
