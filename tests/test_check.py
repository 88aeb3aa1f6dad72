"""
`wsgi-prom check`, as a user calls it: the problems that it finds, the remedies that it names, and that it makes no
file.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import checking
import etcds
import joined
import live
import pytest
from checking import Checker

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

APPLICATIONS = {
    "flask": "Flask",
    "bottle": "Bottle",
    "django": "Django",
    "pyramid": "Pyramid",
    "falcon": "Falcon",
}
REMEDIES = {
    "django": 'MIDDLEWARE += ["wsgi_prom.frameworks.django.RouteMiddleware"]',
    "pyramid": 'config.include("wsgi_prom.frameworks.pyramid")',
    "falcon": "app.add_middleware(wsgi_prom.frameworks.falcon.RouteMiddleware())",
}


@pytest.fixture(scope="module")
def check() -> Iterator[Checker]:
    with Checker() as found:
        yield found


def findings(done: subprocess.CompletedProcess[str]) -> dict[str, dict[str, Any]]:
    return {finding["subject"]: finding for finding in json.loads(done.stdout)["findings"]}


@pytest.mark.parametrize("framework", APPLICATIONS)
def test_an_application_whose_routes_are_seen_is_all_right(check: Checker, framework: str) -> None:
    """`check` recognises each framework, with its adapter where it needs one, and exits with 0."""
    done = check(f"routes_{framework}:app", "--json")
    found = findings(done)
    assert (0, True) == (done.returncode, json.loads(done.stdout)["ok"])
    assert {"settings", "address", "processes", "directory", "application", "routes"} == {
        subject for subject, finding in found.items() if finding["ok"]
    }
    assert f"routes_{framework}:app, {APPLICATIONS[framework]}" == found["application"]["message"]
    assert found["routes"]["message"].startswith(f"{APPLICATIONS[framework]}'s are seen")


@pytest.mark.parametrize(
    ("framework", "wrapper"),
    [
        *((framework, "{}") for framework in REMEDIES),
        ("falcon", "wsgi_prom.PrometheusMiddleware({})"),
        ("pyramid", "partial(ProxyFix({}.__call__))"),
        ("django", "decorated({})"),
    ],
)
def test_a_missing_adapter_is_told_with_the_line_that_installs_it(
    check: Checker, framework: str, wrapper: str, tmp_path: Path
) -> None:
    """Without an adapter `check` exits with 1, says why routes are unmatched, and shows the line that installs it."""
    made = wrapper.format(f"routes_{framework}.make(adapter=False)")
    (tmp_path / "unadapted.py").write_text(
        "import wsgi_prom\nfrom functools import partial\nfrom werkzeug.middleware.proxy_fix import ProxyFix\n"
        f"def decorated(app):\n    return lambda *args: app(*args)\n\nimport routes_{framework}\napp = {made}\n"
    )
    done = check("unadapted:app", cwd=tmp_path, path=(live.ROOT, live.APPS))
    wrong, remedy = done.stdout.splitlines()[-2:]
    assert done.returncode == 1
    assert wrong.startswith("WRONG  routes: all are 'unmatched': ")
    assert remedy.endswith(REMEDIES[framework])


def test_every_application_behind_a_dispatcher_is_looked_at(check: Checker, tmp_path: Path) -> None:
    """`check` finds a mounted application without its adapter beside others that have theirs."""
    (tmp_path / "mounted.py").write_text(
        "from werkzeug.middleware.dispatcher import DispatcherMiddleware\n"
        "import routes_falcon, routes_flask\n"
        "app = DispatcherMiddleware(routes_flask.inner, {'/f': routes_falcon.make(adapter=False)})\n"
    )
    done = check("mounted:app", cwd=tmp_path, path=(live.ROOT, live.APPS))
    assert done.returncode == 1
    assert "application: mounted:app, Flask and Falcon" in done.stdout
    assert "ok     routes: Flask's are seen without an adapter" in done.stdout
    assert "WRONG  routes: all are 'unmatched': Falcon" in done.stdout


def test_a_plain_application_has_to_say_its_routes(check: Checker) -> None:
    """An application without a framework is no problem; `check` says how it can name its routes."""
    done = check("plain:app")
    assert done.returncode == 0
    assert "?      routes: " in done.stdout
    assert "wsgi_prom.set_route(environ, template)" in done.stdout


def test_an_application_behind_a_function_is_told_by_what_is_loaded(check: Checker) -> None:
    """
    If Django's application is only made at the first request, `check` recognises Django by its modules and offers the
    adapter's line.
    """
    done = check("django_settings:application")
    assert done.returncode == 0
    assert f"-> if it is Django's, in the settings, anywhere in the list: {REMEDIES['django']}" in done.stdout


def test_an_application_behind_a_function_is_told_nothing_that_is_done(
    check: Checker, tmp_path: Path
) -> None:
    """`check` offers no adapter to an application whose settings already have it."""
    (tmp_path / "hidden.py").write_text(
        "import routes_django\n\ndef app(*args): return routes_django.app(*args)\n"
    )
    done = check("hidden:app", "--json", cwd=tmp_path, path=(live.ROOT, live.APPS))
    assert (None, "") == (findings(done)["routes"]["ok"], findings(done)["routes"]["remedy"])


@pytest.mark.parametrize(
    ("arguments", "env", "subject", "told"),
    [
        ((), {"WSGI_PROM_BUCKETS": "5,1"}, "settings", "WSGI_PROM_BUCKETS='5,1' is not upper bounds"),
        ((), {"WSGI_PROM_BUKETS": "1"}, "settings", "WSGI_PROM_BUKETS is not a setting of wsgi_prom and is ignored. Did you mean"),
        (("my-app",), {}, "settings", "app='my-app' is not MODULE:CALLABLE"),
        (("plain",), {}, "application", "application='plain': module 'plain' has no 'application'"),
        (("nowhere:app",), {}, "application", "application='nowhere:app': there is no module 'nowhere'"),
        (("plain:nothing",), {}, "application", "application='plain:nothing': module 'plain' has no 'nothing'"),
        (("plain:CHUNKS",), {}, "application", "application='plain:CHUNKS' is not a WSGI application"),
        ((), {"WSGI_PROM_APP": "nowhere:app"}, "application", "WSGI_PROM_APP='nowhere:app': there is no module"),
        (("raising:app",), {}, "application", "raising:app raises ZeroDivisionError at its import: division"),
        (("leaving:app",), {}, "application", "leaving:app raises SystemExit at its import: no licence"),
        ((), {"PROMETHEUS_MULTIPROC_DIR": "/etc/hosts/d"}, "directory", "/etc/hosts/d does not exist, and this user cannot make it"),
        ((), {"PROMETHEUS_MULTIPROC_DIR": "/etc/hosts"}, "directory", "'/etc/hosts' is not a directory"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named_and_the_exit_code_is_1(
    check: Checker, arguments: tuple[str, ...], env: dict[str, str], subject: str, told: str, tmp_path: Path
) -> None:
    """`check` names a wrong setting, reference, import or directory, and exits with 1."""
    (tmp_path / "raising.py").write_text("1 / 0\n")
    (tmp_path / "leaving.py").write_text("raise SystemExit('no licence')\n")
    done = check(*arguments, "--json", path=(live.ROOT, tmp_path), **env)
    found = findings(done)[subject]
    assert (1, False) == (done.returncode, found["ok"])
    assert told in found["message"]
    assert "Traceback" not in done.stderr


def test_a_directory_that_is_open_to_all_has_one_of_the_users_own_below_it() -> None:
    """For a directory such as /tmp `check` names the user's own directory below it that a server would use."""
    done = checking.check("--json", PROMETHEUS_MULTIPROC_DIR="/tmp")
    (found,) = [item for item in json.loads(done.stdout)["findings"] if item["subject"] == "directory"]
    assert found["ok"]
    assert f"/tmp/wsgi_prom-{os.geteuid()}" in found["message"].split()


