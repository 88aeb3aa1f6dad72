"""
What this process records into, at any moment of its life: before a directory is known, after a fork, and in between.

There is one `CurrentSlot` in a process, `current_slot`. Whoever records looks at `current_slot.alive[0]` first and calls `current_slot.renew()`
when it is 0: that is the case in each process before its first record, and for as long as something is wrong.
"""

# Rule 1: nothing is claimed before a process records, or its server's hook says that it is a worker.
# Rule 2: a forked child never writes where its parent writes, whoever called fork and however it was called.
# Rule 3: `lock` is never held across a system call, unless files have to be made again. It is the only lock that
#         recording takes, and that only where it has to (see `guarded`).
# Rule 4: what cannot be recorded where it belongs is kept in this process's memory, and moved when the cause is gone.

from __future__ import annotations

import logging
import os
import threading
from time import monotonic
from typing import TYPE_CHECKING, Any, Final

from wsgi_prom.errors import WsgiPromError
from wsgi_prom.store import turns
from wsgi_prom.store.bindings import Bindings
from wsgi_prom.store.fork_guard import new_fork_guard
from wsgi_prom.store.locks import Locks
from wsgi_prom.store.shared_directory import shared_directory
from wsgi_prom.store.slots import MemorySlot, SlotFile

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from wsgi_prom.store.bindings import Binding
    from wsgi_prom.store.fork_guard import ForkGuard
    from wsgi_prom.store.slots import Slot

log = logging.getLogger("wsgi_prom")

# What went wrong may stay so, and recording goes on meanwhile: looking at it costs some microseconds.
_RETRY_SECONDS: Final = 1.0


