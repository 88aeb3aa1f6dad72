"""
A program in a session of its own, with a temporary folder and a log, for the length of a `with` block.

1. Only processes that the program started are signalled: by their pid, or by the group that the program leads.
2. Every wait is bounded. One that runs out raises ProgramError with the end of the log.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
import uuid
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Final

from runner.environment import environment
from runner.proc import children, command_line, initial_environment, processes, stat_fields
from runner.waits import START_SECONDS, STOP_SECONDS, latest, pause

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from types import TracebackType
    from typing import Self

# Child processes inherit it and /proc shows it, so it also finds processes that left the session. Its name is a
# locale's: the exporter gets few variables of its server's, and those are among them.
RUN_VARIABLE: Final = "LC_RUNNER_PROGRAM"

_LOG_LINES: Final = 100


class ProgramError(RuntimeError):
    """The program ended too early, or did not log in time what was waited for."""


class Program:
    """
    *command*, started in the `with` statement.

    The block begins when the pattern of *ready* is in the log as often as its number says. The working directory is
    *cwd*, or the program's temporary folder. Variables of *env* that are None are removed.
    """

    # Python finds the application's modules there.
    module_folders: ClassVar[tuple[Path, ...]] = ()

    def __init__(
        self,
        command: Sequence[str | os.PathLike[str]],
        *,
        cwd: str | os.PathLike[str] | None = None,
        env: Mapping[str, str | None] | None = None,
        ready: tuple[re.Pattern[str] | str, int] | None = None,
        stop_signal: int = signal.SIGTERM,
    ) -> None:
        self.command = [os.fspath(word) for word in command]
        # The temporary folder: removed at the end of the block.
        self.folder = Path(tempfile.mkdtemp(prefix="runner-"))
        # Workers that change to another user need what lies below.
        self.folder.chmod(0o755)
        self.stop_signal = stop_signal
        # Pid and command line of the processes that did not end by themselves and that `stop` had to kill.
        self.leftovers: list[tuple[int, str]] = []
        self._ready = ready
        self._cwd = self.folder if cwd is None else Path(cwd)
        self._run = uuid.uuid4().hex
        own = {RUN_VARIABLE: self._run, **(env or {})}
        self._env = environment(own, module_folders=self.module_folders, runtime=self.folder)
        self._log_path = self.folder / "log"
        self._kept_log = ""
        self._process: subprocess.Popen[bytes] | None = None
        self._started = 0

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException as error:
            # Python does not call __exit__ when __enter__ raises.
            self.__exit__(type(error), error, error.__traceback__)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    def start(self) -> None:
        """
        Start the program and wait until it is ready.
        """
        # Appending: nginx and supervisord open /dev/stdout anew and would overwrite each other's lines.
        with self._log_path.open("ab") as log:
            self._process = subprocess.Popen(
                self.command,
                cwd=self._cwd,
                env=self._env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                # A Ctrl-C at the terminal reaches the caller alone, which then ends the program.
                start_new_session=True,
            )
        self._started = self._started or int(stat_fields(self.pid)[19])
        if self._ready is not None:
            pattern, count = self._ready
            self.wait_for_log(pattern, count=count)

    def stop(self) -> None:
        """
        End the program and everything that it started. Processes that had to be killed are listed in `leftovers`.
        """
        if self._process is None:
            return
        if self.running:
            self._process.send_signal(self.stop_signal)
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(STOP_SECONDS)
        # The exporter watches its server and ends a moment after it.
        left = latest(self.processes, lambda found: not found, STOP_SECONDS)
        self.leftovers += [(pid, command_line(pid)) for pid in left]
        if left:
            with suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)
            for pid in self.processes():
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        self._process.wait(STOP_SECONDS)
        self.log()

    @property
    def process(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise RuntimeError(f"{self.command[0]} was not started; use it in a with block")
        return self._process

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def running(self) -> bool:
        return self.process.poll() is None

    def wait(self, timeout: float = STOP_SECONDS) -> int:
        """
        Wait for the main process to end and return its exit status.
        """
        return self.process.wait(timeout)

    def log(self) -> str:
        """
        Return what the program wrote to stdout and stderr, also after the block.
        """
        if self._log_path.exists():
            self._kept_log = self._log_path.read_text(errors="replace")
        return self._kept_log

    def log_end(self) -> str:
        """
        Return the last lines of the log, for a message about a failure.
        """
        lines = self.log().splitlines()[-_LOG_LINES:]
        return "\n".join([f"The last {len(lines)} lines of its log:", *lines])

    def wait_for_log(
        self, pattern: re.Pattern[str] | str, timeout: float = START_SECONDS, *, count: int = 1
    ) -> re.Match[str]:
        """
        Wait until *pattern* (a line's start is `(?m:^)`) is in the log *count* times, and return its last match.
        """
        began = time.monotonic()
        while True:
            # Asked before the log is read: what a program logs as it ends is still found.
            running = self.running
            matches = list(re.finditer(pattern, self.log()))
            if len(matches) >= count:
                return matches[-1]
            if not running or time.monotonic() > began + timeout:
                why = f"{timeout} s passed" if running else f"ended with {self.process.returncode}"
                raise ProgramError(
                    f"{self.command[0]}: {why}, {pattern!r} seen {len(matches)} of {count} times. {self.log_end()}"
                )
            pause(began)

    def kill(self, number: int) -> None:
        """
        Send signal *number* to the main process alone.
        """
        self.process.send_signal(number)

    def signal_child(self, pid: int, number: int) -> None:
        """
        Send signal *number* to one of the processes that this program started. Raises ValueError for any other.
        """
        if pid not in self.processes():
            raise ValueError(f"process {pid} is none of {self.command[0]}'s: {self.processes()}")
        os.kill(pid, number)

    def children(self, pid: int | None = None) -> list[int]:
        """
        Return the children of the main process (or of *pid*), an exporter and zombies included.
        """
        return children(pid or self.pid)

    def descendants(self, pid: int | None = None) -> list[int]:
        found = []
        for child in self.children(pid):
            found += [child, *self.descendants(child)]
        return found

    def processes(self) -> list[int]:
        """
        Return all living processes that this program started, the main process included.
        """
        if self._process is None:
            return []
        run = f"{RUN_VARIABLE}={self._run}".encode()
        # The session as well: nginx writes its title over its environment.
        # Processes that are older are passed over: the environments of all take 16 ms, at each look of a test that waits.
        return [
            process.pid
            for process in processes()
            if process.started >= self._started
            and (process.session == self.pid or run in initial_environment(process.pid))
        ]
