"""
Processes for tests: forked children that run a function once, or each time they are told to.

Every wait is bounded. A child ends by os._exit, so that nothing of the test runner's runs in it.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import traceback
import warnings
from multiprocessing.connection import Pipe
from typing import TYPE_CHECKING, Any, Final

from wsgi_prom.store.environment import VARIABLE

if TYPE_CHECKING:
    from collections.abc import Callable
    from multiprocessing.connection import Connection
    from pathlib import Path
    from typing import Self

# Generous, for a test that takes 20 seconds alone took 60 beside three others: only a failing one waits to the end.
WAIT_SECONDS: Final = 150.0


class ChildError(AssertionError):
    """A child failed, or did not answer in time. The message is its traceback."""


class Child:
    """
    A forked process that calls *function* with each arguments that `call` gives it, until it is ended.

    It leads a process group of its own, which is killed at the end with whatever it forked. *fork* forks: for tests
    of the ways in which that can happen.
    """

    def __init__(self, function: Callable[..., Any], fork: Callable[[], int] = os.fork) -> None:
        self._connection, other = Pipe()
        with warnings.catch_warnings():
            # Python 3.12 warns of any fork of a process with threads.
            warnings.simplefilter("ignore", DeprecationWarning)
            self.pid = fork()
        if self.pid == 0:
            status = 1
            try:
                os.setpgid(0, 0)
                self._connection.close()
                _serve(other, function)
                status = 0
            finally:
                os._exit(status)
        # On both sides: whoever comes second finds it done.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.setpgid(self.pid, self.pid)
        other.close()
        self._alive = True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._alive:
            self._end(signal.SIGKILL)
        # What it forked and left behind.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)

    def call(self, *arguments: Any) -> Any:
        """Have the function called and return its result; its exception is raised as ChildError."""
        self.send(*arguments)
        return self.receive()

    def send(self, *arguments: Any) -> None:
        self._connection.send(arguments)

    def receive(self) -> Any:
        if not self._connection.poll(WAIT_SECONDS):
            raise ChildError(f"process {self.pid} did not answer in {WAIT_SECONDS:.0f} s")
        try:
            succeeded, result = self._connection.recv()
        except EOFError:
            raise ChildError(f"process {self.pid} ended without an answer") from None
        if not succeeded:
            raise ChildError(result)
        return result

    def stop(self) -> None:
        """Let the process end by itself."""
        with contextlib.suppress(BrokenPipeError):  # it has ended
            self._connection.send(None)
        self._end(None)

    def kill(self) -> None:
        """Kill the process, and not what it forked."""
        self._end(signal.SIGKILL)

    def _end(self, number: signal.Signals | None) -> None:
        if number is not None:
            os.kill(self.pid, number)
        os.waitpid(self.pid, 0)
        self._alive = False
        self._connection.close()


def in_child(function: Callable[..., Any], *arguments: Any, fork: Callable[[], int] = os.fork) -> Any:
    """Run *function* in a process of its own, and return its result, which is pickled; the function may be any."""
    with Child(function, fork) as child:
        result = child.call(*arguments)
        child.stop()  # not killed: `make coverage` has what it reached
        return result


def child_of(fork: Callable[[], int], function: Callable[[], object]) -> int:
    """Fork, run *function* in the child, and return the child's pid at once."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        pid = fork()
    if pid == 0:
        status = 1
        try:
            function()
            status = 0
        finally:
            os._exit(status)
    return pid


def share(path: Path) -> None:
    """Have this process, and its children, share the directory *path*."""
    os.environ[VARIABLE] = str(path)


def fork(function: Callable[[], object]) -> None:
    """Run *function* in a forked process to its end; it must not raise."""
    assert 0 == wait_simply(child_of(os.fork, function))


def wait_simply(pid: int) -> int:
    """Wait for a child that ends by itself, and return its exit status."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def fork_unseen() -> int:
    """
    Fork as a server written in C does: none of Python's hooks run, before or after.

    For a process of one thread: with more, the interpreter's own lock may be left in any state in the child.
    """
    # PyDLL keeps the interpreter's lock across the call, so that it is this thread's in the child too.
    return ctypes.PyDLL(None).fork()


def _serve(connection: Connection, function: Callable[..., Any]) -> None:
    while True:
        arguments = connection.recv()
        if arguments is None:
            return
        try:
            result = function(*arguments)
        except BaseException:
            connection.send((False, traceback.format_exc()))
        else:
            connection.send((True, result))
