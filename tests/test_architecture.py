"""The shape of the package: small modules, imports that run one way, one place for each kind of knowledge."""

from __future__ import annotations

import ast
import subprocess
import sys
import zipfile

import live
import pytest

PACKAGE = live.ROOT / "wsgi_prom"
MODULES = sorted(PACKAGE.rglob("*.py"))

# Each may import those before it, and itself.
LAYERS = ["errors", "version", "interface", "reference", "catalog", "setting_values", "settings", "routes", "signals", "headers", "storage", "multiprocess", "schemas", "blocks", "files", "input", "recorder",
          "request", "websocket", "nesting", "contents", "body", "exporter", "exemptions", "callables", "middleware", "frameworks", "wsgi", "hooks", "demo", "cli", "__main__"]  # fmt: skip
STORAGE = [
    "faults",
    "forks",
    "format",
    "variables",
    "descent",
    "opening",
    "descriptor",
    "labels",
    "claims",
    "locks",
    "sharing",
    "client_format",
    "archive",
    "directory",
    "mapping",
    "mark",
    "pair",
    "slots",
    "bindings",
    "turns",
    "lease",
    "cells",
    "values",
    "unsupported",
    "layouts",
    "sums",
    "children",
    "families",
    "sources",
    "clients",
    "folding",
    "collector",
    "adoption",
]


def imported(path) -> set[str]:
    """Return the modules of the package that *path* imports, at any depth but for types alone."""
    found = set()
    tree = ast.parse(path.read_text())
    for node in tree.body:
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            node.body = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("wsgi_prom"):
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return {name for name in found if name != "wsgi_prom"}


def room(name: str) -> str:
    return name.split(".")[1]


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_module_is_small_and_imports_only_what_is_below_it(path) -> None:
    """Under 300 lines, and imports that go one way."""
    assert len(path.read_text().splitlines()) < 300
    own = path.relative_to(PACKAGE).with_suffix("").parts
    if own == ("__init__",):
        return  # lazily, whatever is public
    names = {name for name in imported(path) if room(name) in LAYERS}
    assert set() == {name for name in names if LAYERS.index(room(name)) > LAYERS.index(own[0])}
    if own[0] == "storage" and own[1] in STORAGE:
        siblings = {name.split(".")[2] for name in names if room(name) == "storage" and name.count(".") > 1}
        assert set() == {name for name in siblings if STORAGE.index(name) > STORAGE.index(own[1])}


@pytest.mark.parametrize(
    ("pattern", "allowed"),
    [
        ("os.environ", {"settings.py", "storage/variables.py", "hooks/instance.py", "hooks/gunicorn.py",
                        "exporter/launch.py", "demo/server.py", "demo/scenario.py", "cli/demo.py", "cli/check.py",
                        "cli/running.py"}),
        ("http_request", {"catalog.py", "demo/"}),
        ("fcntl", {"storage/locks.py"}),
        ("struct.Struct", {"storage/format.py", "storage/locks.py"}),
    ],
)  # fmt: skip
def test_one_place_for_each_kind_of_knowledge(pattern: str, allowed: set[str]) -> None:
    """Metric names, the environment, kernel locks and byte layouts are each known in their own module."""
    found = {str(path.relative_to(PACKAGE)) for path in MODULES if pattern in code(path)}
    assert set() == {name for name in found if not any(name.startswith(prefix) for prefix in allowed)}


def code(path) -> str:
    """Return the module without comments and docstrings."""
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node):
            node.body[0] = ast.Pass()
    return ast.unparse(tree)


def test_the_wheel_has_all_that_runs(tmp_path) -> None:
    """The built wheel holds every module, the type marker and the demo's application."""
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", tmp_path, live.ROOT],
        check=True, timeout=120,
    )  # fmt: skip
    (wheel,) = tmp_path.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {str(path.relative_to(live.ROOT)) for path in MODULES} <= names
    assert {"wsgi_prom/py.typed", "wsgi_prom/demo/flask/app.py"} <= names
