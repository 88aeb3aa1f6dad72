"""
Asks the collectors and the functions of gauges of this process every few seconds, in a thread, for the exporter to show.

1. The thread is started in a process that has a slot and something to ask, whoever has forked it; never in a server's master
   or a pool's main process, whose children would not have it.
2. Nothing waits for it: a scrape shows the last answers, a request knows nothing of it, and it does not outlive its process.
3. A collector that hangs keeps one thread; the others are asked in another. Its last figures are shown for three rounds.
4. A collector without a mode is asked by the one process that holds a record lock for it. When that ends, another one takes over.
"""

from __future__ import annotations

import _thread
import logging
import os
import threading
import time
from collections import deque
from itertools import count
from typing import TYPE_CHECKING, Final

from wsgi_prom.client.custom_collectors import collectors
from wsgi_prom.client.question import Failures, Question
from wsgi_prom.errors import SettingError
from wsgi_prom.settings import Settings
from wsgi_prom.store import answer_file, locks
from wsgi_prom.store.claims import Claim, Stage
from wsgi_prom.store.current_slot import current_slot
from wsgi_prom.store.locks import LockFile
from wsgi_prom.store.slots import SharedSlot
from wsgi_prom.warning import warn_once

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from wsgi_prom.client.custom_collectors import Asked
    from wsgi_prom.store.answer_file import Process, Record
    from wsgi_prom.store.memory_slot import Slot

log = logging.getLogger("wsgi_prom")

# Seconds until the thread looks again for a lock that another process had, and for collectors that have just been registered.
_TICK_SECONDS: Final = 1.0
# Seconds that all in one thread may take, before those that have not begun are asked in another.
_PATIENCE_SECONDS: Final = 0.5
# Seconds that an application may take to be loaded before its collectors are asked.
_LOADING_SECONDS: Final = 30.0


class _Thread:
    """Asks all that there is in this process, again and again. One runs at a time; another one takes its place after a fork."""

    def __init__(self) -> None:
        self.pid = os.getpid()
        self._process: Process = (0, 0, 0)
        self._seconds = 0.0
        self._failures = Failures()
        self._questions: dict[object, Question] = {}
        self._written: list[bytes] = []
        # The slot that this is of, and what its former owner has told of the application, as long as that is true.
        self._number = -1
        self._inherited: list[Record] = []
        self._problem = ""

    def run(self) -> None:
        """Run until nothing is left to ask, or in a child that a collector has forked. Never raises."""
        try:
            self._process = Claim.new()[1:4]
            self._seconds = _seconds()
            self._wait_for_application()
            while self._is_own() and self._round():
                time.sleep(_TICK_SECONDS)
        except BaseException:
            if self._is_own():
                log.exception("the collectors of process %d are asked no more", self.pid)
        else:
            if self._is_own():
                asking_thread.ended()
            elif self.pid == os.getpid():
                for question in self._questions.values():
                    self._release(question)

    def _is_own(self) -> bool:
        return self.pid == os.getpid() and asking_thread.thread is self

    def _wait_for_application(self) -> None:
        # One that is being loaded may not be ready for what its collectors do.
        deadline = time.monotonic() + _LOADING_SECONDS
        time.sleep(_TICK_SECONDS)
        while current_slot.stage is Stage.BOOTING and time.monotonic() < deadline:
            time.sleep(_TICK_SECONDS)

    def _round(self) -> bool:
        """Ask all that is due; return whether there is anything."""
        self._look_for_questions()
        slot, now = current_slot.slot, time.monotonic()
        if isinstance(slot, SharedSlot):
            try:
                self._ask(
                    [question for question in self._questions.values() if self._is_due(question, slot, now)]
                )
                if not self._is_own():
                    return False
                self._write(slot)
            except Exception as error:  # no more threads, a full disk
                self._tell(f"{type(error).__name__}: {error}")
        self._failures.tell()
        return bool(self._questions)

    def _is_due(self, question: Question, slot: SharedSlot, now: float) -> bool:
        return (
            question.due <= now
            and question.began is None
            and bool(question.asked.mode or self._holds(slot.path, question))
        )

    def _look_for_questions(self) -> None:
        found = {asked.identity: asked for asked in collectors.asked()}
        for identity in [identity for identity in self._questions if identity not in found]:
            self._release(self._questions.pop(identity))
        for identity, asked in found.items():
            if identity not in self._questions:
                self._questions[identity] = Question(asked, self._ordinal(asked), self._seconds)

    def _ordinal(self, asked: Asked) -> int:
        """Return the lowest number that no other of this name has, for those without a mode: another process's is the same."""
        if asked.mode:
            return 1
        taken = {
            question.ordinal for question in self._questions.values() if question.asked.name == asked.name
        }
        return next(number for number in count(1) if number not in taken)

    def _holds(self, path: Path, question: Question) -> bool:
        try:
            return LockFile.of(path).acquire(question.lock)
        except (
            Exception
        ):  # the directory is gone, or no descriptor is left: nobody can read what it would tell
            return False

    def _release(self, question: Question) -> None:
        slot = current_slot.slot
        if not question.asked.mode and isinstance(slot, SharedSlot):
            try:
                LockFile.of(slot.path).release(question.lock)
            except Exception:
                log.debug("the lock of %s is kept", question.asked.subject, exc_info=True)

    def _ask(self, questions: Iterable[Question]) -> None:
        waiting = deque(questions)
        while waiting and self._is_own():
            ended = threading.Event()
            threading.Thread(
                target=self._ask_each, args=(waiting, ended), name="wsgi_prom collectors", daemon=True
            ).start()
            ended.wait(_PATIENCE_SECONDS)
            # The next thread has the questions that this one has not begun; this one ends with the one that it is at.
            waiting, abandoned = deque(), waiting
            while abandoned:
                try:
                    waiting.append(abandoned.popleft())
                except IndexError:
                    break

    def _ask_each(self, waiting: deque[Question], ended: threading.Event) -> None:
        while True:
            try:
                question = waiting.popleft()
            except IndexError:
                break
            question.run(self._failures)
            if self.pid != os.getpid():
                return  # a child that the collector has forked
        ended.set()

    def _write(self, slot: SharedSlot) -> None:
        now = time.monotonic()
        for question in self._questions.values():
            question.look(now, self._failures)
        if slot.number != self._number:
            self._number, self._inherited = slot.number, answer_file.of_application(slot.path, slot.number)
        texts = [question.text for question in self._questions.values() if question.text]
        texts += [answer_file.text(record) for record in self._inherited if record.until > now]
        if texts != self._written:
            whole = answer_file.write(slot.path, slot.number, self._process, texts)
            self._written = texts
            self._tell("" if whole else f"they are longer than {answer_file.MOST_BYTES} bytes")

    def _tell(self, problem: str) -> None:
        if problem:
            again = problem == self._problem
            self._failures.add("" if again else f"an answer of a collector cannot be written ({problem})")
        self._problem = problem


