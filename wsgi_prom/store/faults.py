"""
Memory that is put over other memory, and the signal that tells that some of it is gone (SIGBUS).

By ctypes, since Python's mmap neither takes an address nor tells one, and its signal module runs a handler only after
the instruction that the signal came from, which here would fault for ever.
"""

# Rule 1: for an address that is not one of ours the handler puts back what was there before it, and returns: the same
#         fault ends the process then as it would have without us, faulthandler's traceback included.

from __future__ import annotations

import ctypes
import mmap
import os
import platform
import signal
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable

_POINTER: Final = ctypes.sizeof(ctypes.c_void_p)
# siginfo_t begins with three ints, and then, aligned to a pointer, si_addr.
_FAULT_ADDRESS: Final = -(-12 // _POINTER) * _POINTER
# asm-generic/mman.h and signal.h, which these machines share; Python has no names for them.
_MACHINES: Final = frozenset({"x86_64", "aarch64", "i686", "armv7l", "riscv64", "s390x", "ppc64le"})
_MAP_FIXED: Final = 0x10
_FAILED: Final = ctypes.c_size_t(-1).value
_WRITABLE: Final = 0x200  # PyBUF_WRITE
_SA_SIGINFO: Final = 4


class _Action(ctypes.Structure):
    """struct sigaction, as glibc and musl have it on these machines."""

    _fields_ = (
        ("handler", ctypes.c_void_p),
        ("mask", ctypes.c_ulong * (128 // ctypes.sizeof(ctypes.c_ulong))),
        ("flags", ctypes.c_int),
        ("restorer", ctypes.c_void_p),
    )


def map_file(fd: int, size: int) -> tuple[memoryview, int]:
    """
    Return the first *size* bytes of the file *fd* as memory, and its address. It stays for as long as the process lives.

    Python's mmap keeps a descriptor of its own, and closes its number, whatever file that is by then. Raises OSError.
    """
    protection = mmap.PROT_READ | mmap.PROT_WRITE
    start = _libc.mmap(0, size, protection, mmap.MAP_SHARED, fd, 0)
    if start == _FAILED:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
    return _view(start, size, _WRITABLE), start


def map_over(start: int, size: int, fd: int | None) -> None:
    """
    Put the file *fd*, or empty memory if it is None, at the addresses from *start*, whatever is there.

    Raises OSError.
    """
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS if fd is None else mmap.MAP_SHARED
    descriptor = -1 if fd is None else fd
    protection = mmap.PROT_READ | mmap.PROT_WRITE
    if _libc.mmap(start, size, protection, flags | _MAP_FIXED, descriptor, 0) != start:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))


def catch(handle: Callable[[int], bool]) -> None:
    """
    Have *handle* called with the address that a store or load of this process could not reach.

    It runs in a signal's handler, on the thread that made the fault, which has the interpreter's lock and perhaps
    locks of its own. If it returns True the instruction is done again.
    """
    if platform.machine() not in _MACHINES:
        return
    if _interpreters.PyInterpreterState_Next(_interpreters.PyInterpreterState_Head()):
        # ctypes calls a function of one interpreter while another runs: it waits for a lock that this thread has. So the
        # fault ends the process, which the server replaces.
        _libc.sigaction(signal.SIGBUS, ctypes.byref(_Action()), None)
        return
    _handlers[:] = [handle]
    now = _Action()
    _libc.sigaction(signal.SIGBUS, None, ctypes.byref(now))
    if now.handler != _ours.handler:
        ctypes.memmove(ctypes.byref(_before), ctypes.byref(now), ctypes.sizeof(now))
        _libc.sigaction(signal.SIGBUS, ctypes.byref(_ours), None)


def _on_fault(number: int, info: int, _: int) -> None:
    address = ctypes.c_size_t.from_address(info + _FAULT_ADDRESS).value
    if not any(handle(address) for handle in _handlers):
        _libc.sigaction(number, ctypes.byref(_before), None)
        # faulthandler calls what it found before it, which may be this: then the signal's own action is next.
        ctypes.memset(ctypes.byref(_before), 0, ctypes.sizeof(_before))


_handlers: Final[list[Callable[[int], bool]]] = []

# PyDLL: the interpreter's lock is kept over a call, so that no other thread stores to what is being replaced.
_libc: Final[Any] = ctypes.PyDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_size_t
_libc.mmap.argtypes = (*(ctypes.c_size_t,) * 2, *(ctypes.c_int,) * 3, ctypes.c_long)
_interpreters: Final[Any] = ctypes.pythonapi
_interpreters.PyInterpreterState_Head.restype = ctypes.c_void_p
_interpreters.PyInterpreterState_Next.restype = ctypes.c_void_p
_interpreters.PyInterpreterState_Next.argtypes = (ctypes.c_void_p,)
_view: Final[Any] = ctypes.pythonapi.PyMemoryView_FromMemory
_view.restype = ctypes.py_object
_view.argtypes = (ctypes.c_size_t, ctypes.c_ssize_t, ctypes.c_int)
_callback: Final = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_size_t, ctypes.c_size_t)(_on_fault)
_before: Final = _Action()
_ours: Final = _Action(handler=ctypes.cast(_callback, ctypes.c_void_p).value, flags=_SA_SIGINFO)
