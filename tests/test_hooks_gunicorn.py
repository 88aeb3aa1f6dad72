"""gunicorn's hook beside a configuration's own functions and settings, and with workers of all kinds."""

from __future__ import annotations

import base64
import re
import shutil
import textwrap
from typing import TYPE_CHECKING

import bcrypt
import live
import pytest
import servers

if TYPE_CHECKING:
    from pathlib import Path

IMPORT = "from wsgi_prom.hooks.gunicorn import *\n"
OWN = """
def on_starting(server): print("own: on_starting", flush=True)
def post_worker_init(worker): print("own: post_worker_init", flush=True)
def on_exit(server): print("own: on_exit", flush=True)
"""
CALLING_OURS = """
from wsgi_prom.hooks import gunicorn as metrics
def on_starting(server): metrics.on_starting(server); print("own: on_starting", flush=True)
def post_worker_init(worker): metrics.post_worker_init(worker); print("own: post_worker_init", flush=True)
def on_exit(server): metrics.on_exit(server); print("own: on_exit", flush=True)
def post_fork(server, worker): metrics.post_fork(server, worker)
def child_exit(server, worker): metrics.child_exit(server, worker); print("own: child_exit", flush=True)
"""
CONFIGURATIONS = {
    "below the import": IMPORT + OWN,
    "above the import": OWN + IMPORT,
    "calling ours": IMPORT + CALLING_OURS,
}


def configured(folder: Path, text: str) -> str:
    path = folder / "gunicorn.conf.py"
    path.write_text(text)
    return str(path)


@pytest.mark.parametrize("case", CONFIGURATIONS)
def test_a_configuration_may_have_the_same_hooks_itself(case: str, tmp_path: Path) -> None:
    """A configuration's own hooks run beside ours, wherever the import stands, and a request is counted once."""
    with live.gunicorn(config=configured(tmp_path, CONFIGURATIONS[case]), workers=1) as server:
        live.drive(server.url, ["/"] * 5)
        counted = servers.requests_counted(server.samples())
        folder = servers.shared_directory(server)
        server.kill(15)
        server.wait()
        log = server.log()
    assert {("/", "200"): 5} == counted
    assert [1, 1, 1] == [log.count(f"own: {name}") for name in ("on_starting", "post_worker_init", "on_exit")]
    assert not folder.exists()