def test_a_name_is_checked(check: Checker, tmp_path: Path) -> None:
    """`check` says where the processes of a name meet, whether they can, and that a directory wins over a name."""
    name, path = joined.new_name()

    def said(**env: str) -> list[tuple[str, bool | None, str]]:
        found = json.loads(check("--json", WSGI_PROM_NAME=name, **env).stdout)["findings"]
        return [
            (each["subject"], each["ok"], each["message"])
            for each in found
            if each["subject"] in {"name", "directory"}
        ]

    made = f"the first process of the name {name} makes {path}, and the last one removes it"
    assert [("directory", True, made)] == said()
    path.mkdir(mode=0o700)
    try:
        assert [
            ("directory", True, f"the processes of the name {name} share {path}, which can be used")
        ] == said()
        path.chmod(0o777)
        ((_, ok, message),) = said()
        assert (False, True) == (
            ok,
            f"{path} (WSGI_PROM_NAME={name!r}) can be written by everybody" in message,
        )
    finally:
        path.rmdir()
    unused = f"WSGI_PROM_NAME={name!r} is not used, since PROMETHEUS_MULTIPROC_DIR names a directory"
    assert ("name", None, unused) == said(PROMETHEUS_MULTIPROC_DIR=str(tmp_path))[0]


def test_two_settings_with_similar_names_are_told_apart(check: Checker) -> None:
    """A value of WSGI_PROM_NAMES in WSGI_PROM_NAME is told, and a name in WSGI_PROM_NAMES: what is said names the other setting."""
    named = findings(check("--json", WSGI_PROM_NAME="otel"))["name"]
    assert (None, "set WSGI_PROM_NAMES=otel if that is meant") == (named["ok"], named["remedy"])
    assert named["message"].startswith("WSGI_PROM_NAME='otel' is the name by which processes meet")
    wrong = findings(check("--json", WSGI_PROM_NAMES="myapp"))["settings"]
    told = "WSGI_PROM_NAMES='myapp' is not prometheus or otel (the name by which processes meet is WSGI_PROM_NAME)."
    assert (False, told) == (wrong["ok"], wrong["message"])


