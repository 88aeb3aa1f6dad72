"""The README: each block of it runs, and what it names exists."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
import subprocess
from typing import TYPE_CHECKING

import documents
import live
import pytest

from wsgi_prom.settings import PREFIX, Settings

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

README = (live.ROOT / "README.md").read_text()
BLOCKS = documents.blocks(README)
MEASURED = 'http_requests_total{method="POST",route="/users/<int:user>/orders",status="200"}'


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the programs of an environment that was empty before the commands of the README installed into it."""
    (install,) = [step.command for step in typed(0) if step.command.startswith("pip install")]
    packages = install.removeprefix("pip install ").split()
    assert "wsgi-prom" == packages.pop(0)
    return documents.environment(tmp_path_factory.mktemp("empty"), *packages, "uwsgi", "django")


@pytest.fixture
def reader(tmp_path: Path, programs: Path) -> Iterator[documents.Reader]:
    """Somebody who has written all files of the README into a folder."""
    for block in BLOCKS:
        if block.file is not None:
            (tmp_path / block.file).write_text(block.text)
    with documents.network() as network:
        found = documents.Reader(tmp_path, programs, network)
        yield found
        found.stop()


def typed(number: int) -> list[documents.Step]:
    return documents.steps([block.text for block in BLOCKS if block.language == "console"][number])


def order(reader: documents.Reader) -> str:
    """Place an order as the README does, and return the lines of the page that count it, once they do."""
    assert "Thank you.\n" == reader.type("curl -X POST 127.0.0.1:8000/users/7/orders")
    return counted(reader, "127.0.0.1:9464/metrics")


def counted(reader: documents.Reader, page: str) -> str:
    return reader.type(f"curl {page} | grep -F '{MEASURED}'")


def test_there_is_no_block_that_no_test_runs() -> None:
    """The README has the blocks that the tests below run, and no others."""
    files = [None, "myapp.py", "prometheus.yml", None, "gunicorn.conf.py", "uwsgi.ini", "byhand.py"]
    assert files == [block.file for block in BLOCKS]
    assert ["console", "promql"] == [block.language for block in BLOCKS if block.file is None]


def test_the_first_commands(reader: documents.Reader) -> None:
    """The README's first commands run as they stand in an empty environment, and print what it shows."""
    (reader.cwd / "gunicorn.conf.py").unlink()
    for command, shown in typed(0):
        if not command.startswith("pip install"):
            printed = reader.type(command)
            assert documents.matches(shown, printed), printed


def test_one_line_in_a_gunicorn_configuration(reader: documents.Reader) -> None:
    """The README's gunicorn configuration is complete."""
    reader.type("gunicorn --workers 2 myapp:app")
    assert f"{MEASURED} 1.0\n" == order(reader)


def test_the_uwsgi_configuration(reader: documents.Reader) -> None:
    """The README's uWSGI configuration is complete, and with its Prometheus configuration one target is up."""
    reader.type("uwsgi uwsgi.ini")
    assert f"{MEASURED} 1.0\n" == order(reader)
    reader.type("prometheus --config.file=prometheus.yml")

    def up() -> list[str]:
        answer = json.loads(reader.type("curl '127.0.0.1:9090/api/v1/query?query=up'"))
        return [sample["value"][1] for sample in answer["data"]["result"]]

    assert ["1"] == live.eventually(up, bool, 60)


def test_the_middleware_by_hand(reader: documents.Reader) -> None:
    """Flask's own commands work with the wrapped application, and its single process shows its page."""
    assert "/users/<int:user>/orders" in reader.type("flask --app byhand routes")
    (reader.cwd / "gunicorn.conf.py").unlink()
    reader.type("gunicorn byhand:app")
    reader.type("curl -X POST 127.0.0.1:8000/users/7/orders")
    page = live.parse_samples(reader.type("curl 127.0.0.1:8000/metrics"))
    labels = {"method": "POST", "route": "/users/<int:user>/orders", "status": "200", "shop": "main"}
    assert 1 == page["http_requests_total", frozenset(labels.items())]


@pytest.mark.parametrize(
    ("example", "shows"),
    [("gunicorn", 'route="/users/<int:user_id>"'), ("django", 'route="/products/<int:pk>/"')],
)
def test_the_commands_of_an_example(example: str, shows: str, reader: documents.Reader) -> None:
    """The commands of the example's README run as they stand, and the last one prints a page with the route."""
    shutil.copytree(
        live.ROOT / "examples", reader.cwd / "examples", ignore=shutil.ignore_patterns("__pycache__")
    )
    (block,) = documents.blocks((live.ROOT / "examples" / example / "README.md").read_text())[:1]
    printed = ""
    for command, _ in documents.steps(block.text):
        if not command.startswith("pip install"):
            printed = reader.type(command)
    assert shows in printed


@pytest.mark.parametrize("target", ["demo", "test", "lint", "docs", "pictures", "bench"])
def test_the_make_targets_exist(target: str) -> None:
    """`make` has each target that the README and the build name."""
    done = subprocess.run(["make", "--dry-run", target], cwd=live.ROOT, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_settings_table_is_complete() -> None:
    """
    The tables of docs/settings.md have each setting's variable once and no other; the README's rows are among theirs.
    """
    line = re.compile(r"^\| `(WSGI_PROM_\w+)` \| [^|]*\|", re.MULTILINE)
    tables = (live.ROOT / "docs" / "settings.md").read_text()
    assert sorted(PREFIX + field.name.upper() for field in dataclasses.fields(Settings)) == sorted(
        line.findall(tables)
    )
    assert [] == [found[0] for found in line.finditer(README) if found[0] not in tables]


def test_files_that_the_readme_names_exist() -> None:
    """Each file, link and test that the README names exists."""
    named = re.findall(r"\]\(([^)#:]+)\)|`(tests/\w+\.py)`", README)
    missing = [link or test for link, test in named if not (live.ROOT / (link or test)).exists()]
    assert [] == missing


def test_the_readme_is_short() -> None:
    """The README stays short enough to be read at once."""
    assert len(README.splitlines()) < 140
