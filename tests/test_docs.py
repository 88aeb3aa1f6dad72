"""Every block of the README runs, and what it names exists."""

from __future__ import annotations

import dataclasses
import re
import subprocess

import live
import pytest
import servers

from wsgi_prom.settings import PREFIX, Settings

README = (live.ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", README, re.DOTALL)


def blocks(language: str) -> list[str]:
    return [text for found, text in BLOCKS if found == language]


def test_there_is_no_block_that_no_test_runs() -> None:
    """Two console blocks, two of Python, one of uWSGI's configuration."""
    assert ["console", "console", "python", "ini", "python"] == [language for language, _ in BLOCKS]


def test_the_gunicorn_command() -> None:
    """The command line of the README serves and counts, with only ports that are free."""
    (line,) = [line for line in blocks("console")[1].splitlines() if "gunicorn" in line]
    command = line.removeprefix("$ ").split()
    command[0] = str(live.BIN / command[0])
    command[-1:] = ["--bind", "127.0.0.1:0", "plain:app"]
    assert_counts(live.LiveServer(command, ready=(r"Booting worker", 1), address=live.GUNICORN_LINE))


def test_the_gunicorn_configuration(tmp_path) -> None:
    """The line for one's own gunicorn.conf.py serves and counts."""
    (tmp_path / "gunicorn.conf.py").write_text(blocks("python")[0] + 'bind = "127.0.0.1:0"\nworkers = 2\n')
    command = [live.BIN / "gunicorn", "plain:app"]
    assert_counts(
        live.LiveServer(command, cwd=tmp_path, ready=(r"Booting worker", 2), address=live.GUNICORN_LINE)
    )


def test_the_uwsgi_configuration(tmp_path) -> None:
    """The uWSGI block serves and counts."""
    text = blocks("ini")[0].replace("myapp:app", "plain:app")
    (tmp_path / "uwsgi.ini").write_text(text + "http-socket = 127.0.0.1:0\ndie-on-term = true\n")
    command = [live.BIN / "uwsgi", "--ini", tmp_path / "uwsgi.ini"]
    assert_counts(live.LiveServer(command, ready=(r"spawned uWSGI worker \d", 4), address=live.UWSGI_LINE))


def assert_counts(server: live.LiveServer) -> None:
    with server:
        live.drive(server.url, ["/"] * 20)
        assert {("/", "200"): 20} == servers.requests_counted(server.samples())


def test_the_middleware_by_hand(tmp_path) -> None:
    """The block for any server counts and shows the metrics, without any hook."""
    (tmp_path / "myapp.py").write_text("from plain import app\n")
    (tmp_path / "byhand.py").write_text(blocks("python")[1])
    with live.gunicorn("byhand:app", "--chdir", str(tmp_path), config=None, workers=1) as server:
        live.drive(server.url, ["/"] * 20)
        samples = live.parse_samples(server.get("/metrics").body.decode())
    assert {("/", "200"): 20} == servers.requests_counted(samples)


@pytest.mark.parametrize("target", ["demo", "test", "lint", "docs", "bench"])
def test_the_make_targets_exist(target: str) -> None:
    """make knows each command that the README and the build name."""
    done = subprocess.run(["make", "--dry-run", target], cwd=live.ROOT, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_settings_table_is_complete() -> None:
    """The tables of docs/settings.md have each setting's variable once and no other; README's are lines of them."""
    line = re.compile(r"^\| `(WSGI_PROM_\w+)` \| [^|]*\|", re.MULTILINE)
    tables = (live.ROOT / "docs" / "settings.md").read_text()
    assert sorted(PREFIX + field.name.upper() for field in dataclasses.fields(Settings)) == sorted(
        line.findall(tables)
    )
    assert [] == [found[0] for found in line.finditer(README) if found[0] not in tables]


def test_files_that_the_readme_names_exist() -> None:
    """Links and names of tests lead somewhere."""
    named = re.findall(r"\]\(([^)#:]+)\)|`(tests/\w+\.py)`", README)
    missing = [link or test for link, test in named if not (live.ROOT / (link or test)).exists()]
    assert [] == missing


def test_the_readme_is_short() -> None:
    """A newcomer reads it in one go."""
    assert len(README.splitlines()) < 100