def test_what_is_not_there_yet_is_all_right(tmp_path: Path) -> None:
    """A directory that a server will make, and an application that nobody named, are no problems."""
    done = checking.check("--json", PROMETHEUS_MULTIPROC_DIR=str(tmp_path / "run" / "metrics"))
    found = findings(done)
    assert done.returncode == 0
    assert f"the server makes {tmp_path}/run/metrics when it starts" == found["directory"]["message"]
    assert (None, "no application is named") == (found["application"]["ok"], found["application"]["message"])


@pytest.mark.parametrize("name", ["", "not-made-yet"])
def test_an_application_that_asks_for_the_directory_finds_one(name: str, tmp_path: Path) -> None:
    """
    An application that needs the directory at its import finds one, as in a server (prometheus-flask-exporter insists
    on it).
    """
    done = checking.check(
        "peer_flask:app", PEER_KIND="internal", PROMETHEUS_MULTIPROC_DIR=name and str(tmp_path / name)
    )
    assert (0, "") == (done.returncode, done.stderr)
    assert [] == list(tmp_path.iterdir())


def test_what_an_application_prints_is_no_part_of_the_answer(check: Checker, tmp_path: Path) -> None:
    """Output of the application does not get into the JSON on stdout."""
    (tmp_path / "talking.py").write_text("print('hello')\nfrom flask import Flask\napp = Flask('shop')\n")
    done = check("talking:app", "--json", cwd=tmp_path)
    assert (0, True) == (done.returncode, json.loads(done.stdout)["ok"])
    assert "hello\n" == done.stderr


@pytest.mark.parametrize("there", [True, False])
def test_nothing_is_made(there: bool, tmp_path: Path) -> None:
    """`check` leaves no file, lock or process, even if the application records at its import and is wrapped by hand."""
    folder, shared = tmp_path / "app", tmp_path / "shared"
    folder.mkdir()
    (folder / "own.py").write_text(
        "from prometheus_client import Counter\nfrom wsgi_prom import PrometheusMiddleware\nimport helper\n"
        "Counter('app_imports', 'Imports.').inc()\napp = PrometheusMiddleware(helper.app)\n"
    )
    (folder / "helper.py").write_text("from flask import Flask\napp = Flask('shop')\n")
    if there:
        shared.mkdir(mode=0o700)
    before = sorted(tmp_path.rglob("*"))
    done = checking.check("own:app", cwd=folder, PROMETHEUS_MULTIPROC_DIR=str(shared))
    assert (0, "") == (done.returncode, done.stderr)
    assert before == sorted(tmp_path.rglob("*"))


@pytest.mark.parametrize(
    "bind", ["127.0.0.1:{port}", "0.0.0.0:{port}", "localhost:{port}", "[::]:{port}", "unix:{path}"]
)
def test_an_address_in_use_is_told_with_the_process_that_has_it(
    check: Checker, bind: str, tmp_path: Path
) -> None:
    """
    If the address is in use, or covered by a wildcard address, `check` names the pid and command line of the process.
    """
    path = tmp_path / "metrics.sock"
    with socket.socket() as tcp, socket.socket(socket.AF_UNIX) as unix:
        tcp.bind(("127.0.0.1", 0))
        unix.bind(str(path))
        tcp.listen()
        unix.listen()
        address = bind.format(port=tcp.getsockname()[1], path=path)
        found = findings(done := check("--json", WSGI_PROM_BIND=address))["address"]
    assert (1, False) == (done.returncode, found["ok"])
    assert f"{address} is in use by pid {os.getpid()} ({live.command_line(os.getpid())})" == found["message"]
    assert "set WSGI_PROM_BIND to another address, or to off" == found["remedy"]


