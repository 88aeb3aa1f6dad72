"""Have a function interrupted at each of its bytecode instructions, as a signal handler might interrupt it."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType, ModuleType


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
