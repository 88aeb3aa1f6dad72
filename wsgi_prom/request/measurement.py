"""
An application that is measured: any WSGI application (PEP 3333), and otherwise as it was.
"""

# Rule 1: whatever fails in here is counted, logged once, and kept from the application.
# Rule 2: a list, tuple, bytes or file_wrapper result goes to the server as the same object: it is that object's type
#         that gets a response its Content-Length, or its sendfile.
# Rule 3: what is known to be complete is counted before the server sends the last of it: a worker killed after that
#         has answered, and counted. (Of 60 that were killed right after a Flask answer had arrived, 29 had counted it
#         while that was done in close().)
# Rule 4: the fast path, of a request whose response is complete, lies in one function. What it costs is calls (430 instructions
#         each, of 14,500 that all of this adds to a request) and steps (27 each, and in a framework, whose own code fills the
#         processor's caches, twice their time). Everything else leaves it for the slow path.
# Rule 5: nothing is called between a look at `guarded` and the last of the stores behind it, so that no other thread and no
#         signal's handler comes in between (see store/unlocked.py); where one may, the recorder does it, with the lock. The
#         token says last whether a request is in progress.

from __future__ import annotations

from bisect import bisect_left
from time import perf_counter
from typing import TYPE_CHECKING, Any, Final

from wsgi_prom.metrics import LONGEST_LABEL
from wsgi_prom.request.callables import has_method
from wsgi_prom.request.file_wrapper import Wrapper
from wsgi_prom.request.nesting import takes_over
from wsgi_prom.request.request import MeasuredRequest
from wsgi_prom.request.response import respond, wrap
from wsgi_prom.request.routes import REQUEST
from wsgi_prom.request.websocket import WebSocketRequest, asks_for_websocket
from wsgi_prom.store.current_slot import current_slot

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

    from wsgi_prom.request.recorder import Recorder
    from wsgi_prom.request.response_sizes import Size
    from wsgi_prom.request.rows import InProgress
    from wsgi_prom.store.current_slot import CurrentSlot
    from wsgi_prom.store.fork_guard import ForkGuard
    from wsgi_prom.store.slots import Columns

# Raised for new labels, a missing start_response or a wrong type; the slow path handles them.
_UNUSUAL: Final = (KeyError, AttributeError, TypeError)