def test_the_same_port_of_another_address_is_free(check: Checker) -> None:
    """A process that uses the same port of another loopback address is no conflict."""
    with socket.socket() as tcp:
        tcp.bind(("127.0.0.1", 0))
        tcp.listen()
        address = f"127.0.0.2:{tcp.getsockname()[1]}"
        found = findings(check("--json", WSGI_PROM_BIND=address))["address"]
    assert (True, f"{address} is free") == (found["ok"], found["message"])


@pytest.mark.parametrize(
    ("bind", "told"),
    [
        (
            "a..b:9464",
            "nothing can listen on a..b:9464: 'a..b' has a label that is empty or too long",
        ),
        ("192.0.2.1:9464", "nothing can listen on 192.0.2.1:9464: Cannot assign requested address"),
        ("unix:/etc/hosts/metrics.sock", "/etc/hosts/metrics.sock: Not a directory"),
        (f"unix:/tmp/{'long' * 30}", f"/tmp/{'long' * 30}: AF_UNIX path too long"),
        ("unix:/nowhere/metrics.sock", "/nowhere is not a directory"),
        (f"unix:{live.ROOT}/LICENSE", f"{live.ROOT}/LICENSE exists and is not a socket"),
    ],
)
def test_an_address_that_nothing_can_listen_at_is_wrong(check: Checker, bind: str, told: str) -> None:
    """`check` reports an address at which no process on this machine can listen."""
    found = findings(done := check("--json", WSGI_PROM_BIND=bind))["address"]
    assert (1, False, told) == (done.returncode, found["ok"], found["message"])


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("from wsgi_prom.hooks.gunicorn import *\n1 / 0\n", None),
        ("import wsgi_prom.hooks.gunicorn as hook\npost_fork = hook.post_fork\n", None),
        ("no Python", None),
        ("workers = 4  # not wsgi_prom.hooks.gunicorn\n1 / 0\n", "gunicorn.conf.py does not load it: "),
        (None, "this directory has no gunicorn.conf.py that loads it: "),
    ],
)
def test_a_hook_that_nothing_loads_is_asked_about(
    check: Checker, text: str | None, told: str | None, tmp_path: Path
) -> None:
    """
    `check` shows the missing line if the server's configuration, which it reads without executing it, does not load the
    hook.
    """
    if text is not None:
        (tmp_path / "gunicorn.conf.py").write_text(text)
    found = findings(done := check("--json", cwd=tmp_path)).get("hook")
    assert (0, told is not None) == (done.returncode, found is not None)
    if told and found:
        assert (None, True) == (found["ok"], found["message"].startswith(told))
        assert "wsgi_prom.hooks.gunicorn" in found["remedy"]


def test_an_application_that_is_wrapped_by_hand_needs_no_hook(check: Checker, tmp_path: Path) -> None:
    """`check` does not mention the hook if the application is wrapped by hand."""
    (tmp_path / "byhand.py").write_text(
        "import wsgi_prom, plain\napp = wsgi_prom.PrometheusMiddleware(plain.app)\n"
    )
    done = check("byhand:app", "--json", cwd=tmp_path, path=(live.ROOT, live.APPS))
    assert "hook" not in findings(done)


def test_an_exporter_that_is_open_to_all_is_asked_about(check: Checker) -> None:
    """An exporter open to all networks is no error, but `check` asks about it unless it is protected."""
    found = findings(done := check("--json", WSGI_PROM_BIND="0.0.0.0:0"))
    protected = findings(check("--json", WSGI_PROM_BIND="0.0.0.0:0", WSGI_PROM_ALLOW="10.0.0.0/8"))
    assert (0, None) == (done.returncode, found["access"]["ok"])
    assert "every client that connects can read the metrics" in found["access"]["message"]
    assert found["access"]["remedy"].startswith("set WSGI_PROM_TOKEN_FILE, or WSGI_PROM_WEB_CONFIG ")
    assert "access" not in protected


