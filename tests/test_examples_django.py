"""examples/django, booted as its reader boots it, under both servers, and scraped."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlencode

import live
import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

EXAMPLE = live.ROOT / "examples" / "django"
WORKERS = 3
SERVERS = ["gunicorn", "uwsgi"]

# Each request, how often, and what it is counted as.
TRAFFIC = [
    ("GET", "/", 20, "/", "200"),
    ("GET", "/products/1/", 12, "/products/<int:pk>/", "200"),
    ("GET", "/products/2/", 6, "/products/<int:pk>/", "200"),
    ("GET", "/products/99/", 3, "/products/<int:pk>/", "404"),
    ("GET", "/p1", 4, r"/p(?P<pk>\d+)", "302"),
    ("GET", "/export/", 7, "/export/", "200"),
    ("GET", "/fail/", 5, "/fail/", "500"),
    ("POST", "/products/1/order/", 8, "/products/<int:pk>/order/", "201"),
    ("POST", "/products/3/order/", 2, "/products/<int:pk>/order/", "409"),
    ("GET", "/products/1/order/", 1, "/products/<int:pk>/order/", "405"),
    ("GET", "/products/1", 5, "unmatched", "301"),
    ("GET", "/none/", 3, "unmatched", "404"),
    ("GET", "/admin/", 2, "/admin/", "302"),
    ("GET", "/admin/none/", 2, "/admin/(?P<url>.*)", "302"),
]


class Project:
    """A copy of the example on a port that is free, with a database of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "django"
        self.database = folder / "shop.sqlite3"
        self.env = {"SHOP_DATABASE": str(self.database), "DJANGO_SUPERUSER_PASSWORD": "open"}
        shutil.copytree(EXAMPLE, self.folder, ignore=shutil.ignore_patterns("__pycache__"))
        for name in ("gunicorn.conf.py", "uwsgi.ini"):
            text = (self.folder / name).read_text()
            assert 1 == text.count("127.0.0.1:8041")
            (self.folder / name).write_text(text.replace("127.0.0.1:8041", "127.0.0.1:0"))

    def run(self, *command: str, code: int = 0) -> str:
        environ = live.environment(self.env, runtime=self.folder)
        done = subprocess.run(
            [sys.executable, *command],
            cwd=self.folder,
            env=environ,
            capture_output=True,
            text=True,
            timeout=live.START_SECONDS * 4,
            check=False,
        )
        assert (code, "") == (done.returncode, done.stderr)
        return done.stdout

    def serve(self, server: str) -> live.LiveServer:
        if server == "gunicorn":
            ready, address = (r"Booting worker with pid", WORKERS), live.GUNICORN_LINE
            command = [live.BIN / "gunicorn"]
        else:
            ready, address = (r"spawned uWSGI worker \d+", WORKERS), live.UWSGI_LINE
            command = [live.BIN / "uwsgi", "--ini", "uwsgi.ini"]
        return live.LiveServer(command, cwd=self.folder, env=self.env, ready=ready, address=address)


@pytest.fixture(scope="module")
def database() -> Iterator[Path]:
    """
    The database that the commands of the README make, and a superuser, Ann.
    """
    with tempfile.TemporaryDirectory(prefix="django-") as folder:
        made = Project(Path(folder))
        made.run("manage.py", "migrate")
        made.run("manage.py", "loaddata", "products")
        made.run("manage.py", "createsuperuser", "--noinput", "--username", "ann", "--email", "a@example.org")
        yield made.database


@pytest.fixture
def project(database: Path) -> Iterator[Project]:
    with tempfile.TemporaryDirectory(prefix="django-") as folder:
        made = Project(Path(folder))
        shutil.copy(database, made.database)
        yield made


def by_route(samples: live.Samples, name: str = "http_requests_total") -> Counter[tuple[str, str, str]]:
    found: Counter[tuple[str, str, str]] = Counter()
    for labels, value in live.labelled(samples, name).items():
        by_name = dict(labels)
        found[by_name["method"], by_name["route"], by_name.get("status", "")] += int(value)
    return found


