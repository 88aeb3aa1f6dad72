"""
One request, from the call of the application to the end of its response.
"""

# Rule 1: nothing of this raises into the application or the server.
# Rule 2: a request is counted once, by the first of `finish`, `abort` and `fail`.

from __future__ import annotations

import time
from time import perf_counter
from typing import TYPE_CHECKING, Any, Final

from wsgi_prom.body import ClosableFile, File, Input, file_size, look_into, wrap
from wsgi_prom.catalog import OTHER
from wsgi_prom.headers import content_length, queue_seconds, request_size
from wsgi_prom.routes import BOTTLE, KEY, REQUEST, UNMATCHED, WERKZEUG, find_route

if TYPE_CHECKING:
    from collections.abc import Callable

    from _typeshed.wsgi import WSGIEnvironment

    from wsgi_prom.recorder import Recorder

# A callable may hand on what a client sent: as few as the label sets are, each is kept for good.
_LONGEST_LABEL: Final = 128
_ABSENT: Final = object()


class MeasuredRequest:
    """
    What is known of a request. For one thread at a time, like the request itself.

    The middleware makes it and fills it in, and hands it what is not usual: a response that is not complete, new labels.
    """

    # What every request has. What few have is an attribute of the class until it is set, which costs the others nothing.
    __slots__ = (
        "__dict__", "_environ", "_file_wrapper", "_headers", "_method", "_recorder", "_route", "_start_response",
        "_started", "_status", "_token", "_write", "entered", "usual",
    )  # fmt: skip

    _environ: WSGIEnvironment
    _file_wrapper: Any
    _headers: Any
    _method: str
    _recorder: Recorder
    _route: str
    _start_response: Any
    _started: float
    _status: Any
    _token: Any
    _write: Any
    entered: str
    # Whether a response that is complete may be counted by the middleware itself.
    usual: bool

    _received: int | None = 0
    _sent = 0
    _length: int | None = None
    _first_byte: float | None = None
    _input: Input | None = None
    _file: Any = None
    _direct = False

    def start(
        self, status: Any = _ABSENT, headers: Any = _ABSENT, /, *exc_info: Any, **keywords: Any
    ) -> Callable[[bytes], object]:
        """Act as the application's start_response, with whatever the application gives it."""
        if headers is _ABSENT or exc_info or keywords:
            return self._start_oddly(status, headers, exc_info, keywords)
        self._write = self._start_response(status, headers)
        self._status = status
        self._headers = headers
        environ = self._environ
        # Not later: Flask has cleared its request when it returns (werkzeug.request is None then).
        if KEY in environ or WERKZEUG in environ or BOTTLE in environ:
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
        return self

    def __call__(self, data: bytes) -> object:
        """Count *data* and hand it to the server, for an application that writes."""
        self.usual = False
        self.passed(data)
        return self._write(data)

    def measure_input(self) -> int:
        """Return the size of the request's body, if it is told; if not, see to it that it is measured."""
        environ = self._environ
        self._received = request_size(environ)
        if not environ.get("CONTENT_LENGTH"):
            environ["wsgi.input"] = self._input = Input(environ["wsgi.input"])
        if self._received is None:
            self.usual = False
        return self._received or 0

    def replace_wrapper(self, wrapper: Any) -> None:
        """Put one that tells of its files in the place of the server's file_wrapper, a function."""
        self._file_wrapper = wrapper
        self._environ["wsgi.file_wrapper"] = self._wrap_file

    def measure_queue(self) -> None:
        try:
            # The wall clock, and only here: the proxy's is another machine's, or process's.
            waited = queue_seconds(self._environ, time.time())
            if waited is not None:
                self._recorder.observe_queue(waited)
        except Exception:
            self._recorder.fail("enter")

    def respond(self, result: Any, wrapper: Any) -> Any:
        """
        Return what goes to the server as the application's *result*, and measure the request to its end.

        *wrapper* is the server's file_wrapper, None if it has none.
        """
        self._settle()
        kind: type = type(result)
        if kind is list or kind is tuple:
            self._complete(result)
        elif kind is bytes:
            self._complete((result,))
        elif result is None or kind is str:
            # What no server takes, and that is for the server to say.
            self._leave("500")
        elif not self._is_file(result, wrapper):
            return wrap(result, self)
        return result

    def passed(self, chunk: bytes) -> None:
        """Count a chunk of the body, before the server gets it."""
        try:
            # The server sends the headers with the first chunk that is not empty (PEP 3333). And uWSGI takes a
            # file_wrapper's object for a chunk, which has no length.
            if not chunk or not isinstance(chunk, bytes):
                return
            if not self._sent:
                self._length = content_length(self._headers)
                if self._recorder.times_first_byte:
                    self._first_byte = perf_counter() - self._started
            self._sent += len(chunk)
            if self._length is not None and self._sent >= self._length:
                self.finish()
        except Exception:
            self._recorder.fail("body")

    def read(self, chunk: bytes) -> None:
        """Count what the server has read of a file, unless the file is not what it was given."""
        if self._direct:
            self.passed(chunk)

    def closing(self) -> None:
        """Take the size of a file that the server sent without reading it: by sendfile."""
        if self._direct and not self._sent and self._method != "HEAD":
            try:
                self._sent = file_size(self._file, self._headers)
            except Exception:
                self._recorder.fail("body")

    def broken(self, error: BaseException) -> None:
        """Count the request as one whose file could not be read."""
        if self._direct:
            self.fail(error)

    def closed(self) -> None:
        """Count the request as answered, if it was with the file that was closed."""
        if self._direct:
            self.finish()

    def _settle(self) -> None:
        """Say of an application that has not called start_response what is known of it."""
        if not hasattr(self, "_status"):
            self._status, self._headers, self._route = None, (), ""

    def _complete(self, result: Any) -> None:
        """Count a result that is all of the body, before the server gets it."""
        try:
            sent = sum(map(len, result))
            if self._recorder.times_first_byte and sent and not self._sent:
                self._first_byte = perf_counter() - self._started
            self._sent += sent
        except Exception:  # items that are not bytes: the server says so
            self._recorder.fail("body")
        self._leave(self._status)

    def _is_file(self, result: Any, wrapper: Any) -> bool:
        """Tell a result of the server's own file_wrapper, which is counted when its file is closed, or else now."""
        if wrapper is None or result is None:
            return False
        if isinstance(wrapper, type):
            if not isinstance(result, wrapper):
                return False
            self._file = getattr(result, "filelike", getattr(result, "file", None))
            told = look_into(result, self)
        elif result is self._file:
            told = hasattr(result, "close")
        else:
            return False
        self._direct = True
        if not told:
            self.closing()
            self.finish()
        return True

    def finish(self) -> None:
        """Count the request as answered in full."""
        self._leave(self._status)

    def abort(self) -> None:
        """Count the request as closed before its end."""
        # A server need not look at the body where there is none to send.
        bodiless = self._method == "HEAD" or str(self._status)[:3] in {"204", "304"}
        self._leave(self._status, aborted=not bodiless)

    def fail(self, error: BaseException) -> None:
        """Count the request as one that raised *error*."""
        self._settle()
        # As long as no byte of the body went out, the server answers 500 whatever start_response was told.
        self._leave(self._status if self._sent else "500", exception=type(error))

    def dismiss(self) -> None:
        """Do not count the request."""
        token, self._token = self._token, None
        self.usual = False
        self._part_from_environ()
        self._recorder.dismiss(token)

    def _leave(
        self, status: Any, *, exception: type[BaseException] | None = None, aborted: bool = False
    ) -> None:
        token = self._token
        if token is None:
            return
        self._token = None
        recorder = self._recorder
        try:
            seconds = perf_counter() - self._started
            route = self._route or self._find_route()
            self._part_from_environ()
            where: str | tuple[str, ...] = route
            if recorder.asks_for_labels:
                where = (route, *[self._label(value) for _, value in recorder.settings.labels])
            received = self._received if self._input is None else self._input.size
            status = status if isinstance(status, str) else "500"
            recorder.leave(
                token, self._method, where, status, seconds, self._sent, received, self._first_byte
            )
            if exception is not None:
                recorder.count_exception(self._method, where, exception)
            elif aborted:
                recorder.count_aborted(self._method, where)
        except Exception:
            recorder.fail("record")

    def _part_from_environ(self) -> None:
        # It refers to this, and this to it: a circle would keep both, and all that the server put into it, until the
        # garbage collector comes round.
        environ = self._environ
        if environ.get(REQUEST) is self:
            environ[REQUEST] = None
            if hasattr(self, "_file_wrapper") and "wsgi.file_wrapper" in environ:
                environ["wsgi.file_wrapper"] = self._file_wrapper

    def _label(self, value: Any) -> str:
        try:
            return value if isinstance(value, str) else str(value(self._environ))[:_LONGEST_LABEL]
        except Exception:  # the user's callable
            self._recorder.fail("label")
            return OTHER

    def _find_route(self) -> str:
        try:
            return find_route(self._environ)
        except Exception:  # a framework's object, or the application's
            self._recorder.fail("route")
            return UNMATCHED

    def _wrap_file(self, *arguments: Any, **keywords: Any) -> object:
        """Act as the server's file_wrapper: make its own object, around a file that tells what is done with it."""
        if arguments:
            kind = ClosableFile if hasattr(arguments[0], "close") else File
            arguments = (kind(arguments[0], self), *arguments[1:])
        self._file = self._file_wrapper(*arguments, **keywords)
        return self._file
