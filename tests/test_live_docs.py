"""docs/live.md: each block of it runs, and it names each field of the JSON."""

from __future__ import annotations

import re
import subprocess
from dataclasses import fields
from typing import TYPE_CHECKING

import documents
import live
import pytest

from wsgi_prom.live import view

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PAGE = (live.ROOT / "docs" / "live.md").read_text()
BLOCKS = documents.blocks(PAGE)
APPLICATION = [
    block for block in documents.blocks((live.ROOT / "README.md").read_text()) if block.file == "myapp.py"
]


@pytest.fixture
def reader(tmp_path: Path) -> Iterator[documents.Reader]:
    """Somebody who runs the README's application, in a network and with a /dev/shm of their own."""
    (application,) = APPLICATION
    (tmp_path / "myapp.py").write_text(application.text)
    with documents.network("--mount") as network:
        enter = ["nsenter", f"--mount=/proc/{network}/ns/mnt"]
        subprocess.run([*enter, "mount", "-t", "tmpfs", "none", "/dev/shm"], check=True)
        found = documents.Reader(tmp_path, live.BIN, network, mounts=True)
        try:
            found.type("gunicorn -c python:wsgi_prom.hooks.gunicorn --workers 2 myapp:app")
            found.type("export WSGI_PROM_BIND=127.0.0.1:9464")
            found.type("curl -X POST 127.0.0.1:8000/users/7/orders")
            yield found
        finally:
            found.stop()


def test_the_commands_of_the_page(reader: documents.Reader) -> None:
    """Each command runs as it stands, and prints what the page shows."""
    assert {"console"} == {block.language for block in BLOCKS}
    for block in BLOCKS:
        for command, shown in documents.steps(block.text):
            if command.startswith("pip install"):
                continue
            if command == "wsgi-prom top":
                # On a terminal, where a key ends it.
                assert "/orders" in reader.type(f"(sleep 2; printf q) | script -qec '{command}' /dev/null")
                continue
            printed = reader.type(command)
            assert documents.matches(f"{shown.rstrip()}\n", f"{printed.rstrip()}\n"), printed


def test_each_field_is_told() -> None:
    """The table of the JSON names each field of each of its parts."""
    table = PAGE.partition("## The JSON")[2]
    named = set(re.findall(r"`(\w+)`", table))
    kinds = (
        view.View,
        view.Server,
        view.Totals,
        view.Capacity,
        view.RouteRow,
        view.WorkerRow,
        view.QueueRow,
        view.ExitRow,
        view.Past,
    )
    assert set() == {field.name for kind in kinds for field in fields(kind)} - named
