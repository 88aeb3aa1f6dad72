"""The exporter's page for people, in a real browser on a real server, and its JSON."""

from __future__ import annotations

import gc
import json
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import TYPE_CHECKING, Any

import browsers
import clients
import exporters
import live
import pytest
import servers
from webob import Request

from wsgi_prom import MetricsApp
from wsgi_prom.exporter.app import ExporterApp
from wsgi_prom.exporter.live_page import LivePage
from wsgi_prom.live.figures import Figures
from wsgi_prom.live.text import UNKNOWN
from wsgi_prom.live.view import View
from wsgi_prom.server.workers import WorkerState
from wsgi_prom.store import directory

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from selenium.webdriver import Chrome
    from webob import Response

AXE = live.ROOT / ".venv" / "npm" / "node_modules" / "axe-core" / "axe.min.js"
# In each place that a text from outside has on the page.
HOSTILE = "</td></tr></script><script>document.title='hit'</script><img src=x onerror=\"document.title='hit'\">'\"&amp;"


@pytest.fixture(scope="module")
def browser() -> Iterator[Chrome]:
    with browsers.chromium() as driver:
        yield driver


@pytest.fixture
def chrome(browser: Chrome) -> Chrome:
    """The browser, which has left the page of the former test: that page asks an exporter that has ended."""
    browser.get("about:blank")
    browsers.messages(browser)
    browser.get_log("performance")
    return browser


@pytest.fixture(scope="module")
def server() -> Iterator[live.LiveServer]:
    with live.gunicorn(workers=2) as found:
        live.drive(found.url, ["/"] * 20 + ["/fail"] * 2)
        yield found


@pytest.fixture
def page(chrome: Chrome, server: live.LiveServer) -> Chrome:
    """The page of the server, in a window of the usual size."""
    chrome.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    chrome.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
    chrome.get(home(server))
    return chrome


def home(server: live.LiveServer) -> str:
    return server.metrics_url.removesuffix("metrics")


def rows(driver: Chrome, table: str) -> list[list[str]]:
    """Return the texts of a table's rows."""
    script = f"return [...document.querySelectorAll('#{table}-rows tr')].map(row => [...row.cells].map(cell => cell.textContent))"
    return driver.execute_script(script)  # type: ignore[no-any-return]


def text(driver: Chrome, selector: str) -> str:
    return driver.execute_script(f"return document.querySelector('{selector}').textContent")  # type: ignore[no-any-return]


def focused(driver: Chrome) -> str:
    return driver.execute_script("return document.activeElement.id || document.activeElement.tagName")  # type: ignore[no-any-return]


def asked(driver: Chrome) -> list[str]:
    """Return what the browser has asked for since the last call."""
    found = [json.loads(entry["message"])["message"] for entry in driver.get_log("performance")]
    return [
        message["params"]["request"]["url"]
        for message in found
        if message["method"] == "Network.requestWillBeSent"
    ]


def test_its_figures_are_those_of_a_scrape(page: Chrome, server: live.LiveServer) -> None:
    """Under load it shows rates and lines without a reload; then the counts of routes, workers and queue are /metrics'."""
    page.execute_script("window.stays = true")
    with clients.steadily(server.url, ("/", "/stream")):
        rates = live.eventually(
            lambda: {row[0]: row[1] for row in rows(page, "routes")},
            lambda found: found.get("GET /stream", UNKNOWN) not in {UNKNOWN, "0"},
        )
        assert {"GET /", "GET /fail", "GET /stream"} == set(rates)
        drawn = "return [...document.querySelectorAll('svg path')].filter(path => path.getAttribute('d').includes('L')).length"
        assert live.eventually(lambda: page.execute_script(drawn), lambda lines: lines >= 5) >= 5
    samples = live.eventually(
        server.samples, lambda found: servers.value(found, "wsgi_workers", state="idle") == 2
    )
    counted: dict[str, float] = {}
    for (route, _), count in servers.requests_counted(samples).items():
        counted[f"GET {route}"] = counted.get(f"GET {route}", 0) + count
    expected = {route: f"{count:,.0f}" for route, count in counted.items()}
    assert expected == live.latest(
        lambda: {row[0]: row[-1] for row in rows(page, "routes")}, lambda found: found == expected
    )
    found = live.labelled(samples, "wsgi_worker_requests_total")
    workers = {dict(labels)["worker"]: f"{count:,.0f}" for labels, count in found.items()}
    shown = {row[0]: row[8] for row in rows(page, "workers")}
    assert {**workers, **dict.fromkeys(("exporter", "supervisor", "master"), UNKNOWN)} == shown
    (queue,) = live.labelled(samples, "wsgi_listen_queue_limit").items()
    assert [[dict(queue[0])["socket"], "0", f"{queue[1]:,.0f}", "0"]] == rows(page, "queues")
    assert ("plain:app 0.1.0", True) == (text(page, "h1"), page.execute_script("return window.stays"))
    assert [] == browsers.messages(page)
    assert {home(server)} == {url for url in asked(page) if not url.startswith("data:")}