class CurrentSlot:
    """
    The process's current slot, and all that records into it.

    Fork and thread safe: that is what it is for. *guard* is the two-byte fork guard, and *clock* tells seconds: tests
    give them.
    """

    def __init__(self, guard: ForkGuard | None = None, clock: Callable[[], float] = monotonic) -> None:
        # alive[0]: nothing is to be done before a record. alive[1]: this is the process that made what is here.
        # Both are 0 in a forked child.
        self.alive = new_fork_guard() if guard is None else guard
        self.alive[1] = 1
        self.lock = threading.RLock()
        # Whether a record has to take the lock: not where no other thread can come in between (it is a tenth of what a
        # request costs, and four threads wait for each other too), unless what it stores to is being moved.
        self.guarded = True
        self.slot: Slot = MemorySlot()
        self._directory: Path | None = None
        self._owner: tuple[int, int] | None = None
        self._deferred = False
        self._bindings = Bindings(lambda: self.slot)
        self._gates: dict[int, _Gate] = {}
        self._clock = clock
        self._again = 0.0
        self._problem = ""
        self._failures = 0
        self._news: list[tuple[Any, ...]] = []

    @property
    def directory(self) -> Path | None:
        """The directory to claim a slot in, as far as it is known and may be used."""
        return None if self._deferred else self._directory or shared_directory()

    @property
    def unshared(self) -> bool:
        """Whether this process records for itself alone, and no hook is to name a directory."""
        return not self._deferred and self.directory is None

    def defer(self) -> None:
        """
        Keep to the process's own memory until `attach`, whatever the environment says.

        For a hook that cannot know yet whether a server starts, or only checks its configuration.
        """
        self._deferred = True

    def attach(self, path: Path, owner: tuple[int, int] | None = None) -> None:
        """
        Share *path* from now on. What this process has recorded so far goes into a slot there.

        Call it in the server's master; its workers inherit it. *owner* are the uid and gid that root's workers drop
        to: what root makes until then is theirs.
        """
        self._directory = path
        self._owner = owner
        self._deferred = False
        if self.alive[0] and isinstance(self.slot, MemorySlot):
            self._notice()
            self.renew()

    def add(self, binding: Binding) -> None:
        """Bind *binding* to the current slot, and to each later one for as long as it is referenced."""
        # Behind the gate: another thread that claims a slot now would bind to that, and this one to the former.
        with self._gate().lock:
            self.part_from_parent()
            self._bindings.add(binding)

    def renew(self) -> None:
        """
        Make this process a recording one: part from the parent's slot if it was forked, and claim its own.

        Never raises: where no slot can be had, or no space in it, that is logged once, the process goes on recording
        in its own memory, and this is tried again.
        """
        if self.alive[1] and self._clock() < self._again:
            return
        gate = self._gate()
        with gate.lock:
            # A signal handler that records in the middle of this goes on with what there is.
            if self.alive[0] or gate.open:
                return
            gate.open = True
            try:
                self.part_from_parent()
                # Until all is where it belongs: what is moved must not be stored to meanwhile.
                self.guarded = True
                # Before and not after: what is noticed from here on is not to be overlooked.
                self.alive[0] = 1
                self._recover()
            except Exception as error:  # any: a server's hook calls this, and would end the worker
                self._fail(error)
            finally:
                self.guarded = turns.interrupt()
                gate.open = False
                news, self._news = self._news, []
        # Outside: a handler that counts what it logs holds its own lock, and waits for the gate.
        for level, message, *values in news:
            log.log(level, message, *values)

    def look_after(self) -> int:
        """
        Look whether the slot is as it should be, and mend it. Return how often that has failed since the last call.

        For about once a second: a handful of system calls. Never raises.
        """
        slot = self.slot
        if self.alive[1] and isinstance(slot, SlotFile) and not slot.sound():
            self._notice()
        if not self.alive[0]:
            self._again = 0.0
            self.renew()
        failures, self._failures = self._failures, 0
        return failures

    def part_from_parent(self) -> None:
        """
        In a forked child, let go of what the parent records into, without claiming anything.

        An application that shares no directory goes on with a copy of its parent's figures, as the client library does.
        """
        with self._gate().lock:
            inherited = self.slot
            if self.alive[1]:
                return
            # The lock may be held by a thread that does not exist in this process.
            self.lock = threading.RLock()
            self._again, self._problem, self._failures, self._news = 0.0, "", 0, []
            if self._deferred or self.directory is not None or isinstance(inherited, SlotFile):
                memory = MemorySlot()
                # A signal handler that records in the middle of this does all of it, and claims a slot, which is ours.
                if self.slot is inherited:
                    self.slot = memory
                    self._bindings.bind_all(keep=False)
                    if isinstance(inherited, SlotFile):
                        inherited.leave()
            self.alive[1] = 1

    def _gate(self) -> _Gate:
        # The process's own: that of its parent may be held by a thread that does not exist here. setdefault is one
        # operation, so that threads meet at one gate.
        return self._gates.setdefault(os.getpid(), _Gate())

    def _notice(self) -> None:
        # In a signal's handler perhaps.
        self.alive[0] = 0
        self._again = 0.0

    def _recover(self) -> None:
        path = self.directory
        if path is None or Locks.known_discarded(path):
            return
        slot = self.slot
        if isinstance(slot, SlotFile) and not slot.lost:
            self._mend(slot)
        else:
            self._claim(path)
        if self._problem:
            self._problem = ""
            self._tell(logging.WARNING, "process %d is counted again, with all that it kept", os.getpid())

    def _fail(self, error: Exception) -> None:
        self._again = self._clock() + _RETRY_SECONDS
        self.alive[0] = 0
        self._failures += 1
        expected = isinstance(error, (OSError, WsgiPromError))
        problem = str(error) if expected else f"{type(error).__name__}: {error}"
        if problem != self._problem:
            self._problem = problem
            self._tell(
                logging.ERROR,
                "process %d is counted in its own memory alone, and tries again: %s",
                os.getpid(),
                problem,
            )

    def _tell(self, *message: Any) -> None:
        self._news.append(message)

    def _claim(self, path: Path) -> None:
        lost = self.slot
        if isinstance(lost, SlotFile):
            for binding in self._bindings:
                binding.forget()
            lost.leave()
        owner = self._owner if os.geteuid() == 0 else None
        self.slot = SlotFile.claim(path, owner, self._notice)
        self._bindings.bind_all(keep=True)
        if isinstance(lost, SlotFile):
            self._tell(
                logging.ERROR,
                "another process has claimed slot %d, since its lock was lost; pid %d goes on in another, and nothing is lost"
                if lost.taken
                else "the values of slot %d were lost, pid %d goes on in another",
                lost.number,
                os.getpid(),
            )

    def _mend(self, slot: SlotFile) -> None:
        if not slot.sound():
            slot.repair(self.lock)
            if slot.lost:
                self._claim(slot.path)
                return
        self._bindings.catch_up(keep=True)
        slot.unplaced = None
        for binding in self._bindings:
            binding.settle(slot)
        if slot.unplaced is not None:
            raise slot.unplaced


class _Gate:
    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.open = False


current_slot = CurrentSlot()
