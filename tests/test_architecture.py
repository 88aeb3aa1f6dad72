"""The package's structure: small modules, imports that run one way, and one module for each kind of knowledge."""

from __future__ import annotations

import ast
import subprocess
import sys
import zipfile
from functools import cache

import live
import pytest

PACKAGE = live.ROOT / "wsgi_prom"
MODULES = sorted(PACKAGE.rglob("*.py"))

# Each package or module of the root may import those before it, and itself.
ORDER = ["errors", "retrying", "http_peers", "version", "app_interface", "app_reference", "metrics", "setting_values", "setting_field", "discovery_settings", "settings",
         "store", "merge", "client", "request", "server", "dashboards", "live", "exporter", "discovery", "push", "middleware", "frameworks", "wsgi", "hooks", "cli", "__main__"]  # fmt: skip


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


def package(name: str) -> str:
    return name.split(".")[1]


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_module_is_small_and_imports_only_what_is_below_it(path) -> None:
    """Each module has under 300 lines, and imports of its own package and of those before it."""
    assert len(path.read_text().splitlines()) < 300
    own = path.relative_to(PACKAGE).with_suffix("").parts
    if own == ("__init__",):
        return  # lazily, whatever is public
    names = {name for name in imported(path) if package(name) in ORDER}
    assert set() == {name for name in names if ORDER.index(package(name)) > ORDER.index(own[0])}


@pytest.mark.parametrize(
    ("pattern", "allowed"),
    [
        ("os.environ", {"settings.py", "store/environment.py", "hooks/server_directory.py", "hooks/gunicorn.py", "hooks/startup/sitecustomize.py",
                        "exporter/process/launch.py", "cli/check.py", "cli/check_application.py",
                        "cli/running.py",
                        "cli/push.py"}),  # those of OpenTelemetry
        ("http_request", {"metrics.py"}),
        ("uwsgi_worker", {"server/uwsgi_metrics.py"}),
        ("fcntl", {"store/locks.py", "store/tmpfiles.py", "discovery/target_file.py"}),
        ("struct.Struct", {"store/text_format.py", "store/file_format.py", "store/locks.py", "server/sock_diag.py"}),
    ],
)  # fmt: skip
def test_one_place_for_each_kind_of_knowledge(pattern: str, allowed: set[str]) -> None:
    """Metric names, the environment, kernel locks and byte layouts are each known in their own module."""
    found = {str(path.relative_to(PACKAGE)) for path in MODULES if pattern in code(path)}
    assert set() == {name for name in found if not any(name.startswith(prefix) for prefix in allowed)}


@cache
def code(path) -> str:
    """Return the module without comments and docstrings."""
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node):
            node.body[0] = ast.Pass()
    return ast.unparse(tree)


def test_the_wheel_has_all_that_runs(tmp_path) -> None:
    """The built wheel holds every module, the data and the type marker, and none of the demo, tests, benchmarks and examples."""
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", tmp_path, live.ROOT],
        check=True, timeout=120,
    )  # fmt: skip
    (wheel,) = tmp_path.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {str(path.relative_to(live.ROOT)) for path in MODULES} <= names
    data = {
        path for path in (PACKAGE / "dashboards").iterdir() if path.suffix in {".json", ".libsonnet", ".yaml"}
    }
    assert {"wsgi_prom/py.typed", *(str(path.relative_to(live.ROOT)) for path in data)} <= names
    assert data
    assert {"wsgi_prom"} == {top for name in names if not (top := name.split("/")[0]).endswith(".dist-info")}
