"""One request, from the call of the application to the end of its response."""

# Rule 1: nothing of this raises into the application or the server.
# Rule 2: a request is counted once, by the first call of `leave`.

from __future__ import annotations

import time
from time import perf_counter
from typing import TYPE_CHECKING, Any, ClassVar, Final

from wsgi_prom.metrics import LONGEST_LABEL, OTHER
from wsgi_prom.request.file_wrapper import FileResponse
from wsgi_prom.request.headers import drops_body, may_lack_body, queue_seconds, told_length
from wsgi_prom.request.input import Input
from wsgi_prom.request.routes import BOTTLE, KEY, REQUEST, RULE, UNMATCHED, WERKZEUG, elsewhere, find_route

if TYPE_CHECKING:
    from collections.abc import Callable

    from _typeshed.wsgi import WSGIEnvironment

    from wsgi_prom.request.recorder import Recorder
    from wsgi_prom.request.schemas import Where

_ABSENT: Final = object()

# The token of a request whose exception was noted, until it leaves: keeps it off the fast path, which counts no exceptions.
_NOTED: Final = object()


class MeasuredRequest(FileResponse):
    """
    What is known of a request. For one thread at a time, like the request itself.

    The middleware makes it, fills it in, and hands it what the fast path does not handle: a streamed response, new labels.
    """

    # Those that few requests have are not set in others.
    __slots__ = (
        "_environ", "_file", "_headers", "_noted", "_route", "_start_response", "_started", "_status", "_write",
        "entered", "first_byte", "length", "method", "placed", "received", "sent", "token", "waited",
    )  # fmt: skip

    # Of a class of each middleware's own.
    _recorder: ClassVar[Recorder]
    # Whether somebody wrote that middleware, or a server's hook made it.
    _explicit: ClassVar[bool]

    _environ: WSGIEnvironment
    _file: Any
    _headers: Any
    _noted: tuple[type[BaseException], Any]
    _route: str
    _start_response: Any
    _started: float
    _status: Any
    _write: Any
    entered: str
    first_byte: float
    length: int
    method: Any  # a str, as a rule
    # What `place` has returned, where the middleware has asked it in vain.
    placed: tuple[str, ...]
    # None: not known.
    received: Input | None
    sent: int
    token: Any
    # Seconds that the request waited before it got here.
    waited: float | None

    def start(
        self, status: Any = _ABSENT, headers: Any = _ABSENT, /, *exc_info: Any, **keywords: Any
    ) -> Callable[[bytes], object]:
        """Act as the application's start_response, with whatever the application gives it."""
        if headers is _ABSENT or exc_info or keywords:
            return self._start_oddly(status, headers, exc_info, keywords)
        # Not called off the slot, where the interpreter looks for a method: 120 instructions.
        start_response = self._start_response
        self._write = start_response(status, headers)
        self._status = status
        self._headers = headers
        environ = self._environ
        # Not later: Flask has cleared its request when it returns (werkzeug.request is None then).
        if KEY in environ:
            # As `find_route` does.
            template = environ[KEY]
            self._route = template if isinstance(template, str) and template else UNMATCHED
        elif WERKZEUG in environ:
            try:
                # As `find_route` does where nothing is mounted: a call less.
                self._route = environ[WERKZEUG].url_rule.rule
                if environ["PATH_INFO"] != self.entered:
                    self._route = self._find_route()
            except Exception:  # no rule, or not the framework's object
                self._route = self._find_route()
        elif BOTTLE in environ or RULE in environ or elsewhere:
            self._route = self._find_route()
        else:
            self._route = UNMATCHED
        return self

    def _start_oddly(
        self, status: Any, headers: Any, exc_info: tuple[Any, ...], keywords: dict[str, Any]
    ) -> Callable[[bytes], object]:
        given = [value for value in (status, headers) if value is not _ABSENT]
        # By keyword too, which PEP 3333 does not have, and wsgiref takes.
        self._write = self._start_response(*given, *exc_info, **keywords)
        self._status = status if given else keywords.get("status")
        self._headers = headers if len(given) > 1 else keywords.get("headers", ())
        self._route = self._find_route()
        raised = exc_info[0] if exc_info else keywords.get("exc_info")
        # An error handler's (PEP 3333), as Bottle's; some give one with a redirect or a 404, which are no failures.
        if isinstance(raised, tuple) and raised and str(self._status).startswith("5"):
            self.note(raised[0])
        return self

    def __call__(self, data: bytes) -> object:
        """Count *data* and hand it to the server, for an application that writes."""
        self.passed(data)
        return self._write(data)

    def measure_input(self) -> Input | None:
        """Count the body as it is read. Returns what counts it, None if the request has to take the slow path."""
        environ = self._environ
        source = environ.get("wsgi.input")
        self.received = None
        # uWSGI's has nothing of a body in chunks, which an application reads by uwsgi.chunked_read(): how much is not known.
        if source is not None and (environ.get("CONTENT_LENGTH") or "uwsgi.version" not in environ):
            environ["wsgi.input"] = self.received = Input(source)
        return None if self._recorder.times_first_byte else self.received

    def measure_queue(self) -> float | None:
        """Return the seconds that the request has waited, None if unknown. Its end counts them: a middleware inside may measure it."""
        try:
            # The wall clock, and only here: the proxy's is another machine's, or process's.
            self.waited = waited = queue_seconds(self._environ, time.time())
        except Exception:
            self._recorder.fail("enter")
            return None
        return waited

    def count_queue(self) -> None:
        """Count how long the request has waited, if that is known. Never raises."""
        try:
            waited = getattr(self, "waited", None)
            if waited is not None:
                self._recorder.observe_queue(waited)
        except Exception:
            self._recorder.fail("record")

    def complete(self, result: Any) -> None:
        """Count a *result* that is all of the response, before the server gets it."""
        if result is None or isinstance(result, str):
            # What no server takes, and that is for the server to say.
            self.leave(True)
            return
        try:
            sent = len(result) if isinstance(result, bytes) else sum(map(len, result))
            if self._recorder.times_first_byte and sent and not self.sent:
                self.first_byte = perf_counter() - self._started
            self.sent += sent
        except Exception:  # items that are not bytes: the server says so
            self._recorder.fail("body")
        self.leave()

    def passed(self, chunk: Any) -> None:
        """Count a chunk of the body, before the server gets it."""
        try:
            # The server sends the headers with the first chunk that is not empty (PEP 3333). And uWSGI takes a
            # file_wrapper's object for a chunk, which has no length. A body that goes on after what was told is over.
            if self.token is None or not chunk or not isinstance(chunk, bytes):
                return
            if not self.sent:
                if self._recorder.times_first_byte:
                    self.note_first_byte()
                self.length = told_length(self._headers, self._recorder.fail)
            self.sent += len(chunk)
            if self.sent >= self.length:
                self.leave()
        except Exception:
            self._recorder.fail("body")

    def note_first_byte(self) -> None:
        self.first_byte = perf_counter() - self._started

    def abort(self) -> None:
        """Count the request as closed before its end."""
        # A server need not look at the body where there is none to send.
        self.leave(False, None, not may_lack_body(self.method, str(getattr(self, "_status", ""))))

    def fail(self, error: BaseException) -> None:
        """Count the request as one that raised *error*."""
        # As long as no byte of the body went out, the server answers 500 whatever start_response was told.
        self.leave(not self.sent, type(error))

    def note(self, exception: type[BaseException]) -> None:
        """Note an exception that the application answers itself. The first of a request is counted with it."""
        if getattr(self, "token", None) is not None and not hasattr(self, "_noted"):
            self._noted = exception, self.token
            self.token = _NOTED

    def dismiss(self) -> None:
        """Do not count the request."""
        self._noted_exception()
        self._part_from_environ()
        self._recorder.serving.dismiss(self)

    def leave(
        self, failed: bool = False, exception: type[BaseException] | None = None, aborted: bool = False
    ) -> None:
        """Count the request, unless that was done: as answered in full, or how else it ended."""
        if self.token is None:
            return
        recorder = self._recorder
        noted = self._noted_exception()
        try:
            seconds = perf_counter() - self._started
            try:
                status, route = self._status, self._route
            except AttributeError:
                status = None
            if status is None:  # the application has not called start_response
                route = self._find_route()
            self._part_from_environ()
            where: Where = route
            if recorder.asked:
                where = getattr(self, "placed", ()) or self.place(route, recorder.asked)
            if self._record(where, self._final(status, failed), seconds):
                self._count_more(where, noted or exception, aborted)
        except Exception:
            recorder.fail("record")
        finally:
            # Not counted: the above, or a callable's time is over, or it is the parent's.
            if self.token is not None:
                recorder.serving.dismiss(self)

    def switch(self) -> None:
        """Count the request as one whose connection the application has taken from the server, for another protocol."""
        self._status, self._route = "101", self._find_route()
        self.leave()

    def _final(self, status: Any, failed: bool) -> str:
        if not isinstance(self.method, str):
            self.method = OTHER
        return "500" if failed or not isinstance(status, str) else status

    def _record(self, where: Where, status: str, seconds: float) -> bool:
        if status.startswith("101"):
            return self._recorder.count_untimed(self, where, status)
        file = hasattr(self, "_file")
        if may_lack_body(self.method, status) and drops_body(self._environ, self.method, file=file):
            self.sent = 0
        return self._recorder.count(self, where, status, seconds)

    def _count_more(self, where: Where, exception: type[BaseException] | None, aborted: bool) -> None:
        self.count_queue()
        if exception is not None:
            self._recorder.count_exception(self.method, where, exception)
        elif aborted:
            self._recorder.count_aborted(self.method, where)

    def _noted_exception(self) -> type[BaseException] | None:
        """Return the noted exception, and put the request's token back in its place. None if there is none."""
        if getattr(self, "token", None) is not _NOTED:
            return None
        exception, self.token = self._noted
        return exception

    def _part_from_environ(self) -> None:
        # It refers to this, and this to it: a circle would keep both, and all that the server put into it, until the
        # garbage collector comes round.
        self._environ[REQUEST] = None

    def place(self, route: str, asked: tuple[Callable[[WSGIEnvironment], object], ...]) -> tuple[str, ...]:
        """Return *route* with the labels that the callables *asked* return."""
        found: tuple[str, ...] = (route,)
        for value in asked:
            try:
                label: Any = value(self._environ)
                if type(label) is not str:
                    label = str(label)
            except Exception:  # the user's callable
                self._recorder.fail("label")
                label = OTHER
            found = (*found, label if len(label) <= LONGEST_LABEL else label[:LONGEST_LABEL])
        return found

    def _find_route(self) -> str:
        try:
            return find_route(self._environ, self.entered)
        except Exception:  # a framework's object, or the application's
            self._recorder.fail("route")
            return UNMATCHED
