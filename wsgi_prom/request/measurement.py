"""
One request is measured, the usual way: `begin`, the application, `record`. Everything else takes the slow path, recorder.py.

1. A failure in here is counted, logged once, and kept from the application.
2. A list, tuple, bytes or file_wrapper result goes to the server as the same object: by its type a server knows whether to
   add a Content-Length, or to use sendfile.
3. A response that is complete is counted before the server sends the last of it: a worker killed after that has answered,
   and counted. (Of 60 workers killed right after a Flask answer had arrived, 29 had counted it when close() counted.)
4. `begin` and `record` store without a lock. Nothing is called between their look at `current_slot.token` and the last
   store, so that no other thread and no signal handler runs in between (store/unlocked.py).
"""

from __future__ import annotations

from bisect import bisect_left
from time import perf_counter
from typing import TYPE_CHECKING, Any, Final

from wsgi_prom.request import cpu, traces
from wsgi_prom.request.nesting import takes_over
from wsgi_prom.request.request import MeasuredRequest
from wsgi_prom.request.response import respond
from wsgi_prom.request.routes import REQUEST
from wsgi_prom.store.current_slot import current_slot

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

    from wsgi_prom.request.recorder import Recorder
    from wsgi_prom.request.row_schemas import RouteLabels

_fork_guard: Final = current_slot.fork_guard


def measured(app: WSGIApplication, recorder: Recorder, *, explicit: bool) -> WSGIApplication:
    """
    Return *app*, measured by *recorder*.

    *explicit* is False for a server's hook, which measures only what no middleware inside does.
    """
    begin, record = begin_of(recorder), record_of(recorder)
    if recorder.times_cpu:
        begin = cpu.timed(begin)
    base = MeasuredRequest
    if recorder.keeps_exemplars:
        base, begin, record = (
            traces.TracedRequest, traces.traced(begin), traces.keeping(record, recorder.rows),
        )  # fmt: skip

    # A class for each middleware: its requests are told from those of a middleware around it.
    class Request(base):  # type: ignore[misc, valid-type]
        __slots__ = ()

    Request.recorder, Request.explicit, Request.record = recorder, explicit, record

    def middleware(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        request = Request()
        if REQUEST in environ and not takes_over(request, environ):
            return app(environ, start_response)
        environ[REQUEST] = request
        request.start_response = start_response
        try:
            begin(request, environ)
            result: Any = app(environ, request.start)
            if type(result) is list and len(result) == 1:
                record(request, result[0])
                return result
            return respond(request, result)  # type: ignore[no-any-return]
        except BaseException as error:  # of a signal handler too
            request.fail(error)
            raise

    return middleware


def begin_of(recorder: Recorder) -> Callable[[MeasuredRequest, WSGIEnvironment], None]:
    """Return a function, for one middleware, that begins to measure a request, which has come with an environ."""
    in_progress, counts_in_progress = recorder.in_progress, recorder.counts_in_progress
    counts_received, counts_queue = recorder.counts_received, recorder.counts_queue
    knows_file_wrapper = False

    def begin(request: MeasuredRequest, environ: WSGIEnvironment) -> None:
        nonlocal knows_file_wrapper
        request.environ = environ
        request.sent = 0
        request.own_extras = None
        request.started = started = perf_counter()
        try:
            # A file_wrapper that is a class is looked for once, since a look takes 300 instructions. A function, as uWSGI's, is
            # replaced in each environ.
            if not knows_file_wrapper:
                knows_file_wrapper = request.see_file_wrapper()
            if (counts_received and ("CONTENT_LENGTH" in environ or "HTTP_TRANSFER_ENCODING" in environ)) or (
                counts_queue and ("HTTP_X_REQUEST_START" in environ or "HTTP_X_QUEUE_START" in environ)
            ):
                request.measure_more()
            if "HTTP_UPGRADE" in environ:
                request.see_upgrade()
            if started > recorder.next_check or not _fork_guard[0]:
                recorder.check(started, environ)
            # Kept now: the application may clear its environ.
            request.method = environ["REQUEST_METHOD"]
            request.original_path = environ["PATH_INFO"]
        except Exception as error:
            request.begin_after_error(error)
        # The slot's lock, which tells this process from a parent; False while rows are being moved.
        token = current_slot.token
        if token is False:
            in_progress.enter(request)  # under the lock, and sets the request's token to it
        else:
            # `count` is minus the number of requests: store/in_progress.py.
            if counts_in_progress:
                count = in_progress.count = in_progress.count - 1.0
                in_progress.columns[0] = started if count == -1.0 else count
            request.token = token

    return begin


def record_of(recorder: Recorder) -> Callable[[MeasuredRequest, bytes], None]:
    """Return the function that counts a request, whose response is complete, before the server gets its last chunk."""
    rows, requests, in_progress = recorder.rows, recorder.rows.requests, recorder.in_progress
    labels_of = labels_of_callables(recorder.label_callables)
    bounds, first_bound, sent_column = recorder.bounds, recorder.bounds[0], recorder.columns.sent
    counts_sent, counts_in_progress = recorder.counts_sent, recorder.counts_in_progress

    def record(request: MeasuredRequest, chunk: bytes) -> None:
        try:
            sent = request.sent + len(chunk)
            seconds = perf_counter() - request.started
            # Most requests are of the first bucket: the look at it saves 900 of 16,000 instructions, 5 %.
            bucket = 1 if seconds <= first_bound else 1 + bisect_left(bounds, seconds)
            labels = request.route if labels_of is None else labels_of(request)
            extras = request.own_extras
            # Byte 1 of the guard: the slot is this process's own, not a parent's. The token last: another thread may have
            # dismissed the request, for a middleware inside.
            if (extras is None or not extras.slow) and _fork_guard[1] and request.token is current_slot.token:
                row = requests[request.method][labels][request.status]
                # First: the row of a response that may have no body lacks this column, and the error leaves it to `end`.
                if sent and counts_sent:
                    row[sent_column] += sent
                row[0] += seconds
                row[bucket] += 1.0
                if extras is not None:
                    row[recorder.columns.received] += extras.received.size
                    row[recorder.columns.unknown] += extras.received.unknown
                    if extras.waited is not None:
                        rows.queue[0] += extras.waited
                        rows.queue[extras.queue_bucket] += 1.0
                if counts_in_progress:
                    in_progress.columns[0] = in_progress.count = in_progress.count + 1.0
                request.token = request.environ[REQUEST] = None
                return
        except Exception:  # noqa: S110 - new labels, no start_response, a chunk that is not bytes
            pass
        recorder.end(request, chunk)

    return record


def labels_of_callables(
    callables: Sequence[Callable[[WSGIEnvironment], object]],
) -> Callable[[MeasuredRequest], RouteLabels] | None:
    """
    Return a function that returns a request's route and the labels that *callables* return; None if there are none.

    It raises what they raise, and leaves long values as they are: no row is found for either, and the slow path sees to it.
    """
    if not callables:
        return None
    first, *others = callables

    def labels_of(request: MeasuredRequest) -> Any:
        if request.token is None:  # over: each is called once
            return request.route
        # Not by a loop from the first on: that takes 600 of 18,000 instructions more.
        labels: Any = (request.route, str(first(request.environ)))
        if others:
            for value in others:
                labels += (str(value(request.environ)),)
        request.route = labels
        return labels

    return labels_of
