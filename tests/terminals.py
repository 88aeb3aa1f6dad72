"""A command on a terminal of its own, whose screen a test reads as a person does."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import struct
import subprocess
import sys
import termios
import threading
from typing import TYPE_CHECKING, Final

import live
import pyte

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

# What a terminal is sent to show the screen that it had before, and its cursor.
LEFT: Final = (b"\x1b[?1049l", b"\x1b[?25h")


class Terminal:
    """`wsgi-prom` with *arguments* on a terminal of *width* columns and *height* lines, in the `with` statement."""

    def __init__(self, *arguments: str, width: int = 80, height: int = 24, **env: str) -> None:
        self._arguments = arguments
        self._env = {"TERM": "xterm-256color", **env}
        self._screen = pyte.Screen(width, height)
        self._stream = pyte.ByteStream(self._screen)
        self._size = struct.pack("HHHH", height, width, 0, 0)
        self._lock = threading.Lock()
        # All that was written to the terminal.
        self.written = b""

    def __enter__(self) -> Self:
        self._master, self._slave = pty.openpty()
        fcntl.ioctl(self._slave, termios.TIOCSWINSZ, self._size)
        self.before = termios.tcgetattr(self._slave)
        self.process = subprocess.Popen(
            # A job in the background of a shell ignores SIGINT, and so does what it starts.
            ["env", "--default-signal=INT", sys.executable, "-m", "wsgi_prom", *self._arguments],
            env=live.environment(self._env, runtime=live.ROOT),
            stdin=self._slave,
            stdout=self._slave,
            stderr=self._slave,
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(60)
        os.close(self._slave)
        self._reader.join(60)
        os.close(self._master)
        if kind is not None:
            print("\n".join(self.lines()), file=sys.stderr)

    def _read(self) -> None:
        # EIO: nobody has the other end open.
        with contextlib.suppress(OSError):
            while part := os.read(self._master, 65536):
                with self._lock:
                    self.written += part
                    self._stream.feed(part)

    def lines(self) -> list[str]:
        with self._lock:
            return [line.rstrip() for line in self._screen.display]

    def press(self, keys: str) -> None:
        os.write(self._master, keys.encode())

    def shows(self, *words: str) -> bool:
        """Wait until each of *words* is on the screen, and return whether they are."""

        def found() -> list[str]:
            text = "\n".join(self.lines())
            return [word for word in words if word not in text]

        return live.latest(found, lambda missing: not missing or self.process.poll() is not None) == []

    def end(self, number: int | None = None) -> int:
        """Send the signal *number*, if one is given, and return the exit status."""
        if number is not None:
            self.process.send_signal(number)
        return self.process.wait(60)

    def settings(self) -> list[object]:
        """Return the settings of the terminal as they are now."""
        return termios.tcgetattr(self._slave)
