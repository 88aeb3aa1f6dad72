"""
The metrics as WSGI applications: one that answers every path with the page, and the exporter with its paths.

A client chooses format, compression and filter by the headers Accept and Accept-Encoding and by `name[]` in the query.
"""

from __future__ import annotations

import os
import threading
import time
from dataclasses import replace
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING, Final

from prometheus_client import REGISTRY

from wsgi_prom.errors import DirectoryError
from wsgi_prom.exporter import formats
from wsgi_prom.exporter.access import Access
from wsgi_prom.exporter.page_cache import Pages
from wsgi_prom.exporter.responses import (
    ARRIVAL,
    Request,
    Response,
    create_accept_encoding_header,
    json_page,
    plain,
    set_body,
)
from wsgi_prom.exporter.scrapes import Scrapes, certificate
from wsgi_prom.exporter.target import Target
from wsgi_prom.server.source import LONGEST
from wsgi_prom.settings import Settings
from wsgi_prom.store.current_slot import current_slot
from wsgi_prom.store.worker_ports import own_slot

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from pathlib import Path

    from _typeshed.wsgi import StartResponse, WSGIEnvironment
    from prometheus_client.metrics_core import Metric
    from prometheus_client.registry import CollectorRegistry

    from wsgi_prom.exporter.live_page import LivePage
    from wsgi_prom.live.figures import Figures

# Prometheus 3.0 sends 280 characters. A longer header is treated as missing.
_LONGEST_HEADER: Final = 2000

# Seconds. Scrapes of the whole page share it, scrapes with name[] cannot: 900 of them at once delayed a scrape of the whole
# page by 16 to 60 s. A scrape with name[] that has waited for longer than this is refused, which bounds the queue.
_LONGEST_WAIT: Final = 1.0

# Seconds before a scraper's timeout at which its page is made of what there is.
_MARGIN: Final = 0.5


class MetricsApp:
    """
    Answer every path with the metrics: of all processes that share a directory, or of this one if none is shared.

    *directory* is the shared one, by default the one that the process records into. *registry* holds the metrics of
    this process, shown only if no directory is shared. *settings*, by default those of the environment, say who may read
    the metrics: WSGI_PROM_ALLOW, WSGI_PROM_TOKEN_FILE, and the users of WSGI_PROM_WEB_CONFIG. The rest of that file is
    for the exporter: here the application's own server sets TLS, headers and limits. *target* says whose metrics they
    are. With *own* they are those of this process alone, if it shares a directory. Raises SettingError. Thread and fork safe.
    """

    def __init__(
        self,
        directory: Path | None = None,
        registry: CollectorRegistry = REGISTRY,
        settings: Settings | None = None,
        target: Target | None = None,
        *,
        own: bool = False,
    ) -> None:
        settings = Settings.read() if settings is None else settings
        self.access = Access(settings)
        self._target = target or Target(settings.app or "")
        self._directory = directory
        self._registry = registry
        self._own = own
        # By directory, process and slot: in a forked child, a thread that only the parent has may hold the pages' lock.
        self._pages: dict[tuple[Path | None, int, int | None], Pages] = {}

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        request = Request(environ)
        if self.access.admits(environ.get("REMOTE_ADDR", "")):
            response = self.access.refusal(request) or self.respond(request)
        else:
            response = plain(403, "Clients of this address are not answered.\n")
        return response(environ, start_response)

    def respond(self, request: Request, more_metrics: Callable[[], Iterable[Metric]] = tuple) -> Response:
        """
        Return the page for *request*, whoever sent it, with the metrics that *more_metrics* returns when the page is made.
        """
        arrival = request.environ.get(ARRIVAL, time.monotonic())
        wrong_method = _wrong_method(request)
        if wrong_method is not None:
            return wrong_method
        try:
            names = frozenset(request.GET.getall("name[]"))
        except UnicodeDecodeError:
            return plain(400, "The query string is not UTF-8.\n")
        if names and time.monotonic() - arrival > _LONGEST_WAIT:
            return plain(503, "Too many scrapes with name[] at once.\n", ("Retry-After", "1"))
        chosen = formats.preferred(_short(request, "Accept"))
        try:
            page = self._current().page(
                arrival,
                openmetrics=chosen.openmetrics,
                escaping=chosen.escaping,
                names=names,
                deadline=_deadline(request, arrival),
                more_metrics=more_metrics,
            )
        except (DirectoryError, OSError) as error:
            return plain(503, f"{error}\n")
        response = Response()
        response.headers["Content-Type"] = chosen.content_type
        response.vary = ("Accept", "Accept-Encoding")
        content = page.content
        if _wants_gzip(request):
            content = page.compressed
            response.content_encoding = "gzip"
        set_body(response, request, content)
        return response

    def figures(self) -> Figures:
        """Return what a person is shown of now. Raises DirectoryError."""
        return self._current().figures(time.monotonic())

    def watch_server(self) -> None:
        """Show the server's processes, and watch what a scrape alone would miss, in threads: in the exporter, once."""
        pages = self._current()
        if pages.path is not None:
            pages.sources.watch(pages.path)

    def ready(self) -> Response:
        """Tell whether the directory can be read, without a collection: a probe may come at any rate."""
        path = self._directory or current_slot.directory
        try:
            if path is not None:
                os.listdir(path)
        except OSError as error:
            return plain(
                503,
                f"{path} cannot be read: {error.strerror}. Counters are those of the last scrape that could read it.\n",
            )
        return plain(200, "ready\n")

    def _current(self) -> Pages:
        directory, slot, target = self._directory or current_slot.directory, None, self._target
        if self._own and directory is not None:
            found = own_slot()
            if found is None:
                raise DirectoryError(
                    "This process has no slot in the shared directory, and keeps its metrics in memory."
                )
            directory, slot = found
            target = replace(target, slot=str(slot))
        key = directory, os.getpid(), slot
        pages = self._pages.get(key)
        # setdefault: threads that come at once get the same object.
        return pages or self._pages.setdefault(key, Pages(directory, self._registry, target, slot))