@pytest.mark.parametrize(
    ("name", "ok", "told"),
    [
        ("asgi", False, "application='shapes:asgi': is an ASGI application."),
        ("create", False, "application='shapes:create': does not take environ and start_response"),
        ("configured", None, "shapes:configured looks like a factory, which is called once"),
        ("Shop", False, "shapes:Shop looks like a factory, which is called once"),
        ("Response", True, "shapes:Response, no known framework"),
        ("either", True, "shapes:either, no known framework"),
        ("create()", True, "shapes:create(), Flask"),
    ],
)
def test_what_is_no_application_is_told_by_its_signature(
    check: Checker, name: str, ok: bool | None, told: str, tmp_path: Path
) -> None:
    """
    `check` recognises ASGI applications, factories that were not called and classes, but accepts PEP 3333's class whose
    objects are responses.
    """
    (tmp_path / "shapes.py").write_text(
        "from flask import Flask\n"
        "async def asgi(scope, receive, send): ...\n"
        "def create(): return Flask('shop')\n"
        "def configured(config=None, debug=False): return Flask('shop')\n"
        "def either(*args): ...\n"
        "class Shop:\n    def __init__(self): ...\n    def __call__(self, environ, start_response): ...\n"
        "class Response:\n    def __init__(self, environ, start_response): ...\n    def __iter__(self): ...\n"
    )
    found = findings(done := check(f"shapes:{name}", "--json", cwd=tmp_path))["application"]
    assert (int(ok is False), ok) == (done.returncode, found["ok"])
    assert found["message"].startswith(told)


@pytest.mark.parametrize(
    ("around", "expected"),
    [
        ("lambda environ, start: inner(dict(environ), start)", "ok     routes: Flask's are seen"),
        ("lambda environ, start: inner({k: v for k, v in environ.items() if 'prom' not in k}, start)",
         "WRONG  routes: all are 'unmatched'"),
        ("lambda environ, start: [start('302 Found', []), b''][1:]", "?      routes: Flask's are seen if middleware"),
    ],
)  # fmt: skip
def test_flasks_routes_are_looked_for_through_all_that_is_around_it(
    around: str, expected: str, tmp_path: Path
) -> None:
    """`check` sends a request through all middleware that ends before it reaches a function of the application."""
    (tmp_path / "around.py").write_text(
        "from flask import Flask\n"
        "app = Flask('shop')\n"
        "@app.before_request\n"
        "def before(): print('CALLED')\n"
        "@app.get('/')\n"
        "def index(): print('CALLED')\n"
        "inner = app.wsgi_app\n"
        f"app.wsgi_app = {around}\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "wsgi_prom", "check", "around:app"],
        cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert expected in done.stdout
    assert "CALLED" not in done.stdout + done.stderr


def test_a_missing_psutil_is_told_with_what_installs_it(tmp_path: Path) -> None:
    """Without psutil `check` says which metrics are missing, which is no mistake; without an exporter it says nothing of it."""
    (tmp_path / "psutil.py").write_text("raise ImportError('psutil is not installed')\n")
    path = (tmp_path, live.ROOT)
    found = findings(checking.check("plain:app", "--json", path=path))["processes"]
    assert (None, "pip install 'wsgi-prom[processes]'") == (found["ok"], found["remedy"])
    assert "no process_* metrics" in found["message"]
    assert "processes" not in findings(checking.check("plain:app", "--json", path=path, WSGI_PROM_BIND="off"))


def test_where_targets_are_registered_is_checked(check: Checker, tmp_path: Path) -> None:
    """`check` says whether this user can write the file of targets, and whether etcd takes one, and leaves nothing in either."""
    (tmp_path / "data").mkdir()
    with etcds.etcd(tmp_path / "data") as etcd:
        url = etcd.url("shop")
        right = check("--json", WSGI_PROM_SD=f"file:{tmp_path / 'shop.json'},{url}")
        left = etcd.targets("shop")
    wrong = check("--json", WSGI_PROM_SD=f"file:{tmp_path / 'missing' / 'shop.json'}")
    gone = findings(check("--json", WSGI_PROM_SD=url))["targets"]
    messages = [
        finding["message"]
        for finding in json.loads(right.stdout)["findings"]
        if finding["subject"] == "targets"
    ]
    assert ([f"this user can write {tmp_path / 'shop.json'}", f"{url} takes targets"], []) == (messages, left)
    assert f"{tmp_path / 'missing'} is not a directory" == findings(wrong)["targets"]["message"]
    assert (False, True) == (
        gone["ok"],
        gone["message"].startswith(f"WSGI_PROM_SD={url!r}: etcd does not answer"),
    )
    assert ["data"] == os.listdir(tmp_path)


def test_a_missing_package_for_etcd_is_told_with_what_installs_it(tmp_path: Path) -> None:
    """Without the extra, `check` says what to install."""
    (tmp_path / "etcd3gw.py").write_text("raise ImportError('not installed', name='etcd3gw')\n")
    found = findings(checking.check("--json", path=(tmp_path, live.ROOT), WSGI_PROM_SD="etcd://a:1/b"))[
        "targets"
    ]
    told = (
        "WSGI_PROM_SD='etcd://a:1/b' needs etcd3gw, which is not installed. Run pip install 'wsgi-prom[etcd]'"
    )
    assert (False, told) == (found["ok"], found["message"])
