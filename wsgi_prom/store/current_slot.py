"""
The slot that this process records into, at any moment of its life: before a directory is known, after a fork, after a fault.

1. Nothing is claimed before a process records, or its server's hook says that it is a worker.
2. A forked child never writes where its parent writes, whoever called fork and however it was called.
3. What cannot be recorded where it belongs is kept in this process's memory, and moved when the cause is gone.
4. One lock: whatever changes the slot, its rows or where values are stored holds it. Records hold it only while `token` is False.
"""

from __future__ import annotations

import logging
import os
import threading
from time import monotonic
from typing import TYPE_CHECKING, Literal

from wsgi_prom.store import unlocked
from wsgi_prom.store.bindings import Bindings
from wsgi_prom.store.claims import Stage
from wsgi_prom.store.fork_guard import new_fork_guard
from wsgi_prom.store.memory_slot import MemorySlot
from wsgi_prom.store.named_directory import gone_for_good
from wsgi_prom.store.removal import Watch
from wsgi_prom.store.shared_directory import shared_directory
from wsgi_prom.store.slot_files import State
from wsgi_prom.store.slots import SharedSlot
from wsgi_prom.store.tries import Tries

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from wsgi_prom.store.bindings import Binding
    from wsgi_prom.store.fork_guard import ForkGuard
    from wsgi_prom.store.memory_slot import Columns, Slot
    from wsgi_prom.store.removal import Removal
    from wsgi_prom.store.schemas import Schema


