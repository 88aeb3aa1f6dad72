"""
One request, from the call of the application to the end of its response.
"""

# Rule 1: nothing of this raises into the application or the server.
# Rule 2: a request is counted once, by the first of `finish`, `abort` and `fail`.

from __future__ import annotations

import os
import time
from time import perf_counter
from typing import TYPE_CHECKING, Any, Final

from wsgi_prom.body import ClosableFile, File, Input
from wsgi_prom.catalog import OTHER
from wsgi_prom.headers import content_length, queue_seconds, request_size
from wsgi_prom.routes import REQUEST, UNMATCHED, find_route

if TYPE_CHECKING:
    from collections.abc import Callable

    from _typeshed.wsgi import StartResponse, WSGIEnvironment

    from wsgi_prom.recorder import Recorder

# A callable may hand on what a client sent: as few as the label sets are, each is kept for good.
_LONGEST_LABEL: Final = 128


class MeasuredRequest:
    """
    What is known of a request. For one thread at a time, like the request itself.

    Made when it begins, at *started*, a reading of time.perf_counter.
    """

    __slots__ = (
        "__weakref__", "_direct", "_environ", "_file", "_file_wrapper", "_first_byte", "_headers", "_input",
        "_length", "_method", "_received", "_recorder", "_replaced", "_route", "_sent", "_start_response",
        "_started", "_status", "_token", "_write", "entered",
    )  # fmt: skip

    def __init__(
        self, recorder: Recorder, environ: WSGIEnvironment, start_response: StartResponse, started: float
    ) -> None:
        self._started = started
        self._recorder = recorder
        self._environ = environ
        self._start_response = start_response
        self._status: Any = None
        self._headers: Any = ()
        self._route: str | None = None
        self._sent = 0
        self._received: int | None = 0
        self._length: int | None = None
        self._first_byte: float | None = None
        self._file_wrapper: Any = None
        self._file: Any = None
        self._direct = self._replaced = False
        self._input: Input | None = None
        self._method = self.entered = ""
        self._token: object = None
        try:
            environ[REQUEST] = self
            # What the application can no longer take away, should it clear its environ. uWSGI calls it for a request
            # of two empty lines too, of which it knows no method.
            if "REQUEST_METHOD" in environ:
                self._method = environ["REQUEST_METHOD"]
            if "PATH_INFO" in environ:
                self.entered = environ["PATH_INFO"]
            if "wsgi.file_wrapper" in environ:
                self._file_wrapper = environ["wsgi.file_wrapper"]
                if not isinstance(self._file_wrapper, type):
                    # uWSGI's is a function that hands back the very file that it was given.
                    environ["wsgi.file_wrapper"] = self._wrap_file
                    self._replaced = True
            if environ.get("CONTENT_LENGTH"):
                self._received = request_size(environ)
            elif "HTTP_TRANSFER_ENCODING" in environ:
                environ["wsgi.input"] = self._input = Input(environ["wsgi.input"])
            self._token = recorder.enter(started)
            if "HTTP_X_REQUEST_START" in environ or "HTTP_X_QUEUE_START" in environ:
                # The wall clock, and only here: the proxy's is another machine's, or process's.
                waited = queue_seconds(environ, time.time())
                if waited is not None:
                    recorder.observe_queue(waited)
        except Exception:
            recorder.fail("enter")

    def start(self, *arguments: Any, **keywords: Any) -> Callable[[bytes], object]:
        """Act as the application's start_response, with whatever the application gives it."""
        write = self._start_response(*arguments, **keywords)
        if len(arguments) > 1:
            self._status = arguments[0]
            self._headers = arguments[1]
        else:  # by keyword, which PEP 3333 does not have, and wsgiref takes
            self._status = arguments[0] if arguments else keywords.get("status")
            self._headers = keywords.get("headers", ())
        try:
            # Not later: Flask has cleared its request when it returns (werkzeug.request is None then).
            self._route = find_route(self._environ)
        except Exception:  # a framework's object, or the application's
            self._route = UNMATCHED
            self._recorder.fail("route")
        self._write = write
        return self.write

    def write(self, data: bytes) -> object:
        """Count *data* and hand it to the server, for an application that writes."""
        self.passed(data)
        return self._write(data)

    def passed(self, chunk: bytes) -> None:
        """Count a chunk of the body, before the server gets it."""
        try:
            # The server sends the headers with the first chunk that is not empty (PEP 3333). And uWSGI takes a
            # file_wrapper's object for a chunk, which has no length.
            if not chunk or not isinstance(chunk, bytes):
                return
            if not self._sent:
                self._begin()
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
                self._sent = self._file_size()
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

    def complete(self, result: Any) -> None:
        """Count a result that is all of the body, before the server gets it."""
        try:
            sent = len(result[0]) if len(result) == 1 else sum(map(len, result))
            if self._recorder.times_first_byte and sent and not self._sent:
                self._first_byte = perf_counter() - self._started
            self._sent += sent
        except Exception:  # items that are not bytes: the server says so
            self._recorder.fail("body")
        self._leave(self._status)

    def refused(self) -> None:
        """Count a result that no server takes, and that is for the server to say: nothing, or a text."""
        self._leave("500")

    def is_file(self, result: Any) -> bool:
        """Tell a result of the server's own file_wrapper, which is counted when its file is closed, or else now."""
        wrapper = self._file_wrapper
        if wrapper is None or result is None:
            return False
        if isinstance(wrapper, type):
            if not isinstance(result, wrapper):
                return False
            self._file = getattr(result, "filelike", getattr(result, "file", None))
            told = self._look_into(result)
        elif result is self._file:
            told = hasattr(result, "close")
        else:
            return False
        self._direct = True
        if not told:
            self.closing()
            self.finish()
        return True

    def _look_into(self, result: Any) -> bool:
        """Put a file that tells what is done with it in the place of the one in *result*, if that can be done."""
        attributes = getattr(result, "__dict__", {})
        # As gunicorn and wsgiref have it, which take the file's close() for their own, and as waitress has it.
        name = next((name for name in ("filelike", "file") if name in attributes), None)
        if name is None or not hasattr(attributes[name], "close"):
            return False
        told = ClosableFile(attributes[name], self)
        setattr(result, name, told)
        if "close" in attributes:
            result.close = told.close
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
        # As long as no byte of the body went out, the server answers 500 whatever start_response was told.
        self._leave(self._status if self._sent else "500", exception=type(error))

    def dismiss(self) -> None:
        """Do not count the request."""
        token, self._token = self._token, None
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
            if REQUEST in self._environ:
                self._part_from_environ()
            request: tuple[str, ...] = (self._method, route, status if isinstance(status, str) else "500")
            if recorder.more_labels:
                request = (*request, *[self._label(value) for _, value in recorder.settings.labels])
            received = self._received if self._input is None else self._input.size
            recorder.leave(token, request, seconds, self._sent, received, self._first_byte)
            if exception is not None:
                recorder.count_exception(request, exception)
            elif aborted:
                recorder.count_aborted(request)
        except Exception:
            recorder.fail("record")

    def _part_from_environ(self) -> None:
        # It refers to this, and this to it: a circle would keep both, and all that the server put into it, until the
        # garbage collector comes round.
        environ = self._environ
        environ.pop(REQUEST, None)
        if self._replaced and "wsgi.file_wrapper" in environ:
            environ["wsgi.file_wrapper"] = self._file_wrapper

    def _begin(self) -> None:
        if self._recorder.times_first_byte:
            self._first_byte = perf_counter() - self._started
        self._length = content_length(self._headers)

    def _label(self, value: Any) -> str:
        if isinstance(value, str):
            return value
        try:
            return str(value(self._environ))[:_LONGEST_LABEL]
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

    def _file_size(self) -> int:
        # Sent without a read: by sendfile, which takes as much as the headers say, or all from where the file stands.
        length = content_length(self._headers)
        if length is not None:
            return length
        file: Any = self._file
        position = file.tell()
        end = file.seek(0, os.SEEK_END)
        file.seek(position)
        return int(max(end - position, 0))
