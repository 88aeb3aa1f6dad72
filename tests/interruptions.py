"""Interrupt a function at each of its bytecode instructions, as a signal handler might."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any, Final

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType, ModuleType

# Signals come every 20 to 300 us: a handler that is traced takes longer, and the main thread gets no further.
needs_speed: Final = pytest.mark.skipif(
    "COVERAGE_PROCESS_CONFIG" in os.environ, reason="signals come faster than a traced handler ends"
)


def at_each_instruction(
    work: Callable[[int], object], interrupt: Callable[[int], object], *modules: ModuleType
) -> int:
    """
    Call `work(n)` with `interrupt(n)` before the n-th instruction that it executes in *modules*, for each n.

    The last call is not interrupted. Returns how many were. For a process of its own: it sets the trace function.
    """
    files = {module.__file__ for module in modules}
    number, executed = -1, 0

    def trace(frame: FrameType, event: str, _: object) -> Any:
        nonlocal executed
        if frame.f_code.co_filename not in files:
            return None
        frame.f_trace_opcodes = True
        if event == "opcode":
            if executed == number:
                interrupt(number)
            executed += 1
        return trace

    while number < executed:
        number, executed = number + 1, 0
        sys._getframe().f_trace_opcodes = True  # 3.12 traces no opcodes unless a frame asks for it before
        sys.settrace(trace)
        try:
            work(number)
        finally:
            sys.settrace(None)
    return number
