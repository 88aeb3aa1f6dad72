"""A contender as a child of the benchmark: a process and a shared directory of its own, for as long as it is measured."""

from __future__ import annotations

import os
import tempfile
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING, Any

from harness import Child, interleave

if TYPE_CHECKING:
    from collections.abc import Mapping

    from harness import Figure, Scale


class Contender(Child):
    """The module *name* of contenders/. With *shared*, as a worker of several, whose directory is on tmpfs."""

    def __init__(self, name: str, *, shared: bool = True) -> None:
        self._folder = directory()
        super().__init__(["-m", "contenders", name], environ(self._folder.name if shared else None))

    def __exit__(self, *raised: object) -> None:
        try:
            super().__exit__(*raised)
        finally:
            self._folder.cleanup()


def directory() -> tempfile.TemporaryDirectory[str]:
    """Make a directory on tmpfs, where a server has it too."""
    return tempfile.TemporaryDirectory(prefix="wsgi_prom-bench-", dir="/dev/shm")


def environ(folder: str | None) -> dict[str, str | None]:
    """Return what a contender's environment has, or must not have (None): no setting of whoever runs this."""
    ours = {name: None for name in os.environ if name.startswith("WSGI_PROM_")}
    return {**ours, "PROMETHEUS_MULTIPROC_DIR": folder}


def measure_slices(contenders: Mapping[str, str], work: str, unit: str, scale: Scale) -> dict[str, Figure]:
    """Measure *contenders*, modules by the name of their figure, in turns at the same *work*."""
    with ExitStack() as stack:
        asked: dict[str, Any] = {
            figure: partial(stack.enter_context(Contender(name)).ask, work)
            for figure, name in contenders.items()
        }
        return interleave(asked, unit, scale)
