"""Announces the targets of an exporter: by a page for Prometheus' http_sd, and by a registrar in files and in etcd."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from prometheus_client.metrics_core import GaugeMetricFamily

from wsgi_prom import metrics
from wsgi_prom.discovery.registrar import WITHDRAW
from wsgi_prom.discovery.targets import Targets
from wsgi_prom.exporter.process.launch import exporter_environment

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from prometheus_client.metrics_core import Metric

    from wsgi_prom.exporter.target import Target
    from wsgi_prom.setting_values import Registry
    from wsgi_prom.settings import Settings

log = logging.getLogger("wsgi_prom")

PATH: Final = "/sd"
_PROGRAM: Final = "from wsgi_prom.cli import main; raise SystemExit(main())"
# From the start of a registrar to that of the next one: the pause after the first, and the longest, if each ends soon.
_PAUSE_SECONDS: Final = 2.0
_LONGEST_PAUSE_SECONDS: Final = 60.0


def announce(
    settings: Settings, target: Target, path: Path, scheme: str, listening: tuple[str, int]
) -> tuple[Registered | None, Mapping[str, Callable[[], object]]]:
    """
    Return what keeps the targets of the directory *path* registered, and the pages about them.

    The exporter of *target* serves on *listening*, a host and a port. Call it in its serving process.
    """
    kinds = {registry.kind for registry in settings.sd}
    targets = Targets.of(settings, path, scheme, listening, target.application, target.server)
    pages = {PATH: targets.groups} if "http" in kinds else {}
    return (Registered(targets, settings.sd) if kinds - {"http"} else None), pages


class Registered:
    """
    Keeps *targets* registered in *registries*, by a registrar, and tells where they are. For one thread, but for `collect`.

    *clock*, in seconds, measures how long a registrar has lived.
    """

    def __init__(
        self,
        targets: Targets,
        registries: Sequence[Registry],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._targets = targets
        self._registries = registries
        self._registrar: subprocess.Popen[bytes] | None = None
        self._clock = clock
        self._started = self._next_start = float("-inf")
        self._pause = _PAUSE_SECONDS
        # The problem that was logged last, while it lasts.
        self._told = ""
        # Whether the targets are registered in each of the registries, by its number, as the registrar tells; and the beginning
        # of a line that it has not ended yet.
        self._works: dict[int, bool] = {}
        self._line = b""

    def collect(self) -> list[Metric]:
        """Return wsgi_prom_registered. For any number of threads."""
        family, works = GaugeMetricFamily(*metrics.REGISTERED, labels=["registry"]), self._works
        for number, registry in enumerate(self._registries):
            if registry.kind != "http":
                family.add_metric([str(registry)], works.get(number, False))
        return [family]

    def keep(self) -> None:
        """Start the registrar if it does not run. Never raises."""
        if self._registrar is not None:
            if self._registrar.poll() is None:
                self._read(self._registrar)
                return
            self._tell(
                f"the registrar of the targets has ended (status {self._registrar.returncode}); it is started again"
            )
            self._close()
            self._registrar, self._works = None, {}
            # Its own life: the time since its start has the pause in it, which may be the longest.
            if self._clock() - self._started > _LONGEST_PAUSE_SECONDS:
                self._pause = _PAUSE_SECONDS
        now = self._clock()
        if now < self._next_start:
            return
        self._started, self._next_start = now, now + self._pause
        self._pause = min(2 * self._pause, _LONGEST_PAUSE_SECONDS)
        try:
            self._registrar = subprocess.Popen(
                [sys.executable, "-P", "-S", "-c", _PROGRAM, "register", *self._targets.arguments()],
                cwd="/",
                env=exporter_environment(),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                # A signal for the exporter's session is not for it: it takes the targets back.
                start_new_session=True,
            )
            self._line = b""
            if self._registrar.stdout is not None:
                os.set_blocking(self._registrar.stdout.fileno(), False)
        except OSError as error:
            self._tell(
                f"the targets are not registered: the registrar cannot be started ({error}). It is tried again, at "
                "least once a minute"
            )

    def _tell(self, problem: str) -> None:
        if problem != self._told:
            self._told = problem
            log.warning("%s", problem)

    def _read(self, registrar: subprocess.Popen[bytes]) -> None:
        with suppress(OSError):  # nothing new
            if registrar.stdout is not None:
                *lines, self._line = (self._line + os.read(registrar.stdout.fileno(), 4096)).split(b"\n")
                for number, works in map(bytes.split, lines):
                    self._works[int(number)] = works == b"1"
                    self._told = ""

    def end(self, *, replaced: bool) -> None:
        """Tell the registrar to take the targets back, unless the exporter is *replaced* by another that registers them too. Never raises."""
        if self._registrar is None:
            return
        if not replaced and self._registrar.stdin is not None:
            with suppress(OSError):
                self._registrar.stdin.write(WITHDRAW)
                self._registrar.stdin.flush()
        self._close()

    def _close(self) -> None:
        for pipe in (self._registrar.stdin, self._registrar.stdout) if self._registrar is not None else ():
            if pipe is not None:
                with suppress(OSError):
                    pipe.close()