@pytest.mark.parametrize("look", ["light", "dark", "phone"])
def test_it_is_accessible(look: str, page: Chrome) -> None:
    """axe-core finds nothing wrong, in light and dark mode and on a phone, where no table makes the page wider."""
    if not AXE.exists():
        raise FileNotFoundError(2, "No such file or directory", "axe-core")
    if look == "dark":
        dark = [{"name": "prefers-color-scheme", "value": "dark"}]
        page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": dark})
    if look == "phone":
        size = {"width": 360, "height": 740, "deviceScaleFactor": 2, "mobile": True}
        page.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    page.execute_script("document.querySelector('details').open = true")
    page.execute_script(AXE.read_text())
    found = page.execute_async_script(
        "const done = arguments[0]; axe.run(document, {resultTypes: ['violations']}).then(done)"
    )
    assert [] == [(rule["id"], [node["html"] for node in rule["nodes"]]) for rule in found["violations"]]
    assert len(found["passes"]) > 20
    assert page.execute_script("return document.documentElement.scrollWidth <= window.innerWidth")


def test_it_tells_what_is_no_page(page: Chrome) -> None:
    """When something else answers in the exporter's place, such as a proxy's page for a login, the page says so."""
    page.execute_script("window.fetch = async () => new Response('<p>Log in.</p>')")
    told = live.eventually(lambda: text(page, "#problem"), bool)
    assert told.startswith("Something else than the exporter answers. The figures are those of before;")


def test_it_is_used_by_keyboard(page: Chrome) -> None:
    """Enter on a heading sorts, and again the other way round; the focus stays there over the next figures; a button pauses."""
    from selenium.webdriver.common.keys import Keys

    def sort() -> str | None:
        return page.execute_script("return document.getElementById('routes-count').closest('th').ariaSort")  # type: ignore[no-any-return]

    page.execute_script("window.stays = true; document.getElementById('routes-count').focus()")
    states = []
    for expected in ("descending", "ascending"):
        page.switch_to.active_element.send_keys(Keys.ENTER)
        states.append(live.latest(sort, lambda found, expected=expected: found == expected))
    assert ["descending", "ascending"] == states
    counts = [int(row[-1].replace(",", "")) for row in rows(page, "routes")]
    assert sorted(counts) == counts
    period = text(page, "#period")
    assert period != live.eventually(lambda: text(page, "#period"), lambda found: found != period)
    assert ("routes-count", True) == (focused(page), page.execute_script("return window.stays"))
    assert page.current_url.endswith("?routes=-count")
    page.execute_script("document.querySelector('#controls button').focus()")
    page.switch_to.active_element.send_keys(Keys.SPACE)
    assert "true" == page.switch_to.active_element.get_attribute("aria-pressed")
    live.latest(lambda: None, lambda _: False, 1.2)
    period = text(page, "#period")
    assert period == live.latest(lambda: text(page, "#period"), lambda found: found != period, 2.5)


def test_it_is_complete_without_its_script(page: Chrome, server: live.LiveServer) -> None:
    """Where scripts are off, its tables and figures are there, a link brings later ones, and headings sort."""
    page.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        page.get(home(server))
        from selenium.webdriver.common.by import By

        link = page.find_element(By.LINK_TEXT, "Update")
        assert ["GET /", "GET /fail"] == sorted(
            cell.text
            for cell in page.find_elements(By.CSS_SELECTOR, "#routes-rows th")
            if "stream" not in cell.text
        )
        link.click()
        page.find_element(By.LINK_TEXT, "Route").click()
        assert page.current_url.endswith("?routes=route")
        assert "ascending" == page.find_element(By.CSS_SELECTOR, "#routes-head th").get_attribute("aria-sort")
        assert 4 == len(page.find_elements(By.CSS_SELECTOR, "svg"))
    finally:
        page.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})


FILL = """
import sys
from prometheus_client import Counter, Histogram
from wsgi_prom.client import patch
patch.install()
text = sys.argv[1]
Counter("http_requests", text, ["method", "route", "status"]).labels(text, text, "500").inc()
Histogram("http_request_duration_seconds", text, ["method", "route"]).labels(text, text).observe(60)
"""