class CurrentSlot:
    """
    The process's slot, and all that records into it. Fork and thread safe.

    Code that records calls `prepare` first, or looks itself whether `fork_guard[0]` is 0, which saves a call: it is before the first
    record of each process, and while something is wrong. *guard* is the two-byte fork guard, and *clock* returns seconds: tests give them.
    """

    def __init__(self, guard: ForkGuard | None = None, clock: Callable[[], float] = monotonic) -> None:
        # [0] is 0 if `prepare` has to be called before a record, [1] if the slot below is a parent process's. Both are 0 in a
        # forked child.
        self.fork_guard = new_fork_guard() if guard is None else guard
        self.fork_guard[1] = 1
        # Each process's own: that of its parent may be held by a thread that does not exist in a child.
        self._locks = {os.getpid(): threading.RLock()}
        self.lock = self._own_lock()
        # False while records have to hold the lock (unlocked.py). Else the lock, which tells a request's process from others.
        self.token: threading.RLock | Literal[False] = False
        self.slot: Slot = MemorySlot()
        self.removals = Watch()
        # A slot whose files were removed or replaced, until its values are in a copy.
        self._former: SharedSlot | None = None
        self._directory: Path | None = None
        self._owner: tuple[int, int] | None = None
        self._deferred = False
        self.stage = Stage.NONE
        self._bindings = Bindings(lambda: self.slot)
        self._preparing = 0  # the pid of the process that runs `prepare`
        self._clock = clock
        self._tries = Tries(clock)

    @property
    def directory(self) -> Path | None:
        """The directory to claim a slot in, as far as it is known and may be used."""
        return None if self._deferred else self._directory or shared_directory()

    @property
    def unshared(self) -> bool:
        """Whether this process records for itself alone, and no hook is to name a directory."""
        return not self._deferred and self.directory is None

    def defer(self) -> None:
        """Keep to the process's own memory until `attach`: a hook cannot know yet whether a server starts."""
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
        if self.fork_guard[0] and isinstance(self.slot, MemorySlot):
            self.fork_guard[0] = 0
            self._tries.reset()
            self.prepare()

    def tell_stage(self, stage: Stage) -> None:
        """Set the stage of this worker, for scrapes. A forked child has none until it sets its own."""
        self.part_from_parent()
        with self.lock:
            self.stage = stage
            if isinstance(self.slot, SharedSlot):
                self.slot.tell_stage(stage)

    def add(self, binding: Binding) -> None:
        """Bind *binding* to the current slot, and to each later one for as long as it is referenced."""
        self.part_from_parent()
        with self.lock:
            self._bindings.add(binding)
            self.retry_if_incomplete()

    def row(self, schema: Schema, labelvalues: tuple[str, ...]) -> tuple[Columns, int]:
        """Return the columns of a row of the slot, made at the first call, and the index of its first value."""
        with self.lock:
            found = self.slot.row(schema, labelvalues)
            self.retry_if_incomplete()
            return found

    def remove(self, removal: Removal) -> Slot:
        """Remove the rows that *removal* covers from this process's slot, and return that."""
        self.part_from_parent()
        with self.lock:
            if self._former is not None:
                self._former.remove(removal)
            self.slot.remove(removal)
            return self.slot

    def prepare(self) -> None:
        """
        Prepare this process to record: leave the parent's slot if it was forked, and claim its own.

        Never raises: where no slot can be had, or no space in it, that is logged once, the process goes on recording
        in its own memory, and this is tried again. Does nothing where it is not needed.
        """
        if self.fork_guard[0] or (self.fork_guard[1] and not self._tries.due()):
            return
        began = self._clock()
        with self._own_lock():
            # A signal handler that records in the middle of this goes on with what there is.
            if self.fork_guard[0] or self._preparing == os.getpid():
                return
            try:
                self.part_from_parent()
                # Else a signal handler has recorded in the middle of it, and claimed a slot.
                if not self.fork_guard[0]:
                    self._preparing = os.getpid()
                    # Records take the lock until all rows are moved.
                    self.token = False
                    # Before `_recover` and not after it: what fails there sets this to 0 again.
                    self.fork_guard[0] = 1
                    self._recover()
            except Exception as error:  # any: a server's hook calls this, and would end the worker
                self._tries.fail(error, self._clock() - began, self._directory)
                self.fork_guard[0] = 0
            finally:
                self.token = not unlocked.needs_lock() and self.lock
                self._preparing = 0
        # Without the lock, see `Tries`.
        self._tries.log()

    def check(self) -> int:
        """
        Look whether the slot is as it should be, and mend it. Return how often that has failed since the last call.

        For about once a second: a handful of system calls. Never raises.
        """
        with self._own_lock():
            if self.fork_guard[1] and self.fork_guard[0] and self._is_wrong(self.slot):
                self.fork_guard[0] = 0
                self._tries.reset()
        if not self.fork_guard[0]:
            self._tries.hasten()
            self.prepare()
        return self._tries.failures()

    def part_from_parent(self) -> None:
        """
        In a forked child, stop using the parent's slot, without claiming another one.

        An application that shares no directory goes on with a copy of its parent's figures, as the client library does. Does
        nothing in any other process.
        """
        has_parted = self.fork_guard[1]
        if has_parted:
            return
        with self._own_lock():
            inherited, memory = self.slot, MemorySlot()
            # Again, after the look at the slot: a signal handler that records in the middle of this does all of it, and claims a
            # slot, which must stay. So nothing is called between the last look and the store either.
            if self.fork_guard[1]:
                return
            # Before the lock: a signal handler that records in the middle of this may set it.
            self.token = False
            self.lock = self._own_lock()
            self._former, self.stage = None, Stage.NONE
            self._tries = Tries(self._clock)
            shares = self._deferred or self.directory is not None or isinstance(inherited, SharedSlot)
            if shares and self.slot is inherited:
                self.slot = memory
                self._start_over(inherited)
            self.fork_guard[1] = 1

    def _own_lock(self) -> threading.RLock:
        # setdefault is one operation: threads meet at one lock.
        return self._locks.setdefault(os.getpid(), threading.RLock())

    def retry_if_incomplete(self) -> None:
        """Let the next record try to put into the files what is in memory, but not more than once a second."""
        if self.fork_guard[0] and isinstance(self.slot, SharedSlot) and self.slot.incomplete:
            self.fork_guard[0] = 0

    def _is_wrong(self, slot: Slot) -> bool:
        try:
            return isinstance(slot, SharedSlot) and (slot.check() is not State.GOOD or slot.incomplete)
        except Exception:
            return True

    def _recover(self) -> None:
        path = self.directory
        if path is None or gone_for_good(path):
            return
        if isinstance(self.slot, SharedSlot):
            self._mend(self.slot)
        slot = self.slot if isinstance(self.slot, SharedSlot) else self._claim(path)
        if slot.error is not None:
            raise slot.error
        self.retry_if_incomplete()
        self._tries.succeed()

    def _mend(self, slot: SharedSlot) -> None:
        """Put what is in memory into the files of *slot*, or leave them for a fresh slot if they are not as they were."""
        state = slot.check()
        if state is State.GOOD:
            slot.retry()
            self._bindings.bind_all(keep=True)
        elif state is State.REPLACED:
            slot.withdraw()
            self._former, self.slot = slot, MemorySlot()
            self._bindings.bind_all(keep=True)
        else:
            damaged = state is State.DAMAGED
            self.slot = MemorySlot()
            self._start_over(slot, damaged=damaged)
            self._tries.tell(
                logging.ERROR,
                "the files of slot %d were damaged; process %d goes on in a fresh slot, without what it had counted there"
                if damaged
                else "another process has claimed slot %d, whose lock was lost; process %d goes on in another slot",
                slot.number,
                os.getpid(),
            )

    def _claim(self, path: Path) -> SharedSlot:
        former = self._former if self._former is not None and self._former.path == path else None
        if former is None:
            self.slot = slot = SharedSlot.claim(path, self._owner if os.geteuid() == 0 else None)
        else:
            self.slot = slot = SharedSlot.copy(former)
            self._former = None
        slot.tell_stage(self.stage)
        self.removals.look_at(slot.removed)
        try:
            self._bindings.bind_all(keep=True)
        finally:
            if former is not None:
                slot.publish()
        return slot

    def _start_over(self, before: Slot, *, damaged: bool = False) -> None:
        """Leave the slot *before*, and record into the present one, from 0."""
        if isinstance(before, SharedSlot):
            if not damaged and before.has_removed(since=self.removals.seen):
                # By another process, and this one or its parent has not noticed: it does not go along.
                self._bindings.forget_removed()
                self.removals.alert()
            before.leave(damaged=damaged)
        self._bindings.bind_all(keep=False)


current_slot = CurrentSlot()
