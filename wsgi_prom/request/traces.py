"""
The trace of a request, for the exemplar of its duration (the setting `exemplars`): no request has one unless it is on.

1. Only a sampled trace counts: of another one, nothing is kept that an exemplar could lead to.
2. The current span of OpenTelemetry is the request's own; without one, the header `traceparent` tells the span of the
   client (W3C Trace Context). The library is used where the application has imported it, and is never imported here.
3. A client may send any header. What is not exactly two ids is no trace, and all ids are of one length.
"""

from __future__ import annotations

import re
import sys
from time import perf_counter
from typing import TYPE_CHECKING, Any, Final

from wsgi_prom.request.request import MeasuredRequest
from wsgi_prom.request.routes import publish_listeners

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Self

    from _typeshed.wsgi import WSGIEnvironment

    from wsgi_prom.request.rows import Rows

    Begin = Callable[[MeasuredRequest, WSGIEnvironment], None]
    Record = Callable[[MeasuredRequest, bytes], None]

_HEADER: Final = "HTTP_TRACEPARENT"
# Version, trace, span, flags, and what a later version than 00 may have behind them.
_TRACEPARENT: Final = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_SAMPLED: Final = 1
# Values that are no version and no id. Lookaheads in the pattern would take twice as long.
_INVALID: Final = frozenset({"ff", "0" * 32, "0" * 16})
_OPENTELEMETRY: Final = "opentelemetry.trace"


class TracedRequest(MeasuredRequest):
    """A request that looks for its span when the response starts: Flask's instrumentation has ended it when Flask returns."""

    __slots__ = ()

    def start(self, /, *arguments: Any, **keywords: Any) -> Self:
        if _OPENTELEMETRY in sys.modules:
            note_span(self)
        return super().start(*arguments, **keywords)


def traced(begin: Begin) -> Begin:
    """Return a function that begins to measure a request as *begin* does, and notes its trace as far as it is known then."""
    if note_span not in publish_listeners:
        publish_listeners.append(note_span)

    def begin_traced(request: MeasuredRequest, environ: WSGIEnvironment) -> None:
        begin(request, environ)
        try:
            if _HEADER in environ:
                _note(request, of_header(environ[_HEADER]))
            if _OPENTELEMETRY in sys.modules:  # of middleware outside
                note_span(request)
        except Exception:
            request.recorder.report_failure("trace")

    return begin_traced


def keeping(record: Record, rows: Rows) -> Record:
    """Return a function that counts a request as *record* does, and keeps its trace as an exemplar of its duration."""

    def record_traced(request: MeasuredRequest, chunk: bytes) -> None:
        extras = request.own_extras
        # Over: the end of a response that was counted with its last byte, or of one that a middleware inside has measured.
        if extras is None or extras.trace is None or request.token is None:
            record(request, chunk)
            return
        seconds = perf_counter() - request.started
        record(request, chunk)
        # Else the slow path has counted the request, with its trace, or it is not counted at all.
        if extras.trace is not None and request.token is None:
            try:
                rows.keep_exemplar_of(request, seconds, extras.trace)
            except Exception:
                request.recorder.report_failure("trace")

    return record_traced


def note_span(request: Any) -> None:
    """Note OpenTelemetry's current span as that of *request*, if there is one. Never raises."""
    try:
        if isinstance(request, TracedRequest):
            _note(request, _current_span())
    except Exception:  # the library, or one half imported by another thread
        request.recorder.report_failure("trace")


def of_header(value: str) -> bytes | None:
    """Return the labels of an exemplar for a `traceparent` header, None if it is none, or of a trace that is not sampled."""
    if value[53:] == "00":  # most are not sampled, and a pattern takes 5,000 instructions
        return None
    match = _TRACEPARENT.fullmatch(value)
    if match is None:
        return None
    version, trace, span, flags, more = match.groups()
    if not int(flags, 16) & _SAMPLED or (more and version == "00"):
        return None
    return None if {version, trace, span} & _INVALID else _labels(trace, span)


def _current_span() -> bytes | None:
    trace: Any = sys.modules.get(_OPENTELEMETRY)
    context = None if trace is None else trace.get_current_span().get_span_context()
    if context is None or not context.is_valid or not context.trace_flags.sampled:
        return None
    return _labels(f"{context.trace_id:032x}", f"{context.span_id:016x}")


def _labels(trace: str, span: str) -> bytes:
    # As text_labels.dump spells them, in a tenth of the time.
    return f'{{"trace_id":"{trace}","span_id":"{span}"}}'.encode("ascii")


def _note(request: MeasuredRequest, trace: bytes | None) -> None:
    if trace is not None:
        request.more_extras().trace = trace