class ExporterApp:
    """
    The exporter's paths: `/` and `/live` for people, `/metrics`, `/-/healthy` (it answers) and `/-/ready` (it can read the
    directory).

    `/-/healthy` needs no token or password, which many supervisors cannot send: it shows no metric and costs nothing. *pages*
    are others by path, each with a function that returns its JSON. *collectors* return more metrics for each page of them.
    """

    def __init__(
        self,
        metrics: MetricsApp,
        pages: Mapping[str, Callable[[], object]] | None = None,
        collectors: Iterable[Callable[[], Iterable[Metric]]] = (),
    ) -> None:
        self._metrics = metrics
        self._scrapes = Scrapes()
        self._json = dict(pages or {})
        self._collectors = tuple(collectors)
        self._live: LivePage | None = None
        self._live_lock = threading.Lock()

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        request = Request(environ)
        answer = partial(self._answer, request)
        response = self._scrapes.answer(answer) if environ.get("PATH_INFO") == "/metrics" else answer()
        return response(environ, start_response)

    def _answer(self, request: Request) -> Response:
        web = self._metrics.access.web
        healthy = request.environ.get("PATH_INFO") == "/-/healthy"
        if web and web.rate_limit and not healthy and not web.rate_limit.allow():
            response = plain(429, "More requests than rate_limit allows.\n", ("Retry-After", "1"))
        else:
            response = self._respond(request)
        for name, value in web.headers.items() if web else ():
            # The page for people has a policy of its own, which forbids more, and lets its own script run.
            response.headers.setdefault(name, value)
        return response

    def _respond(self, request: Request) -> Response:
        path, metrics = request.environ.get("PATH_INFO", ""), self._metrics
        if path == "/metrics":
            return metrics.access.refusal(request) or metrics.respond(request, self._own_metrics)
        if path in {"/", "/live"}:
            return metrics.access.refusal(request) or _wrong_method(request) or self._people(request, path)
        if path == "/-/ready":
            return metrics.access.refusal(request) or _wrong_method(request) or metrics.ready()
        if path == "/-/healthy":
            return _wrong_method(request) or plain(200, "healthy\n")
        if path in self._json:
            return metrics.access.refusal(request) or _wrong_method(request) or json_page(self._json[path])
        others = "".join(f"{path}, " for path in self._json)
        return plain(404, f"There are /, /live, /metrics, {others}/-/healthy and /-/ready.\n")

    def _people(self, request: Request, path: str) -> Response:
        with self._live_lock:
            if self._live is None:
                from wsgi_prom.exporter.live_page import LivePage  # noqa: PLC0415 - 25 ms and 2 MB, once somebody looks

                links = {"metrics": "Metrics", "-/healthy": "Health", "-/ready": "Readiness"}
                links |= {path.removeprefix("/"): path for path in self._json}
                self._live = LivePage(self._metrics.figures, links.items())
        try:
            return self._live.respond(request, json_by_default=path == "/live", gzipped=_wants_gzip(request))
        except UnicodeDecodeError:
            return plain(400, "The query string is not UTF-8.\n")

    def _own_metrics(self) -> list[Metric]:
        web = self._metrics.access.web
        expiry = web.tls.expiry if web and web.tls else None
        asked = chain.from_iterable(collect() for collect in self._collectors)
        return [*self._scrapes.families(), *certificate(expiry), *asked]


def _wrong_method(request: Request) -> Response | None:
    """Return the response to a *request* of another method than GET and HEAD, None to these."""
    if request.method in {"GET", "HEAD"}:
        return None
    return plain(405, "Only GET and HEAD are answered here.\n", ("Allow", "GET, HEAD"))


def _wants_gzip(request: Request) -> bool:
    header = _short(request, "Accept-Encoding") or "identity"
    offers = create_accept_encoding_header(header).acceptable_offers(["gzip", "identity"])
    return bool(offers) and offers[0][0] == "gzip"


def _deadline(request: Request, arrival: float) -> float | None:
    """Return until when *request*, which came at *arrival*, can wait for a source of the page; None if it does not say."""
    try:
        timeout = float(_short(request, "X-Prometheus-Scrape-Timeout-Seconds"))
    except ValueError:
        return None
    if not timeout > 0:
        return None
    timeout = min(timeout, LONGEST)
    # As blackbox_exporter: what is left is for the page and its way.
    return arrival + max(timeout - _MARGIN, timeout / 2)


def _short(request: Request, name: str) -> str:
    header: str = request.headers.get(name, "")
    return header if len(header) <= _LONGEST_HEADER else ""
