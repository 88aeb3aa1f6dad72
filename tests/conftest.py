"""What all tests share: a clean environment, functions that run in a process of their own, and skips for what is missing."""

from __future__ import annotations

import compileall
import gc
import os
import re
import secrets
from typing import TYPE_CHECKING, Any

import processes
import pytest
from hypothesis import HealthCheck, settings

from runner.environment import BIN, ROOT
from wsgi_prom.store.locks import LockFile

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator
    from pathlib import Path

    from _pytest.terminal import TerminalReporter

# One for all processes that run tests, which inherit it.
SEED = os.environ.setdefault("CHAOS_SEED", secrets.token_hex(4))

# What `make tools` installs, and uWSGI, which needs a compiler.
PROGRAMS = frozenset({
    "curl", "nginx", "supervisord", "prometheus", "prometheus-pushgateway", "promtool", "unshare", "nsenter", "prlimit", "strace", "openssl", "cc",
    "systemctl", "systemd-tmpfiles", "valgrind", "wrk", "htpasswd", "setpriv", "redis-server", "etcd", "jsonnet", "statsd", "ts-json-schema-generator", "axe-core", "chromium", "chromedriver", str(BIN / "uwsgi"),
})  # fmt: skip

# A busy machine takes longer for an example now and then, and to make one.
settings.register_profile("tests", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("tests")

# The rows of the tables that are printed at the end, by the name of the table.
_tables: dict[str, list[dict[str, object]]] = {"chaos": [], "e2e": []}


def pytest_configure(config: pytest.Config) -> None:
    """Compile the package, once for all processes that run tests: each server, which writes no byte code, would take 0.1 s."""
    if not hasattr(config, "workerinput"):
        for folder in ("wsgi_prom", "tests/apps"):
            compileall.compile_dir(ROOT / folder, quiet=2)


def pytest_collection_finish() -> None:
    """Spare the collections of garbage what stays to the end: in each process and each fork of it they took 0.2 s."""
    gc.collect()
    gc.freeze()


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.when == "teardown":
        for name, row in report.user_properties:
            if name in _tables:
                _tables[name].append(row)


def pytest_terminal_summary(terminalreporter: TerminalReporter) -> None:
    """Print the tables that tests have added rows to: of chaos one for each case, of e2e one for each server."""
    for name, rows in _tables.items():
        if rows:
            terminalreporter.section(name)
            _print_table(terminalreporter, rows)
    if _tables["chaos"]:
        terminalreporter.write_line(f"CHAOS_SEED={SEED}")


def _print_table(terminalreporter: TerminalReporter, rows: list[dict[str, object]]) -> None:
    cells = [
        [name.replace("_", " ") for name in rows[0]],
        *([str(item) for item in row.values()] for row in rows),
    ]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for first, *others in cells:
        numbers = [item.rjust(width) for item, width in zip(others, widths[1:], strict=True)]
        terminalreporter.write_line("  ".join([first.ljust(widths[0]), *numbers]))


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call() -> Generator[None, object, object]:
    """Skip a test that needs root or a program that is missing, with the reason; never in CI."""
    return (yield from _skipping())


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup() -> Generator[None, object, object]:
    """Skip the tests of a fixture that needs root or a program that is missing."""
    return (yield from _skipping())


def _skipping() -> Generator[None, object, object]:
    try:
        return (yield)
    except Exception as error:
        reason = _missing(error)
        if reason and os.environ.get("CI") != "true":
            pytest.skip(reason)
        raise


def _missing(error: Exception) -> str | None:
    if isinstance(error, FileNotFoundError) and error.filename in PROGRAMS:
        return f"needs {error.filename}"
    # Of a test's own call, of a forked child's, or in a server's log.
    if os.geteuid() != 0 and re.search("Operation not permitted|as nonroot user", str(error)):
        return "needs root"
    return None


@pytest.fixture(autouse=True)
def _silent_environment() -> Iterator[None]:
    """
    Nothing that whoever runs the tests has set reaches them, and nothing that a test sets outlives it.
    """
    before = dict(os.environ)
    for name in before:
        if name == "PROMETHEUS_MULTIPROC_DIR" or name.startswith(("WSGI_PROM_", "_WSGI_PROM_")):
            del os.environ[name]
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture(autouse=True)
def _no_lock_file_stays_open() -> Iterator[None]:
    """
    A process keeps the lock file of a directory open, as it may hold a byte of it: some tests make hundreds of directories.
    """
    before = set(LockFile._opened.values())
    yield
    for lock_file in set(LockFile._opened.values()) - before:
        lock_file.close()


@pytest.fixture(scope="session")
def in_child() -> Callable[..., object]:
    """
    `in_child(function, *arguments)`: the function's result, from a forked process; its exception fails the test.

    What records into the process's one current slot goes in here.
    """
    return processes.in_child


@pytest.fixture
def recording(in_child: Callable[..., Any], shared: Path) -> Callable[..., Any]:
    """
    Run a function in a process that shares a directory and has wsgi_prom installed.
    """
    from wsgi_prom.client.patch import install

    def run(function: Callable[[], Any]) -> Any:
        return in_child(lambda: (processes.share(shared), install(), function())[-1])

    return run


@pytest.fixture
def shared(tmp_path: Path) -> Path:
    """
    A directory for slots that does not exist yet.
    """
    return tmp_path / "shared"