@pytest.mark.parametrize("server", SERVERS)
def test_every_request_is_counted_under_its_url_pattern(server: str, project: Project) -> None:
    """Over three workers, one scrape: exact counts by method, route and status, and the shop's own orders."""
    expected: Counter[tuple[str, str, str]] = Counter()
    with project.serve(server) as running:
        # In turns, so that each worker has some of each.
        for turn in range(max(times for _, _, times, _, _ in TRAFFIC)):
            for method, path, times, route, status in TRAFFIC:
                if turn < times:
                    assert (path, int(status)) == (path, running.get(path, method=method).status)
                    expected[method, route, status] += 1
        assert expected == live.eventually(lambda: by_route(running.samples()), expected.__eq__)
        samples = running.samples()
        running.stop()
        assert [] == running.leftovers
    orders = live.labelled(samples, "shop_orders_total")
    assert {("outcome", "accepted"): 8, ("outcome", "sold out"): 2} == {
        label: value for labels, value in orders.items() for label in labels
    }
    # What the database says.
    count = "from shop.models import Order, Product; print(Order.objects.count(), Product.objects.get(pk=1).stock)"
    assert "8 92" == project.run("manage.py", "shell", "--no-imports", "-c", count).splitlines()[-1]
    observed = by_route(samples, "http_request_duration_seconds_count")
    assert observed == Counter(
        {key: sum(n for (*found, _), n in expected.items() if (*found, "") == key) for key in observed}
    )
    assert {frozenset(): 0.0} == live.labelled(samples, "http_requests_in_progress")


@pytest.mark.parametrize("server", SERVERS)
def test_the_admin_is_measured_by_its_own_patterns(server: str, project: Project) -> None:
    """A login, a list and a change of an object in the admin, each under the pattern of the admin's URLconf."""
    with project.serve(server) as running:
        page = running.get("/admin/login/")
        token = page.headers["Set-Cookie"].split(";")[0]
        form = re.search(rb'name="csrfmiddlewaretoken" value="(\w+)"', page.body)
        assert form is not None
        fields = {"username": "ann", "password": "open", "csrfmiddlewaretoken": form[1].decode()}
        headers = {"Cookie": token, "Content-Type": "application/x-www-form-urlencoded"}
        answer = running.get(
            "/admin/login/?next=/admin/", method="POST", headers=headers, body=urlencode(fields).encode()
        )
        cookies = "; ".join(value.split(";")[0] for value in answer.headers.get_all("Set-Cookie", []))
        for path in (
            "/admin/shop/product/",
            "/admin/shop/product/1/change/",
            "/admin/shop/product/2/change/",
        ):
            assert (path, 200) == (path, running.get(path, headers={"Cookie": cookies}).status)
        expected = {
            ("GET", "/admin/login/", "200"): 1,
            ("POST", "/admin/login/", "302"): 1,
            ("GET", "/admin/shop/product/", "200"): 1,
            ("GET", "/admin/shop/product/<path:object_id>/change/", "200"): 2,
        }
        assert expected == live.eventually(lambda: by_route(running.samples()), expected.__eq__)


def test_the_table_of_the_readme_is_what_is_counted() -> None:
    """Each line of the table is one of the requests that are tested here."""
    rows = re.findall(
        r"^\| `(/[^`]*)`[^|]*\| `([^`]+)` \| (\d+) \|$", (EXAMPLE / "README.md").read_text(), re.MULTILINE
    )
    admin = ("/admin/shop/product/1/change/", "/admin/shop/product/<path:object_id>/change/", "200")
    counted = [(path, route, status) for method, path, _, route, status in TRAFFIC if method == "GET"]
    assert 8 == len(rows)
    assert set() == set(rows) - {*counted, admin}


def test_check_says_what_the_adapter_does(project: Project) -> None:
    """wsgi-prom check is content with the project, and is not without the line in its settings."""
    assert "Django's are seen" in project.run("-m", "wsgi_prom", "check", "shop.wsgi:application")
    settings = project.folder / "shop" / "settings.py"
    without = [line for line in settings.read_text().splitlines() if "RouteMiddleware" not in line]
    settings.write_text("\n".join(without))
    told = project.run("-m", "wsgi_prom", "check", "shop.wsgi:application", code=1)
    assert 'MIDDLEWARE += ["wsgi_prom.frameworks.django.RouteMiddleware"]' in told
