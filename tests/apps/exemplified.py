"""An application with an Info and exemplars of its own, set at the import and by requests."""

from __future__ import annotations

from typing import TYPE_CHECKING

from plain import query, text
from prometheus_client import Counter, Histogram, Info

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIEnvironment

BUILD = Info("shop_build", "What was deployed.")
BUILD.info({"version": "1"})
PART = Info("shop_part", "What a part is.", ["part"])
ORDERS = Counter("shop_orders", "Orders.")
PAID = Histogram("shop_paid", "What was paid.", buckets=(1, 10))


def app(environ: WSGIEnvironment, start_response: StartResponse) -> list[bytes]:
    environ["wsgi_prom.route"] = environ["PATH_INFO"]
    given = query(environ)
    if "version" in given:
        BUILD.info(given)
        PART.labels("a").info(given)
    if "order" in given:
        ORDERS.inc(exemplar={"order": given["order"]})
        PAID.observe(float(given["paid"]), {"order": given["order"]})
    return text(start_response, "ok")
