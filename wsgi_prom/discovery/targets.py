"""
What Prometheus is told of the targets: their addresses and labels, in the format of its file_sd and http_sd.

1. Labels are those that a target needs when it is down, and no page tells any more: whose it is.
2. `instance` is the exporter's address for each worker too, and `slot` tells them apart. So a worker that takes the place of another,
   at another port, goes on with its series.
"""

from __future__ import annotations

import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from wsgi_prom.setting_values import WILDCARDS, Address
from wsgi_prom.store import worker_ports

if TYPE_CHECKING:
    from pathlib import Path

    from wsgi_prom.settings import Settings

    Group = dict[str, Any]


@dataclass(frozen=True)
class Targets:
    """
    The targets of the server that uses the directory *path*: the exporter at *address*, or its *workers*.

    *application* and *server* are labels, if they are not empty.
    """

    path: Path
    address: Address
    scheme: str = "http"
    application: str = ""
    server: str = ""
    workers: bool = False

    @classmethod
    def of(
        cls,
        settings: Settings,
        path: Path,
        scheme: str,
        listening: tuple[str, int],
        application: str,
        server: str,
    ) -> Targets:
        """Return the targets of an exporter with *settings*, which serves on *listening*, a host and a port."""
        host = settings.sd_host or (socket.gethostname() if listening[0] in WILDCARDS else listening[0])
        address = Address(host, listening[1])
        return cls(path, address, scheme, application, server, settings.targets == "workers")

    def arguments(self) -> list[str]:
        """Return the command line arguments of a registrar of these targets; the settings say the rest."""
        values = {
            "--directory": self.path,
            "--address": self.address,
            "--scheme": self.scheme,
            "--application": self.application,
            "--server": self.server,
        }
        return [f"{option}={value}" for option, value in values.items() if str(value)]

    def groups(self) -> list[Group]:
        """Return them as they are now. Raises OSError, DirectoryError: then the directory tells nothing."""
        if not self.workers:
            return [self._group(self.address.port)]
        ports = worker_ports.ports(self.path)
        return [self._group(port, str(slot)) for slot, port in sorted(ports.items())]

    def _group(self, port: int, slot: str = "") -> Group:
        labels = {
            "instance": str(self.address),
            "application": self.application,
            "server": self.server,
            "slot": slot,
            "__scheme__": "https" if self.scheme == "https" else "",
        }
        return {
            "targets": [str(Address(self.address.host, port))],
            "labels": {name: value for name, value in labels.items() if value},
        }
