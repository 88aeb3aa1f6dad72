"""CONTRIBUTING.md: its commands work, its paths exist, and pre-commit runs what CI runs."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys

import documents
import live
import pytest

TEXT = (live.ROOT / "CONTRIBUTING.md").read_text()
TYPED = [
    step.command
    for block in documents.blocks(TEXT)
    if block.language == "console"
    for step in documents.steps(block.text)
]
TARGETS = sorted(set(re.findall(r"\bmake ([a-z][a-z-]+)", TEXT)))


def make(*arguments: str) -> str:
    """Return what `make` would run."""
    done = subprocess.run(
        ["make", "--dry-run", *arguments], cwd=live.ROOT, capture_output=True, text=True, check=True
    )
    return done.stdout


@pytest.mark.parametrize("target", TARGETS)
def test_each_target_exists(target: str) -> None:
    """Each `make` target that the text names exists."""
    make(target)


@pytest.mark.parametrize("command", TYPED)
def test_each_command_works(command: str) -> None:
    """`make` accepts each command of the text, and pytest finds the tests that it names."""
    program, *words = shlex.split(command)
    if program == "make":
        make(*words)
    else:
        collect = [sys.executable, *words, "--collect-only", "--quiet"]
        subprocess.run(collect, cwd=live.ROOT, check=True, capture_output=True, timeout=120)


def test_each_path_exists() -> None:
    """Each file, folder and link of the text exists below the root, the package or the tests."""
    named = re.findall(r"\]\(([^)#:]+)\)|`([\w./-]+/|[\w./-]+\.(?:py|md|toml))`|(tests/\w+\.py)", TEXT)
    below = [live.ROOT, live.ROOT / "wsgi_prom", live.ROOT / "tests"]
    paths = ["".join(groups) for groups in named]
    assert [] == [path for path in paths if not any((folder / path).exists() for folder in below)]


def test_each_package_is_named() -> None:
    """The table of the text names every package."""
    packages = {path.parent.name for path in (live.ROOT / "wsgi_prom").glob("*/__init__.py")}
    assert packages == set(re.findall(r"`wsgi_prom/(\w+)/`", TEXT))


def test_pre_commit_runs_what_make_lint_runs() -> None:
    """pre-commit and `make lint` run the same commands in the same order."""
    hooks = re.findall(r"entry: (.+)", (live.ROOT / ".pre-commit-config.yaml").read_text())
    lint = [
        line for line in make("lint").splitlines() if line.startswith(".venv/bin/") and "/pip" not in line
    ]
    assert lint == hooks


def test_each_module_of_the_architecture_exists() -> None:
    """docs/architecture.md names modules of the tree, and every package."""
    text = (live.ROOT / "docs" / "architecture.md").read_text()
    modules = re.findall(r"`((?:\w+/)*\w+\.py)`", text)
    places = [live.ROOT, live.ROOT / "wsgi_prom"]
    packages = {path.parent.name for path in (live.ROOT / "wsgi_prom").glob("*/__init__.py")}
    assert [] == [name for name in modules if not any((place / name).is_file() for place in places)]
    assert packages == set(re.findall(r"^\| `(\w+)/` \|", text, re.MULTILINE))