def test_the_examples_own_hook_runs_beside_ours(tmp_path: Path) -> None:
    """The configuration in examples/gunicorn/README.md works as it stands."""
    text = (live.ROOT / "examples" / "gunicorn" / "README.md").read_text()
    (block,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    with live.gunicorn(config=configured(tmp_path, textwrap.dedent(block)), workers=1) as server:
        live.drive(server.url, ["/"] * 5)
        counted = servers.requests_counted(server.samples())
        assert server.wait_for_log(r"\] ready\n")
    assert {("/", "200"): 5} == counted


@pytest.mark.parametrize("way", ["raw_env", "--env"])
def test_settings_by_raw_env_are_in_force(way: str, tmp_path: Path) -> None:
    """Settings in raw_env apply to the exporter, the middleware and the directory."""
    folder = tmp_path / "metrics"
    variables = ["WSGI_PROM_BIND=127.0.0.1:0", "WSGI_PROM_PREFIX=shop_", f"PROMETHEUS_MULTIPROC_DIR={folder}"]
    text = IMPORT + (f"raw_env = {variables}\n" if way == "raw_env" else "")
    args = [word for item in variables for word in ("--env", item)] if way == "--env" else []
    with live.gunicorn(
        "plain:app", *args, config=configured(tmp_path, text), workers=1, WSGI_PROM_BIND="off"
    ) as server:
        live.drive(server.url, ["/"] * 5)
        counted = live.labelled(server.samples(), "shop_http_requests_total")
        used = servers.shared_directory(server)
    assert [5] == list(counted.values())
    assert folder == used


def test_a_worker_class_of_ones_own_that_serves_wsgi_is_counted() -> None:
    """A worker class that derives from gunicorn's Worker alone is counted."""
    with live.gunicorn("plain:app", "--worker-class", "workers.PlainWorker", workers=1) as server:
        live.drive(server.url, ["/"] * 5, clients=1)
        counted = servers.requests_counted(server.samples())
        log = server.log()
    assert {("/", "200"): 5} == counted
    assert "is not a WSGI application" not in log


FAULTS = {
    "no descriptors": """
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(map(int, os.listdir("/proc/self/fd"))), limits[1]))
    metrics.post_fork(server, worker)
    resource.setrlimit(resource.RLIMIT_NOFILE, limits)  # gunicorn itself needs some
""",
    "no directory": """
    while found := glob.glob("/dev/shm/wsgi_prom-*"):  # the exporter may write there meanwhile
        shutil.rmtree(found[0], ignore_errors=True)
""",
    "no memory": """
    SharedSlot.claim = classmethod(lambda *_: bytes(1 << 60))
""",
    "no space": """
    with suppress(OSError), open("/dev/shm/full", "wb", buffering=0) as file:
        while file.write(bytes(512)):
            pass
""",
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_worker_starts_and_serves_whatever_its_hook_meets(fault: str, tmp_path: Path) -> None:
    """
    A failure of the hook in a worker is one line of log, and the worker serves; a removed directory is made again.
    """
    text = (
        f"import glob, os, resource, shutil\nfrom contextlib import suppress\n{IMPORT}"
        "from wsgi_prom.hooks import gunicorn as metrics\n"
        f"from wsgi_prom.store.slots import SharedSlot\ndef post_fork(server, worker):{FAULTS[fault]}"
    )
    server = live.gunicorn(config=configured(tmp_path, text), workers=1)
    server.command = [
        "unshare",
        "--mount",
        "sh",
        "-c",
        'mount -t tmpfs -o size=1m own /dev/shm; exec "$@"',
        "sh",
        *server.command,
    ]
    with server:
        assert server.metrics_url
        driven = live.drive(server.url, ["/"] * 5)
        log = server.log()
    assert ([], 5) == (driven.failed, driven.answered["/", 200])
    assert 1 == log.count("Booting worker with pid")
    assert "Traceback" not in log
    assert (fault != "no directory") == ("[ERROR] wsgi_prom: " in log)


def test_a_worker_that_cannot_read_the_package_is_counted(tmp_path: Path) -> None:
    """
    Workers that drop to a user who cannot read the package are counted, since all that they need was imported before.
    """
    package = shutil.copytree(live.ROOT / "wsgi_prom", tmp_path / "wsgi_prom")
    package.chmod(0o700)
    (tmp_path / "web.yml").write_text(
        f"basic_auth_users:\n  ann: {bcrypt.hashpw(b'right', bcrypt.gensalt(4)).decode()}\n"
    )
    credentials = {"Authorization": "Basic " + base64.b64encode(b"ann:right").decode()}
    # The exporter is that user's too, and finds the package of the environment.
    for folder in [tmp_path, *list(tmp_path.parents)[:-2]]:
        folder.chmod(folder.stat().st_mode | 0o011)
    server = live.gunicorn(
        "plain:app", "--user", "www-data", "--group", "www-data", workers=1,
        PYTHONPATH=f"{tmp_path}:{live.APPS}", WSGI_PROM_METRICS_PATH="/metrics",
        WSGI_PROM_WEB_CONFIG=str(tmp_path / "web.yml"),
    )  # fmt: skip
    server.command = live.for_any_user(server.command)
    with server:
        live.drive(server.url, ["/", "/stream", "/fail", "/nowhere"], clients=1)
        exported = live.request(server.metrics_url, headers=credentials).body.decode()
        counted = servers.requests_counted(live.parse_samples(exported))
        page = live.request(server.url + "/metrics", headers=credentials)
        log = server.log()
    assert {("/", "200"): 1, ("/stream", "200"): 1, ("/fail", "500"): 1, ("unmatched", "404"): 1} == {
        key: count for key, count in counted.items() if count
    }
    assert (200, True) == (page.status, b"http_requests_total" in page.body)
    assert "No module named" not in log
