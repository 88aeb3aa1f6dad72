"""
Findings of `wsgi-prom check` about the places where targets are registered: files that can be written, an etcd that lets in.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from wsgi_prom.cli.output import Finding
from wsgi_prom.discovery.etcd import Etcd
from wsgi_prom.errors import WsgiPromError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from wsgi_prom.setting_values import Registry
    from wsgi_prom.settings import Settings


def findings(settings: Settings) -> Iterator[Finding]:
    for registry in settings.sd:
        if registry.kind == "file":
            yield _file(registry)
        elif registry.kind == "etcd":
            yield _etcd(registry, settings)


def _file(registry: Registry) -> Finding:
    folder = Path(registry.path).parent
    remedy = "make it, or name another file, with WSGI_PROM_SD=file:/PATH.json"
    if not folder.is_dir():
        return Finding("targets", False, f"{folder} is not a directory", remedy)
    if not os.access(folder, os.W_OK | os.X_OK):
        remedy = "let the exporter's user, that of the workers, write to it"
        return Finding("targets", False, f"this user (uid {os.geteuid()}) cannot write to {folder}", remedy)
    return Finding("targets", True, f"this user can write {registry.path}")


def _etcd(registry: Registry, settings: Settings) -> Finding:
    try:
        etcd = Etcd.of(registry, settings)
        etcd.check()
    except WsgiPromError as error:
        return Finding("targets", False, str(error))
    return Finding("targets", True, f"{registry} takes targets")
