"""The labels of a request to a framework's application, which is served in this process."""

from __future__ import annotations

import importlib
import sys
from collections import Counter
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote_to_bytes, urlsplit
from wsgiref.util import setup_testing_defaults
from wsgiref.validate import validator

import live

from wsgi_prom import PrometheusMiddleware
from wsgi_prom.merge.collector import Collector

if TYPE_CHECKING:
    from collections.abc import Iterable
    from types import ModuleType

Route = tuple[str, int]


def environ_of(method: str, target: str, **more: Any) -> dict[str, Any]:
    parts = urlsplit(target)
    environ: dict[str, Any] = {
        "REQUEST_METHOD": method,
        "SERVER_PROTOCOL": "HTTP/1.1",
        "SCRIPT_NAME": "",
        "PATH_INFO": unquote_to_bytes(parts.path).decode("latin-1"),
        "QUERY_STRING": parts.query,
        "CONTENT_LENGTH": "0",
        **more,
    }
    setup_testing_defaults(environ)
    return environ


def counted() -> Counter[Route]:
    """Return what this process has counted, by route and status."""
    found: Counter[Route] = Counter()
    for family in Collector(None).collect():
        for (name, labels), value in zip(family.samples, family.values, strict=True):
            if name == "http_requests_total":
                by_name = dict(labels)
                found[by_name["route"], int(by_name["status"])] += int(value)
    return found


def label(app: Any, environ: dict[str, Any], *, validate: bool = True) -> Route:
    """Serve one request as a server does, and return the labels that it was counted with."""
    before = counted()
    measured = PrometheusMiddleware(validator(app) if validate else app)
    try:
        result = (validator(measured) if validate else measured)(environ, lambda *_: lambda _data: None)
        try:
            b"".join(result)
        finally:
            if hasattr(result, "close"):
                result.close()
    except ValueError as error:
        # Which frameworks let pass, and what Pyramid makes of a path that is not UTF-8.
        assert str(error) == "asked to fail" or "can't decode" in str(error)
    ((route, times),) = (counted() - before).items()
    assert times == 1
    return route


def application(name: str) -> ModuleType:
    sys.path.insert(0, str(live.APPS))
    return importlib.import_module(name)


def labels(app: Any, requests: Iterable[tuple[str, str]]) -> dict[tuple[str, str], Route]:
    return {(method, target): label(app, environ_of(method, target)) for method, target in requests}


def by_status(samples: live.Samples) -> Counter[Route]:
    """Return what a scrape says was counted, by route and status."""
    found: Counter[Route] = Counter()
    for labelled, value in live.labelled(samples, "http_requests_total").items():
        by_name = dict(labelled)
        found[by_name["route"], int(by_name["status"])] += int(value)
    return found
