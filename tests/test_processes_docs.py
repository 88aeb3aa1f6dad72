"""docs/processes.md: each block of it runs, in the order of the page."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

import documents
import live
import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

BLOCKS = documents.blocks((live.ROOT / "docs" / "processes.md").read_text())
# What a reader has: an application, and a project of Django.
FILES = {
    "myapp.py": "def app(environ, start_response):\n    start_response('200 OK', [])\n    return [b'']\n",
    "manage.py": """
import sys
from django.conf import settings
from django.core.management import execute_from_command_line
settings.configure(INSTALLED_APPS=["orders"])
execute_from_command_line(sys.argv)
""",
    "orders/__init__.py": "",
    "orders/management/__init__.py": "",
    "orders/management/commands/__init__.py": "",
}
PLACES = {"import_orders.py": "orders/management/commands/import_orders.py"}


@pytest.fixture
def reader(tmp_path: Path) -> Iterator[documents.Reader]:
    """Somebody who has the page's files, in a network and with a /dev/shm of their own, and Redis."""
    for name, text in [*FILES.items(), *((block.file, block.text) for block in BLOCKS if block.file)]:
        path = tmp_path / PLACES.get(name, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    with documents.network("--mount") as network:
        enter = ["nsenter", f"--mount=/proc/{network}/ns/mnt"]
        subprocess.run([*enter, "mount", "-t", "tmpfs", "none", "/dev/shm"], check=True)
        found = documents.Reader(tmp_path, live.BIN, network, mounts=True)
        try:
            found.type("redis-server --save ''")
            yield found
        finally:
            found.stop()


def test_there_is_no_block_that_no_test_runs() -> None:
    """The page has commands, and files that they run."""
    files = ["tasks.py", "nightly.py", "import_orders.py", "consumer.py"]
    assert files == [block.file for block in BLOCKS if block.language == "python"]
    assert {"python", "console"} == {block.language for block in BLOCKS}


def test_the_blocks_of_the_page(reader: documents.Reader) -> None:
    """The commands run as they stand, one after the other, and print what the page shows."""
    # Each of these has the port for itself.
    ends = {"wsgi-prom serve": ["gunicorn"], "python consumer.py": ["wsgi-prom serve"]}
    for block in BLOCKS:
        for command, shown in documents.steps(block.text) if block.language == "console" else []:
            for kind in ends.get(command, []):
                reader.end(kind)

            def printed(command: str = command) -> str:
                try:
                    return reader.type(command)
                except subprocess.CalledProcessError:
                    return ""

            if shown:
                found = live.eventually(
                    printed, lambda found, shown=shown: documents.matches(shown, found), 60
                )
                assert documents.matches(shown, found), found
            else:
                reader.type(command)
    assert {"redis-server", "celery worker", "python consumer.py"} == set(reader.running)
