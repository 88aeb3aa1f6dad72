"""The state that few requests need: of a body, a time in a proxy's queue, an exception, a trace. The others have no such object."""

from __future__ import annotations

from typing import Final

from wsgi_prom.request.input import NOTHING


class Extras:
    """Attributes that few requests need. Those of the class are the defaults."""

    # Whether only `Recorder.end` may count the request.
    slow = False
    # The body, and the seconds that the request was in the proxy's queue.
    received = NOTHING
    waited: float | None = None
    # The column of the queue's row that these seconds belong to.
    queue_bucket = 0
    # Whether the request asks for a WebSocket.
    websocket = False
    # Whether the response is an object of the server's file_wrapper.
    is_file = False
    # Seconds to the first byte of the response's body.
    first_byte: float | None = None
    # The thread that began the request, and its processor time then; None where it is not measured.
    cpu: tuple[int, float] | None = None
    # The first exception that the application raised, or answered itself.
    exception: type[BaseException] | None = None
    # The labels of an exemplar: traces.py.
    trace: bytes | None = None


NO_EXTRAS: Final = Extras()