def test_hostile_labels_are_text(tmp_path: Path, chrome: Chrome) -> None:
    """Markup in a route, a method, a help text and the application's name is shown as it is, and nothing of it runs."""
    shared = tmp_path / "shared"
    shared.mkdir(mode=0o700)
    environ = live.environment({"PROMETHEUS_MULTIPROC_DIR": str(shared)}, runtime=live.ROOT)
    subprocess.run([sys.executable, "-c", FILL, HOSTILE], env=environ, check=True, timeout=60)
    command = [*exporters.command(shared), "--application", HOSTILE]
    with live.LiveServer(command, ready=(exporters.LISTENING, 1)) as server:
        chrome.get(home(server) + "?routes=%22%3E%3Cscript%3E")
        (row,) = rows(chrome, "routes")
        assert [f"{HOSTILE} {HOSTILE}", "> 10 s", "1"] == [row[0], row[4], row[6]]
        assert HOSTILE == text(chrome, "h1")
        assert f"{HOSTILE} {UNKNOWN} wsgi_prom" == chrome.title
        assert HOSTILE in text(chrome, "details")
        assert [0, 1, 0] == [
            chrome.execute_script(f"return document.querySelectorAll('{tag}').length")
            for tag in ("img", "script", "td td")
        ]
        # No server, no queue, no worker: nothing is said of them, and nothing is 0.
        assert [["Not known."], ["exporter"]] == [rows(chrome, "queues")[0], rows(chrome, "workers")[0][:1]]
        figures = "return [...document.querySelectorAll('.figure')].map(figure => figure.textContent)"
        assert ["> 10 s", UNKNOWN, UNKNOWN] == chrome.execute_script(figures)[1:]
        assert [] == browsers.messages(chrome)
        server.stop()
        told = live.eventually(lambda: text(chrome, "#problem"), bool)
    assert (
        "The exporter does not answer. The figures are those of before; the page tries again each second."
        == told
    )


def test_a_password_opens_it(tmp_path: Path, chrome: Chrome) -> None:
    """With users, the browser that was let in goes on to get later figures; without a password there is nothing."""
    import bcrypt

    hashed = bcrypt.hashpw(b"right", bcrypt.gensalt(4)).decode()
    (tmp_path / "web.yml").write_text(f"basic_auth_users:\n  ann: {hashed}\n")
    with exporters.serve(tmp_path / "shared", WSGI_PROM_WEB_CONFIG=str(tmp_path / "web.yml")) as server:
        refused = [live.request(home(server) + path).status for path in ("", "live")]
        chrome.get(home(server).replace("//", "//ann:right@"))
        period = text(chrome, "#period")
        later = live.eventually(lambda: text(chrome, "#period"), lambda found: found != period)
        problem = live.eventually(lambda: text(chrome, "#problem"), lambda found: not found)
        command = [
            sys.executable,
            "-m",
            "wsgi_prom",
            "top",
            "--once",
            "--json",
            "--url",
            server.metrics_url,
            "--user",
            "ann",
        ]
        command += ["--password-file", str(tmp_path / "password")]
        found = []
        for password in ("right", "wrong"):
            (tmp_path / "password").write_text(password)
            (tmp_path / "password").chmod(0o600)
            found.append(
                subprocess.run(
                    command, cwd=live.ROOT, capture_output=True, text=True, timeout=60, check=False
                )
            )
        done, wrong = found
    assert ([401, 401], "") == (refused, problem)
    assert "Rates and quantiles are of the last" in later
    assert 1 == json.loads(done.stdout)["version"]
    address = home(server).rstrip("/")
    assert f"wsgi_prom: {address}/live answers 401: A token or a password is needed.\n" == wrong.stderr


@pytest.fixture
def app(tmp_path: Path) -> ExporterApp:
    directory.prepare(tmp_path / "shared")
    return ExporterApp(MetricsApp(tmp_path / "shared"))


def ask(app: ExporterApp, path: str, **options: Any) -> Any:
    return Request.blank(path, **options).get_response(app)


@pytest.mark.parametrize(
    ("path", "accept", "kind"),
    [("/", None, "text/html"), ("/", "*/*", "text/html"), ("/", "application/json", "application/json"), ("/live", None, "application/json"),
     ("/live", "*/*", "application/json"), ("/live", "text/html,application/xhtml+xml,*/*;q=0.8", "text/html"), ("/live", "image/png", "application/json"),
     ("/live", "\xff;;", "application/json")],
)  # fmt: skip
def test_the_accept_header_chooses(path: str, accept: str | None, kind: str, app: ExporterApp) -> None:
    """A browser gets the page, and others the JSON, at either path."""
    headers = {} if accept is None else {"Accept": accept}
    found = ask(app, path, headers=headers)
    assert (200, kind) == (found.status_code, found.content_type)
    assert "no-store" == found.headers["Cache-Control"]


def test_the_policy_allows_nothing_but_the_page(app: ExporterApp) -> None:
    """The browser may run the page's own script and style, by their hashes, and connect to the exporter, and nothing else."""
    policy = dict(part.split(" ", 1) for part in ask(app, "/").headers["Content-Security-Policy"].split("; "))
    assert {"script-src", "style-src"} == {
        name for name, value in policy.items() if value.startswith("'sha256-")
    }
    assert {"default-src", "base-uri", "form-action", "frame-ancestors"} == {
        name for name, value in policy.items() if value == "'none'"
    }
    assert {"img-src": "data:", "connect-src": "'self'"} == {
        name: policy[name] for name in ("img-src", "connect-src")
    }
    assert "unsafe" not in str(policy)