class AskingThread:
    """The thread of this process, if it has one. Bound to the current slot, to know when there is one."""

    def __init__(self) -> None:
        self.thread: _Thread | None = None
        # A server whose Python threads do not run between requests has no such thread, and says what to do about it.
        self.remedy = ""
        # How a thread is started. Not threading.Thread, whose start waits for the thread: this may be a signal's handler.
        self.start_thread: Callable[[Callable[[], None]], object] = lambda run: _thread.start_new_thread(
            run, ()
        )
        self._bound = False
        # The pid of the process that leaves the asking to its children.
        self._parent = 0

    def install(self) -> None:
        """Ask what there is to ask from now on, in each process. Call it once."""
        collectors.found = self._on_found
        if any(True for _ in collectors.asked()):
            self._on_found()

    def begin(self) -> None:
        """Start the thread, if this process has none and something to ask. Never raises."""
        if self._bound and self.remedy and isinstance(current_slot.slot, SharedSlot):
            warn_once(self.remedy)
        self._start()

    def leave_to_children(self) -> None:
        """
        Ask nothing in this process, which is about to fork those that do: a thread could hold a lock that a child waits for.
        """
        self._parent = os.getpid()
        self.thread = None

    def bind(self, _slot: Slot, *, keep: bool) -> None:
        """See `wsgi_prom.store.bindings.Binding`."""
        # gunicorn's gevent worker makes threads into greenlets after this; its hook begins when the application is loaded.
        if keep and current_slot.stage is not Stage.BOOTING:
            self._start()

    def ended(self) -> None:
        """Take it that the thread has ended, unless there is something to ask again."""
        self.thread = None
        if any(True for _ in collectors.asked()):
            self._start()

    def _start(self) -> None:
        # Nothing is logged: the caller may hold the current slot's lock.
        running = self.thread
        if self.remedy or not self._bound or (running is not None and running.pid == os.getpid()):
            return
        if self._parent == os.getpid() or not isinstance(current_slot.slot, SharedSlot) or _is_master():
            return
        self.thread = thread = _Thread()
        try:
            self.start_thread(thread.run)
        except RuntimeError:  # no more threads: the next slot, or collector, tries again
            self.thread = None

    def _on_found(self) -> None:
        if not self._bound:
            self._bound = True
            current_slot.add(self)
        self.begin()


def _is_master() -> bool:
    """Return whether this is a server's master, whose workers are other processes."""
    if current_slot.stage is not Stage.NONE or current_slot.directory is None:
        return False
    try:
        lock_file = LockFile.of(current_slot.directory)
    except Exception:
        return True
    return any(map(lock_file.mine, locks.SERVERS))


def _seconds() -> float:
    try:
        return Settings.read().collect_seconds
    except SettingError:  # told where the server or its application is started
        return Settings().collect_seconds


asking_thread: Final = AskingThread()
