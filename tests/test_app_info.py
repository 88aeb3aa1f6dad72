"""Which application the workers serve, and of which version."""

from __future__ import annotations

import json
import os
import platform
import signal
import sys
import threading
from importlib import metadata
from types import ModuleType
from typing import TYPE_CHECKING, Any

import live
import pytest
import servers
from test_workers import states

from wsgi_prom.server.app_info import version_of

if TYPE_CHECKING:
    from pathlib import Path

MODULE = "import plain\napp = plain.app\n"
NAME = "wsgi_app_info"


def install(folder: Path, version: str, *, record: bool = True, name: str = "shop-app") -> None:
    """Make *folder* hold the distribution *name*, whose module is `shop`, as pip would, or as Debian without a *record*."""
    folder.mkdir(exist_ok=True)
    package = folder / "shop"
    package.mkdir(exist_ok=True)
    (package / "__init__.py").touch()
    (package / "web.py").write_text(MODULE)
    for other in folder.glob("*.dist-info"):
        other.rename(folder / f"{name}-{version}.dist-info")
    info = folder / f"{name}-{version}.dist-info"
    info.mkdir(exist_ok=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    (info / "top_level.txt").write_text("shop\n")
    if record:
        (info / "RECORD").write_text("shop/__init__.py,,\nshop/web.py,,\n")


def told(server: live.LiveServer) -> list[dict[str, str]]:
    return [dict(labels) for labels in live.labelled(server.samples(), NAME)]


def expected(app: str, version: str, framework: str = "") -> dict[str, str]:
    # Of the parser's samples: an empty label is one that is not there.
    return {"app": app, "version": version, "python": platform.python_version(), "framework": framework}


# Of these, the one imports the application in the worker, the other in the master.
@pytest.mark.parametrize("name", servers.BOTH)
def test_the_version_is_that_of_the_distribution(name: str, tmp_path: Path) -> None:
    """The module's distribution gives the version, whatever its name, and all workers together show one series."""
    install(tmp_path / "site", "2.5")
    with servers.start(
        name, app="shop.web:app", workers=2, PYTHONPATH=f"{tmp_path / 'site'}:{live.APPS}"
    ) as server:
        live.eventually(lambda: states(server).get("idle"), lambda idle: idle == 2)
        found = told(server)
    assert [expected("shop.web:app", "2.5")] == found


def test_a_setting_names_the_version_and_the_framework_is_found() -> None:
    """WSGI_PROM_APP_VERSION wins, and the framework that the application imports is told with its version."""
    with servers.start(
        "gunicorn sync", app="routes_flask:app", workers=1, WSGI_PROM_APP_VERSION="2026-11-28.1"
    ) as server:
        live.eventually(lambda: states(server).get("idle"), lambda idle: idle == 1)
        found = told(server)
    assert [expected("routes_flask:app", "2026-11-28.1", f"flask/{metadata.version('flask')}")] == found


def test_both_versions_are_told_while_a_reload_lasts(tmp_path: Path) -> None:
    """While an old worker finishes its request both versions are shown, and then only that of the workers that live."""
    site = tmp_path / "site"
    install(site, "1.0")
    with servers.start(
        "gunicorn sync", app="shop.web:app", workers=1, PYTHONPATH=f"{site}:{live.APPS}"
    ) as server:
        live.eventually(lambda: states(server).get("idle"), lambda idle: idle == 1)
        thread = threading.Thread(target=server.get, args=("/sleep?s=8",))
        thread.start()
        live.eventually(lambda: states(server)["busy"], lambda busy: busy == 1)
        install(site, "2.0")
        before = told(server)
        os.kill(server.pid, signal.SIGHUP)
        during = live.eventually(lambda: told(server), lambda found: len(found) > 1)
        thread.join()
        after = live.eventually(lambda: told(server), lambda found: len(found) == 1)
    old, new = (expected("shop.web:app", version) for version in ("1.0", "2.0"))
    assert ([old], [new]) == (before, after)
    assert [old, new] == sorted(during, key=lambda labels: labels["version"])


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of distributions from which this process has imported `shop.web`."""
    folder = tmp_path / "site packages"
    monkeypatch.syspath_prepend(folder)
    module: Any = ModuleType("shop.web")
    module.__file__ = str(folder / "shop" / "web.py")
    monkeypatch.setitem(sys.modules, "shop.web", module)
    return folder


def test_a_distribution_without_a_list_of_files(site: Path) -> None:
    """Debian's packages have none: there the names of its modules tell."""
    install(site, "3.0", record=False)
    assert "3.0" == version_of("shop.web")


def test_a_distribution_that_has_the_name_of_the_module_and_not_its_file(site: Path) -> None:
    """A distribution that happens to have the module's name is not taken for its own."""
    install(site, "1.0", name="shop")
    (site / "shop-1.0.dist-info" / "RECORD").write_text("shop/other.py,,\n")
    assert "" == version_of("shop.web")


def test_a_project_that_is_installed_in_place(site: Path, tmp_path: Path) -> None:
    """Of projects that are installed with -e, the innermost one around the module's file gives the version."""
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    sys.path.append(str(folder))
    for name, project, editable in (
        ("outer", tmp_path, True),
        ("inner", site, True),
        ("not", site / "shop", False),
    ):
        info = folder / f"{name}-{len(name)}.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Name: {name}\nVersion: {len(name)}.0\n")
        origin = {"url": project.as_uri(), "dir_info": {"editable": True} if editable else {}}
        (info / "direct_url.json").write_text(json.dumps(origin))
    try:
        (folder / "inner-5.0.dist-info" / "METADATA").write_text("Name: inner\nVersion: 6.0\n")
        found = version_of("shop.web")
    finally:
        sys.path.remove(str(folder))
    assert "6.0" == found


@pytest.mark.parametrize("module", ["shop.web", "nowhere", "", "/srv/app.py", "sys"])
def test_a_module_of_no_distribution_has_no_version(module: str, site: Path) -> None:
    """A module that is in no distribution, not imported, or no module at all, has no version."""
    assert site
    assert "" == version_of(module)
