"""
The registrar: a process that keeps the targets of an exporter registered, in files and in etcd.

1. It is a process of its own: it outlives an exporter that is killed, and takes the targets back if no other exporter comes.
2. Its stdin is a pipe from the exporter's serving process. A line there says that the exporter ends in order; its end without a line,
   that the exporter was killed or is replaced.
3. Its stdout is a pipe to that process, which it tells where the targets are registered now, for the page.
4. Each place of registration has a thread: one that hangs keeps no other waiting, and one that fails begins again.
"""

from __future__ import annotations

import logging
import os
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from wsgi_prom.discovery.etcd import Etcd
from wsgi_prom.discovery.lease import LeaseRegistration
from wsgi_prom.discovery.registration import LOOK_SECONDS, End, FileRegistration
from wsgi_prom.errors import DirectoryError, SettingError

if TYPE_CHECKING:
    from wsgi_prom.discovery.registration import Read, Registration, Tell
    from wsgi_prom.discovery.targets import Group, Targets
    from wsgi_prom.setting_values import Registry
    from wsgi_prom.settings import Settings

log = logging.getLogger("wsgi_prom")

# What the exporter writes when it ends in order.
WITHDRAW: Final = b"withdraw\n"


def run(targets: Targets, settings: Settings, exporter: int, page: int) -> None:
    """Keep *targets* registered as *settings* say, until the pipe *exporter* ends. The pipe *page* gets a line for each change."""
    reader, end = _Reader(targets), End()
    threads = []
    for number, registry in enumerate(settings.sd):
        try:
            found = _registration(registry, settings)
        except SettingError as error:
            log.error(
                "%s. Until then, and until a restart, the targets are not registered there",
                str(error).rstrip("."),
            )
            continue
        if found is not None:
            thread = threading.Thread(
                target=_keep, args=(found, reader.read, _State(number, page).tell, end), name=str(registry)
            )
            thread.start()
            threads.append(thread)
    told = b""
    while part := os.read(exporter, 64):
        told += part
    end.withdraw = told == WITHDRAW
    end.event.set()
    for thread in threads:
        thread.join()


def _keep(registration: Registration, read: Read, tell: Tell, end: End) -> None:
    """Run *registration* until *end*: again, after an error that it does not expect."""
    told = ""
    while not end.event.is_set():
        try:
            registration.run(read, tell, end)
        except Exception as error:
            tell(False)
            if told != (told := f"{type(error).__name__}: {error}"):
                log.exception(
                    "a failure of wsgi_prom (%s). The targets are registered again as soon as possible", told
                )
            end.event.wait(LOOK_SECONDS)


def _registration(registry: Registry, settings: Settings) -> Registration | None:
    """Return what registers in *registry*, None where the exporter answers itself. Raises SettingError."""
    if registry.kind == "file":
        return FileRegistration(registry.path, settings.sd_seconds)
    if registry.kind == "etcd":
        return LeaseRegistration(Etcd.of(registry, settings), settings.sd_seconds)
    return None


class _State:
    """Tells the pipe *page* when the targets are, or are no more, in the registry *number* of the setting."""

    def __init__(self, number: int, page: int) -> None:
        self._number = number
        self._page = page
        self._told = False

    def tell(self, works: bool) -> None:
        if works != self._told:
            self._told = works
            with suppress(OSError):  # the exporter was killed
                os.write(self._page, b"%d %d\n" % (self._number, works))


class _Reader:
    """Reads the groups of *targets*. While the directory cannot be read, they are those that were read last. For any number of threads."""

    def __init__(self, targets: Targets) -> None:
        self._targets = targets
        self._last: list[Group] = []

    def read(self) -> list[Group]:
        try:
            self._last = self._targets.groups()
        except FileNotFoundError:
            self._last = []  # no directory, no worker
        except (OSError, DirectoryError):
            log.debug("the directory tells no targets", exc_info=True)
        return self._last
