"""
One request, from the call of the application to the end of its response: its state, and its start_response.

Nothing here raises into the application or the server, but what the server's own start_response and write raise.
"""

from __future__ import annotations

import sys
import time
from bisect import bisect_left
from time import perf_counter
from typing import TYPE_CHECKING, Any, ClassVar, Final

from wsgi_prom.metrics import LONGEST_LABEL, OTHER, UNMATCHED
from wsgi_prom.request.extras import NO_EXTRAS, Extras
from wsgi_prom.request.file_wrapper import Wrapper
from wsgi_prom.request.headers import content_length, drops_body, must_lack_body, queue_seconds
from wsgi_prom.request.input import NOTHING, UNKNOWN, Input
from wsgi_prom.request.routes import BOTTLE, REQUEST, ROUTE, WERKZEUG, environ_getters, find_route
from wsgi_prom.request.websocket import asks_for_websocket, ends_session

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Self

    from _typeshed.wsgi import WSGIEnvironment

    from wsgi_prom.request.recorder import Recorder
    from wsgi_prom.request.row_schemas import RouteLabels

_ABSENT: Final = object()


class MeasuredRequest:
    """
    The state of a request. For one thread at a time, like the request itself.

    `begin` sets the first group of attributes, and `start` the second.
    """

    __slots__ = (
        "environ", "headers", "length", "method", "original_path", "own_extras", "route", "sent", "start_response",
        "started", "status", "token", "write",
    )  # fmt: skip

    # Set in a subclass for each middleware. Explicit: the user wrote that middleware; a server's hook made the others.
    recorder: ClassVar[Recorder]
    explicit: ClassVar[bool]
    # Counts the request, whose last chunk goes out now: measurement.py.
    record: ClassVar[Callable[[Any, bytes], None]]
    # The server's, where it is a class: a response of this type is a file.
    file_wrapper: ClassVar[type | None] = None

    environ: WSGIEnvironment
    method: Any  # a str, as a rule
    # PATH_INFO as the middleware found it.
    original_path: str
    # Bytes of the response's body.
    sent: int
    # By perf_counter().
    started: float
    # The current slot's lock when the request began; None once it is counted or dismissed.
    token: Any
    # None as a rule; see `extras` and `more_extras`.
    own_extras: Extras | None

    headers: Any
    # See `labels`.
    route: RouteLabels
    start_response: Any
    status: Any
    write: Any
    # Content-Length, set with the first chunk.
    length: int

    def start(self, status: Any = _ABSENT, headers: Any = _ABSENT, /, *more: Any, **keywords: Any) -> Self:
        """Act as the application's start_response, and return its `write`. The server judges what it is called with."""
        if headers is _ABSENT or more or keywords:
            return self._start_general(status, headers, more, keywords)
        start_response = self.start_response
        self.write = start_response(status, headers)
        self.status = status
        self.headers = headers
        environ = self.environ
        # Not later: Flask has cleared its request when it returns (werkzeug.request is None then). The look before the
        # call saves 2,300 of 16,000 instructions where no framework has left a route. (Where RULE may be set, `environ_getters` is not empty.)
        if ROUTE in environ or WERKZEUG in environ or BOTTLE in environ or environ_getters:
            self.route = self.find_route()
        else:
            self.route = UNMATCHED
        return self

    def _start_general(
        self, status: Any, headers: Any, more: tuple[Any, ...], keywords: dict[str, Any]
    ) -> Self:
        given = [value for value in (status, headers) if value is not _ABSENT]
        # By keyword too, which PEP 3333 does not have, and some servers take.
        self.write = self.start_response(*given, *more, **keywords)
        self.status = status if given else keywords.get("status")
        self.headers = headers if len(given) > 1 else keywords.get("headers", ())
        self.route = self.find_route()
        exc_info = more[0] if more else keywords.get("exc_info")
        # An error handler's (PEP 3333), as Bottle's. Some give one with a redirect or a 404, which are no failures.
        if isinstance(exc_info, tuple) and exc_info and str(self.status).startswith("5"):
            self.note_exception(exc_info[0])
        return self

    def __call__(self, data: bytes) -> object:
        """Count *data* and hand it to the server, for an application that writes."""
        self.count_chunk(data)
        return self.write(data)

    def find_route(self) -> str:
        try:
            return find_route(self.environ, self.original_path)
        except Exception:  # a framework's object, or the application's
            self.recorder.report_failure("route")
            return UNMATCHED

    def see_file_wrapper(self) -> bool:
        """Keep the server's file_wrapper if it is a class, and replace a function. Returns whether a class is known."""
        wrapper: Any = self.environ.get("wsgi.file_wrapper")
        if isinstance(wrapper, type):
            type(self).file_wrapper = wrapper
        # A function, as uWSGI's: the file that it is given tells its end. Ours is there if the environ has come before.
        elif wrapper is not None and not isinstance(wrapper, Wrapper):
            self.environ["wsgi.file_wrapper"] = Wrapper(wrapper)
        return self.file_wrapper is not None

    @property
    def extras(self) -> Extras:
        """The request's extras, to be read."""
        return self.own_extras or NO_EXTRAS

    def more_extras(self) -> Extras:
        """Return the request's own extras, to be set; made at the first call."""
        if self.own_extras is None:
            self.own_extras = Extras()
        return self.own_extras

    def measure_more(self) -> None:
        """Count the body as it is read, and keep the time that the request was in the proxy's queue."""
        extras = self.more_extras()
        if self.recorder.counts_received:
            extras.received = self._input()
        # Counted at the end: a middleware inside may measure the request.
        if self.recorder.counts_queue:
            # The wall clock, and only here: the proxy's is another machine's, or process's.
            waited = queue_seconds(self.environ, time.time())
            if waited is not None:
                extras.waited = waited
                extras.queue_bucket = 1 + bisect_left(self.recorder.queue_bounds, waited)
                if self.recorder.rows.queue is None:
                    extras.slow = True  # the first of a process makes the row

    def _input(self) -> Input:
        """Return what counts the body as it is read."""
        environ = self.environ
        if not environ.get("CONTENT_LENGTH") and "HTTP_TRANSFER_ENCODING" not in environ:
            return NOTHING  # uWSGI has an empty Content-Length where there is none
        source = environ.get("wsgi.input")
        # uWSGI's has nothing of a body in chunks, which an application reads by uwsgi.chunked_read(): its size is not known.
        if source is None or ("uwsgi.version" in environ and not environ.get("CONTENT_LENGTH")):
            return UNKNOWN
        environ["wsgi.input"] = received = Input(source)
        return received

    def see_upgrade(self) -> None:
        """Look whether the request asks for a WebSocket."""
        if asks_for_websocket(self.environ):
            extras = self.more_extras()
            extras.websocket = extras.slow = True

    def begin_after_error(self, error: Exception) -> None:
        """Set what `begin` could not, because of the *error* in the current except block."""
        self.more_extras().slow = True
        self.method = self.environ.get("REQUEST_METHOD", "")
        self.original_path = self.environ.get("PATH_INFO", "")
        # No failure of ours: uWSGI calls the application, with no method and path, for a request of two empty lines too.
        if not isinstance(error, KeyError):
            self.recorder.report_failure("enter")

    def count_chunk(self, chunk: Any) -> None:
        """Count a chunk of the body, before the server gets it."""
        try:
            # The server sends the headers with the first chunk that is not empty (PEP 3333). uWSGI takes the object of its
            # file_wrapper for a chunk, which has no length. A body that goes on after its Content-Length is over.
            if self.token is None or not chunk or not isinstance(chunk, bytes):
                return
            if not self.sent:
                self.note_first_byte()
                length = content_length(self.headers)
                self.length = sys.maxsize if length is None else length
            self.sent += len(chunk)
            if self.sent >= self.length:
                self.record(b"")
        except Exception:
            self.recorder.report_failure("body")

    def note_first_byte(self) -> None:
        if self.recorder.times_first_byte:
            self.more_extras().first_byte = perf_counter() - self.started

    def note_exception(self, exception: type[BaseException]) -> None:
        """Note an exception of the application. The first of a request is counted with it."""
        if getattr(self, "token", None) is not None and self.extras.exception is None:
            extras = self.more_extras()
            extras.exception, extras.slow = exception, True

    def abort(self) -> None:
        """Count the request as closed before its end."""
        # A server need not look at the body where there is none to send.
        lacks_body = must_lack_body(self.method, str(getattr(self, "status", "")))
        self.recorder.end(self, aborted=not lacks_body and not self.extras.websocket)

    def fail(self, error: BaseException) -> None:
        """Count the request as one that raised *error*."""
        if getattr(self, "token", None) is None:  # over, or a signal handler raised before it began
            return
        if not self.extras.websocket or not ends_session(error):
            # As long as no byte of the body went out, the server answers 500, whatever the status was.
            if not self.sent:
                self.status = "500"
            self.note_exception(type(error))
        self.recorder.end(self)

    def switch(self) -> None:
        """Count the request with status 101: the application has taken its connection for another protocol."""
        self.status, self.route = "101", self.find_route()
        self.recorder.end(self)

    def final_status(self) -> str:
        """Return the status to count, and drop the size of a body that no server sends."""
        if not isinstance(self.method, str):
            self.method = OTHER
        status = getattr(self, "status", None)
        if self.extras.websocket:
            # The server has answered 101, and sends nothing of what the application says but an error.
            switched = self.environ.get("wsgi.websocket") is not None and str(status) < "4"
            if status is None or switched:
                return "101"
        if not isinstance(status, str):
            status = "500"
        if must_lack_body(self.method, status) and drops_body(
            self.environ, self.method, file=self.extras.is_file
        ):
            self.sent = 0
        return status

    def is_session(self, status: str) -> bool:
        """Tell whether the request is counted without its duration."""
        return status.startswith("101") or self.extras.websocket

    def leave_environ(self) -> None:
        # The two refer to each other: both, and all that the server put into environ, would stay in memory until the next
        # garbage collection.
        self.environ[REQUEST] = None

    def labels(self) -> RouteLabels:
        """Return the route, with the labels that callables of the settings return."""
        # Not in an except block: the route of a request that failed is looked for in the exception that is handled.
        labels = self.route if hasattr(self, "route") else self.find_route()
        if self.recorder.label_callables:
            if isinstance(labels, str):  # else `record` has called them, and found no row
                labels = (labels, *map(self._ask, self.recorder.label_callables))
            route, *added = labels
            self.route = labels = (route, *(label[:LONGEST_LABEL] for label in added))
        return labels

    def _ask(self, value: Callable[[WSGIEnvironment], object]) -> str:
        try:
            return str(value(self.environ))
        except Exception:  # the user's callable
            self.recorder.report_failure("label")
            return OTHER