def test_other_requests_are_refused(app: ExporterApp, tmp_path: Path) -> None:
    """Another method is 405, a query that is not UTF-8 is 400, and a directory that cannot be read 503; HEAD has no body."""
    assert [405, 405, 400, 200] == [
        ask(app, path, method=method).status_code
        for path, method in (("/", "POST"), ("/live", "PUT"), ("/?routes=%ff", "GET"), ("/", "HEAD"))
    ]
    assert 503 == ask(ExporterApp(MetricsApp(tmp_path / "gone")), "/").status_code


def test_nobody_pays_for_what_nobody_looks_at() -> None:
    """An exporter imports what makes the page when somebody looks for the first time."""
    code = """
import sys
from wsgi_prom import MetricsApp
from wsgi_prom.exporter.app import ExporterApp
from webob import Request
app = ExporterApp(MetricsApp())
for path in ("/metrics", "/"):
    Request.blank(path).get_response(app)
    print(sorted({name.split(".")[1] for name in sys.modules if name.startswith("wsgi_prom.live")}))
"""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        cwd=live.ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert ["[]", "['live']"] == done.stdout.splitlines()


def test_a_compressed_page_is_the_same(app: ExporterApp) -> None:
    """Clients that take gzip get it."""
    found = ask(app, "/", headers={"Accept-Encoding": "gzip"})
    assert "gzip" == found.content_encoding
    found.decode_content()
    assert "What is measured" in found.text


def test_a_thousand_routes(tmp_path: Path) -> None:
    """Of a thousand routes the page shows the first hundred in the chosen order, and the JSON has all."""
    shared = tmp_path / "shared"
    exporters.fill_routes(shared, 1000)
    app = ExporterApp(MetricsApp(shared))
    found = ask(app, "/?routes=count").text
    assert "Routes, the first 100 of 1,000" in found
    assert [True, False] == [f'<th scope="row">GET /00{number}</th>' in found for number in (900, 899)]
    assert 1000 == len(ask(app, "/live").json["routes"])


def test_those_who_look_leave_threads_to_others() -> None:
    """While a page is made, those who come get the last one; of those who have none, one waits, and others try again."""
    entered, go_on = threading.Semaphore(0), threading.Semaphore(1)

    def read() -> Figures:
        entered.release()
        assert go_on.acquire(timeout=60)
        return Figures(time.monotonic(), time.time())

    page = LivePage(read, ())

    def look(accept: str = "application/json") -> Response:
        request = Request.blank("/live", headers={"Accept": accept})
        return page.respond(request, json_by_default=True, gzipped=False)

    first = look()
    assert entered.acquire(timeout=60)
    live.latest(lambda: None, lambda _: False, 1.0)
    with ThreadPoolExecutor(3) as pool:
        making = pool.submit(look)
        assert entered.acquire(timeout=60)
        others = [pool.submit(look, "text/html") for _ in range(2)]
        refused = next(as_completed(others, timeout=60)).result()
        kept = look()
        go_on.release(10)
    assert (503, "1", "1") == (
        refused.status_code,
        refused.headers["Retry-After"],
        refused.headers["Refresh"],
    )
    assert (first.body, True) == (kept.body, first.body != making.result().body)
    assert [200, 503] == sorted(other.result().status_code for other in others)


def test_many_workers_and_any_order() -> None:
    """Of a thousand workers the page has the first hundred; an order that there is not is none."""
    states = {str(number): WorkerState(str(number), "idle", 1, 0, ()) for number in range(1000)}
    page = LivePage(lambda: Figures(time.monotonic(), time.time(), states=states), ())

    def look(query: str) -> str:
        request = Request.blank(f"/?{query}")
        return page.respond(request, json_by_default=False, gzipped=False).text

    assert "Workers, the first 100 of 1,000" in look("")
    assert look("") == look("workers=nonsense&routes=--count")


def test_pages_of_before_keep_no_figures() -> None:
    """Pages that were made of former readings are kept for a while as bytes, and not the figures of each."""
    page = LivePage(lambda: Figures(time.monotonic(), 6e9 + time.monotonic()), ())
    for order in ("", "?routes=rate", "?routes=time"):
        page.respond(Request.blank(f"/{order}"), json_by_default=False, gzipped=False)
        live.latest(lambda: None, lambda _: False, 1.0)
    gc.collect()
    views = [found for found in gc.get_objects() if isinstance(found, View) and found.time > 6e9]
    assert 1 == len(views)
