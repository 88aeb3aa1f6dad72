"""The metrics as WSGI applications, on WebOb: one that answers with the page, and the exporter with its paths."""

from __future__ import annotations

import gzip
import threading
from typing import TYPE_CHECKING, Final

from prometheus_client import REGISTRY
from webob import Request, Response
from webob.acceptparse import create_accept_header

from wsgi_prom.errors import DirectoryError
from wsgi_prom.exporter.exposition import OPENMETRICS, TEXT, Names, render
from wsgi_prom.exporter.introspection import own_metrics
from wsgi_prom.storage.collector import Collector
from wsgi_prom.storage.lease import lease

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from _typeshed.wsgi import StartResponse, WSGIEnvironment
    from prometheus_client.metrics_core import Metric
    from prometheus_client.registry import CollectorRegistry

# Text first: it wins where a client takes anything (`*/*`), such as curl and a browser.
_OFFERS: Final = {
    "text/plain;version=0.0.4": TEXT,
    "text/plain": TEXT,
    "application/openmetrics-text;version=1.0.0": OPENMETRICS,
    "application/openmetrics-text": OPENMETRICS,
}
# Parameters that Prometheus sends and that do not choose between our formats: we escape names by underscores,
# which is what is meant where nothing else is agreed.
_IGNORED_PARAMETERS: Final = frozenset({"charset", "escaping"})


class MetricsApp:
    """
    Answer every path with the metrics: of all processes that share the directory, or of this one if none is shared.

    *directory* is the shared one, by default the one that the process records into. *registry* holds the metrics of
    this process, which are shown only where no directory is shared. Thread and fork safe.
    """

    def __init__(self, directory: Path | None = None, registry: CollectorRegistry = REGISTRY) -> None:
        self._directory = directory
        self._registry = registry
        self._lock = threading.Lock()
        self._collector: tuple[Path | None, Collector] | None = None

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        return self.respond(Request(environ))(environ, start_response)

    def respond(self, request: Request) -> Response:
        if request.method not in {"GET", "HEAD"}:
            return _plain(405, "Only GET and HEAD are answered here.\n", Allow="GET, HEAD")
        try:
            names = Names(request.GET.getall("name[]"))
        except UnicodeDecodeError:
            return _plain(400, "The query string is not UTF-8.\n")
        content_type = _negotiate(request)
        try:
            page = self._page(openmetrics=content_type == OPENMETRICS, names=names)
        except DirectoryError as error:
            return _plain(503, f"{error}\n")
        response = Response(body=page.encode())
        response.headers["Content-Type"] = content_type
        response.vary = ("Accept", "Accept-Encoding")
        if "Accept-Encoding" in request.headers:
            offers = request.accept_encoding.acceptable_offers(["gzip", "identity"])
            if offers and offers[0][0] == "gzip":
                response.body = gzip.compress(response.body, mtime=0)
                response.content_encoding = "gzip"
        return response

    def _page(self, *, openmetrics: bool, names: Names) -> str:
        path = self._directory or lease.directory
        # One at a time: the collector's families are brought up to date in place.
        with self._lock:
            if self._collector is None or self._collector[0] != path:
                self._collector = path, Collector(path)
            collector = self._collector[1]
            families = collector.collect()
            own: Iterable[Metric] = (
                self._registry.collect() if path is None else own_metrics(collector.report)
            )
            return render(families, own, openmetrics=openmetrics, names=names)


class ExporterApp:
    """The exporter's paths: `/metrics`, `/-/healthy` (it answers) and `/-/ready` (it can read the directory)."""

    def __init__(self, metrics: MetricsApp) -> None:
        self._metrics = metrics

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        return self._respond(Request(environ))(environ, start_response)

    def _respond(self, request: Request) -> Response:
        path = request.environ.get("PATH_INFO", "")
        if path == "/metrics":
            return self._metrics.respond(request)
        if path not in {"/-/healthy", "/-/ready"}:
            return _plain(404, "There are /metrics, /-/healthy and /-/ready.\n")
        if request.method not in {"GET", "HEAD"}:
            return _plain(405, "Only GET and HEAD are answered here.\n", Allow="GET, HEAD")
        if path == "/-/ready":
            answer = self._metrics.respond(Request.blank("/metrics"))
            return _plain(200, "ready\n") if answer.status_code == 200 else answer
        return _plain(200, "healthy\n")


def _negotiate(request: Request) -> str:
    """Choose the format by the Accept header, by quality and not by order; text where nothing fits."""
    header = request.headers.get("Accept")
    try:
        ranges = create_accept_header(header).parsed or ()
        kept = [
            ";".join(
                [kind.split(";")[0]]
                + [f"{name}={value}" for name, value in parameters if name not in _IGNORED_PARAMETERS]
                + [f"q={quality}"]
            )
            for kind, quality, parameters, _ in ranges
        ]
    except ValueError:
        kept = []
    found = create_accept_header(", ".join(kept) if kept else None).acceptable_offers(list(_OFFERS))
    return _OFFERS[found[0][0]] if found else TEXT


def _plain(status: int, text: str, **headers: str) -> Response:
    response = Response(status=status, body=text.encode(), content_type="text/plain", charset="utf-8")
    response.headers.update(list(headers.items()))
    return response