def measured(  # noqa: C901, PLR0915 - rule 4
    app: WSGIApplication,
    recorder: Recorder,
    exempt: Callable[[WSGIEnvironment], WSGIApplication | None] | None,
    *,
    explicit: bool,
) -> WSGIApplication:
    """
    Return *app*, measured by *recorder*.

    *exempt* tells who answers a request that is not measured, None for all others; without it, all are measured. *explicit* is
    False for a server's hook, which measures only what no middleware inside does.
    """
    # The server's file_wrapper: a class, which is seen in what it makes, or a function, as uWSGI's, which ours stands in for.
    wrapper_class: type | None = None
    wrapper_function: Any = None
    told_wrapper: Wrapper | None = None

    class Request(MeasuredRequest):
        __slots__ = ()
        _recorder = recorder
        _explicit = explicit

    class Session(WebSocketRequest, Request):
        __slots__ = ()

    def finish(request: MeasuredRequest) -> None:
        """Count a *request* whose complete response was not a plain list."""
        if request.token is current_slot.lock and current_slot.alive[1] and not hasattr(request, "waited"):
            try:
                seconds = perf_counter() - request._started
                bucket = 1 + bisect_left(recorder.bounds, seconds)
                received, gauge = getattr(request, "received", None), recorder.serving
                where: Any = request._route
                if recorder.asked:
                    request.placed = where = request.place(where, recorder.asked)
                if not current_slot.guarded and request.token is not None:
                    row = recorder.requests[request.method][where][request._status]
                    row[0] += seconds
                    row[bucket] += 1.0
                    if recorder.counts_sent:
                        row[recorder.sent_column] += request.sent
                    if received is not None:
                        row[recorder.received_column] += received.size
                    if recorder.counts_in_progress:
                        gauge.columns[0] = gauge.count = gauge.count - 1.0
                    request.token = None
                    request._environ[REQUEST] = None
                    return
            except _UNUSUAL:
                pass
        request.leave()

    # A function: an object with __call__ takes 700 instructions more. Its defaults are what it works with, which nobody
    # gives: they lie side by side, where a closure has an object for each, which every call counts up and down again, and
    # which a framework's request has pushed out of the processor's cache (6 % of what this adds to a Flask request).
    # The application stays in the closure, where `wsgi-prom check` looks for what a function wraps.
    def middleware(  # noqa: C901, PLR0911, PLR0912, PLR0915 - rule 4
        environ: WSGIEnvironment,
        start_response: StartResponse,
        exempt: Callable[[WSGIEnvironment], WSGIApplication | None] | None = exempt,
        recorder: Recorder = recorder,
        Request: type[MeasuredRequest] = Request,  # noqa: N803 - a class
        current_slot: CurrentSlot = current_slot,
        alive: ForkGuard = current_slot.alive,
        requests: dict[str, dict[Any, dict[str, Columns]]] = recorder.requests,
        gauge: InProgress = recorder.serving,
        asked: tuple[Callable[[WSGIEnvironment], object], ...] = recorder.asked,
        # The functions that return a result's size, by its type. The objects of a file_wrapper have none.
        sizes: dict[type, Size] = {},  # noqa: B006 - each middleware's own
        # Stands for the body of a request that has none. None sends a request to the slow path.
        bodiless: Any = None if recorder.times_first_byte else 0,
        first_bound: float = recorder.bounds[0],
        sent_column: int = recorder.sent_column,
        counts_received: bool = recorder.counts_received,
        counts_sent: bool = recorder.counts_sent,
        counts_in_progress: bool = recorder.counts_in_progress,
        counts_queue: bool = recorder.counts_queue,
        has_method: bool = has_method(app),
        waited: float | None = None,
    ) -> Iterable[bytes]:
        nonlocal wrapper_class, wrapper_function, told_wrapper
        if exempt is not None:
            other = exempt(environ)
            if other is not None:
                return other(environ, start_response)
        request = Request()
        if environ.setdefault(REQUEST, request) is not request and not takes_over(request, environ):
            return app(environ, start_response)
        request._environ = environ
        request._start_response = start_response
        request.sent = 0
        request._started = started = perf_counter()
        received = bodiless
        try:
            # Kept here: the application may clear its environ.
            try:
                request.method = method = environ["REQUEST_METHOD"]
                request.entered = environ["PATH_INFO"]
            except KeyError:  # uWSGI calls it for a request of two empty lines too
                request.method = method = environ.get("REQUEST_METHOD", "")
                request.entered = environ.get("PATH_INFO", "")
            # Once it is known to be a class it is not looked at any more: 400 instructions.
            if wrapper_class is None:
                wrapper: Any = environ.get("wsgi.file_wrapper")
                if wrapper is not wrapper_function:
                    if isinstance(wrapper, type):
                        told_wrapper, wrapper_class = None, wrapper
                    elif not isinstance(wrapper, Wrapper):  # of an earlier pass of the same environ
                        told_wrapper = None if wrapper is None else Wrapper(wrapper)
                        wrapper_function = wrapper
                if told_wrapper is not None:
                    environ["wsgi.file_wrapper"] = told_wrapper
            if counts_received and (
                ("CONTENT_LENGTH" in environ and environ["CONTENT_LENGTH"])  # noqa: RUF019 - 100 instructions less
                or "HTTP_TRANSFER_ENCODING" in environ
            ):
                received = request.measure_input()
            if started > recorder.look_at:
                recorder.look_after(started, environ)
            if not alive[0]:
                current_slot.renew()
            if counts_in_progress:
                if current_slot.guarded:
                    gauge.enter(request)
                else:
                    gauge.columns[0] = gauge.count = gauge.count + 1.0
                    request.token = current_slot.lock
            else:
                request.token = current_slot.lock
            if counts_queue and ("HTTP_X_REQUEST_START" in environ or "HTTP_X_QUEUE_START" in environ):
                waited = request.measure_queue()
            if "HTTP_UPGRADE" in environ and asks_for_websocket(environ):
                request.__class__, received = Session, None
        except Exception:
            recorder.fail("enter")
            received = None
            if not hasattr(request, "token"):
                gauge.enter(request)
        except BaseException:  # of a signal's handler
            request.dismiss()
            raise
        try:
            result: Any = (
                app.__call__(environ, request.start)  # type: ignore[operator]
                if has_method
                else app(environ, request.start)
            )
            if received is None:
                return respond(request, result, None, wrapper_class, MeasuredRequest.leave, sizes)  # type: ignore[no-any-return]
            kind: type = type(result)
            sent: int | None
            if kind is list:
                try:
                    if not counts_sent:
                        sent = 0
                    else:
                        sent = len(result[0]) if len(result) == 1 else sum(map(len, result))
                except Exception:  # items that are not bytes
                    return respond(request, result, None, wrapper_class, MeasuredRequest.leave, sizes)  # type: ignore[no-any-return]
            else:
                try:
                    size_of = sizes[kind]
                except Exception:  # not met, a file, or a type that cannot be a key
                    return respond(request, result, None, wrapper_class, finish, sizes)  # type: ignore[no-any-return]
                sent = size_of(result)
                if sent is None:
                    return wrap(request, result, finish)  # type: ignore[no-any-return]
            if request.token is current_slot.lock and alive[1]:
                try:
                    seconds = perf_counter() - started
                    # Most requests are of the first bucket.
                    bucket = 1 if seconds <= first_bound else 1 + bisect_left(recorder.bounds, seconds)
                    where: Any = request._route
                    if asked:
                        # As `place` does, but for what is unusual.
                        try:
                            label: Any = asked[0](environ) if len(asked) == 1 else None
                        except Exception:  # the user's callable
                            label = None
                        if type(label) is str and len(label) <= LONGEST_LABEL:
                            request.placed = where = (where, label)
                        else:
                            request.placed = where = request.place(where, asked)
                    # Another thread may have dismissed the request: that of a middleware inside.
                    if not current_slot.guarded and request.token is not None:
                        row = requests[method][where][request._status]
                        row[0] += seconds
                        row[bucket] += 1.0
                        if counts_sent:
                            # With what went out by a write(): nothing as a rule.
                            row[sent_column] += sent + request.sent
                        if received:
                            row[recorder.received_column] += received.size
                        if counts_in_progress:
                            gauge.columns[0] = gauge.count = gauge.count - 1.0
                        request.token = None
                        environ[REQUEST] = None
                        if waited is not None:
                            request.count_queue()
                        return result  # type: ignore[no-any-return]
                except _UNUSUAL:
                    pass
            return respond(request, result, sent, wrapper_class, MeasuredRequest.leave, sizes)  # type: ignore[no-any-return]
        except BaseException as error:  # of a signal's handler too
            request.fail(error)
            raise

    return middleware
