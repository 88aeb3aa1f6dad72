"""What is measured of a request, each figure by itself, and the settings that shape it."""

from __future__ import annotations

import io
import os
import tempfile
from typing import TYPE_CHECKING, Any
from wsgiref.util import FileWrapper

import pytest
from test_middleware import HEADERS, Closable, all_recorded, environ_of, plain

from wsgi_prom import PrometheusMiddleware, set_route
from wsgi_prom.errors import SettingError
from wsgi_prom.headers import content_length, queue_seconds, request_size
from wsgi_prom.storage.collector import Collector

if TYPE_CHECKING:
    from collections.abc import Iterator

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
    """Bytes are counted as they pass, whatever kind of result carries them."""

    def work() -> Any:
        get(SIZES[kind])
        return all_recorded()

    found = in_child(work)
    assert found["http_response_size_bytes_sum{GET,/r}"] == 6
    assert found["http_response_size_bytes_count{GET,/r}"] == 1


@pytest.mark.parametrize("sendfile", [True, False])
def test_the_size_of_a_file_is_what_was_sent(sendfile: bool, in_child: Any) -> None:
    """By what the server read of it, or by its size where the server used sendfile."""

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


def test_a_file_that_is_not_the_response_itself_is_counted_once(in_child: Any) -> None:
    """A framework that wraps what file_wrapper made: the bytes are counted where they pass last."""

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


@pytest.mark.parametrize(
    ("headers", "size"),
    [
        ({}, 0),
        ({"CONTENT_LENGTH": ""}, 0),
        ({"CONTENT_LENGTH": "0"}, 0),
        ({"CONTENT_LENGTH": "17"}, 17),
        ({"CONTENT_LENGTH": "-1"}, None),
        ({"CONTENT_LENGTH": "abc"}, None),
        ({"CONTENT_LENGTH": "1e3"}, None),
        ({"CONTENT_LENGTH": "\u0664"}, None),
        ({"CONTENT_LENGTH": "9" * 100}, None),
        ({"HTTP_TRANSFER_ENCODING": "chunked"}, None),
    ],
)
def test_the_size_of_a_request_is_told_or_not_known(headers: dict[str, str], size: int | None) -> None:
    """A length that is no length, or absurd, is not 0: it is not known."""
    assert request_size(headers) == size


def test_a_request_body_without_a_length_is_counted_as_it_is_read(in_child: Any) -> None:
    """Of a chunked request, what the application read; of one with a length, the length; without a body, 0."""

    def work() -> Any:
        def app(environ: Any, start_response: Any) -> Any:
            body = environ["wsgi.input"]
            read = [body.read(2), body.readline(), *body.readlines(), *body]
            start_response("200 OK", HEADERS)
            return read

        source = io.BytesIO(b"abc\nd\ne")
        answer = get(app, environ_of(**{"wsgi.input": source, "HTTP_TRANSFER_ENCODING": "chunked"}))
        get(plain, environ_of(CONTENT_LENGTH="12"))
        get(plain, environ_of(CONTENT_LENGTH="nonsense"))
        get(plain)
        return answer, all_recorded()

    answer, found = in_child(work)
    assert answer == b"abc\nd\ne"
    assert found["http_request_size_bytes_sum{GET,unmatched}"] == 7
    assert found["http_request_size_bytes_sum{GET,/plain}"] == 12
    assert found["http_request_size_bytes_count{GET,/plain}"] == 2


def test_a_response_closed_before_its_end_is_aborted(in_child: Any) -> None:
    """The client left in the middle: counted, and as aborted; a complete one is not, nor one without a body."""

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
    """Seconds, milliseconds or microseconds, with or without t=; never negative, and nothing that cannot be."""
    for name in ("HTTP_X_REQUEST_START", "HTTP_X_QUEUE_START"):
        found = queue_seconds({name: header}, NOW)
        assert found == (seconds if seconds is None else pytest.approx(seconds, abs=1e-3))


def test_queue_time_is_observed_where_a_proxy_tells_it(in_child: Any) -> None:
    """One observation for a request that has the header, none for one that has not."""

    def work() -> Any:
        import time

        get(plain, environ_of(HTTP_X_REQUEST_START=f"t={time.time() - 20}"))
        get(plain)
        return all_recorded()

    found = in_child(work)
    assert found["http_request_queue_seconds_count{}"] == 1
    assert found["http_request_queue_seconds_bucket{10.0}"] == 0
    assert found["http_request_queue_seconds_bucket{30.0}"] == 1


@pytest.mark.parametrize(
    ("headers", "length"),
    [([], None), ([("content-LENGTH", "5")], 5), ([("Content-Length", "x")], None), ([("X", "5")], None)],
)
def test_a_content_length_is_read_in_any_case(headers: list[tuple[str, str]], length: int | None) -> None:
    """Header names have no case, and a length that is none is no length."""
    assert content_length(headers) == length


def test_the_first_byte_is_a_histogram_of_its_own(in_child: Any) -> None:
    """Off unless asked for; for each kind of body, and not for one that has no byte."""

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
    """Without the optional ones there is the count of requests, and nothing else."""
    from wsgi_prom.catalog import OPTIONAL

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
    """Two applications of one job: the same metrics under names of their own."""

    def work() -> Any:
        get(plain, prefix="shop_", buckets=(0.5, 5))
        return {name.split("{")[0] for name in all_recorded()}, all_recorded()[
            "shop_http_request_duration_seconds_bucket{GET,/plain,5.0}"
        ]

    names, bucket = in_child(work)
    assert all(name.startswith("shop_http_") for name in names)
    assert bucket == 1


def test_extra_labels_are_static_or_of_the_request(in_child: Any) -> None:
    """A string, or a callable on the environ; one that fails is OTHER, and the request goes on."""

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


def test_the_duration_may_have_the_class_of_the_status(in_child: Any) -> None:
    """status_class="on": 2xx, 4xx and so on, on the histogram alone."""

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
    """By patterns of the whole path or by a callable; a callable that fails excludes nothing."""

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
    """The middleware is not made, and the error names the setting and its value."""
    with pytest.raises(SettingError, match=setting) as caught:
        PrometheusMiddleware(plain, **{setting: value})
    assert repr(value) in str(caught.value)


def test_the_limit_of_label_sets_holds_across_all_processes(in_child: Any, shared: Any) -> None:
    """Eight processes with label sets of their own: together no more than the limit, and nothing is lost."""
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
            for child in family.children()
            for (_, labels), value in zip(child.shape, child.values, strict=True)
            if family.type == "counter"
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
