"""A Django project with django-prometheus, set up as its README says, and nothing else; run as `peer_django:app`."""

from __future__ import annotations

import os
from typing import Any

from django.conf import settings
from django.core.cache import caches
from django.core.handlers.wsgi import WSGIHandler
from django.db import DatabaseError, connection
from django.http import HttpRequest, HttpResponse, StreamingHttpResponse
from django.template.response import TemplateResponse
from django.urls import include, path
from prometheus_client import REGISTRY

FOLDER = os.environ["PEER_FOLDER"]

settings.configure(
    SECRET_KEY="of a test",
    ROOT_URLCONF=__name__,
    ALLOWED_HOSTS=["*"],
    INSTALLED_APPS=["django.contrib.contenttypes", "django_prometheus", "peer_models"],
    DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
    TEMPLATES=[
        {
            "BACKEND": "django.template.backends.django.DjangoTemplates",
            "OPTIONS": {"loaders": [("django.template.loaders.locmem.Loader", {"peer.html": "ok"})]},
        }
    ],
    MIDDLEWARE=[
        "django_prometheus.middleware.PrometheusBeforeMiddleware",
        "django_prometheus.middleware.PrometheusAfterMiddleware",
    ],
    DATABASES={
        "default": {
            "ENGINE": "django_prometheus.db.backends.sqlite3",
            "NAME": f"{FOLDER}/peer.sqlite3",
            "OPTIONS": {"transaction_mode": "IMMEDIATE", "timeout": 30},
        }
    },
    CACHES={
        "default": {"BACKEND": "django_prometheus.cache.backends.locmem.LocMemCache"},
        "shared": {
            "BACKEND": "django_prometheus.cache.backends.filebased.FileBasedCache",
            "LOCATION": f"{FOLDER}/cache",
        },
    },
    # At each worker's start; off where statements are counted.
    PROMETHEUS_EXPORT_MIGRATIONS="PEER_MIGRATIONS" in os.environ,
)


def index(_request: HttpRequest) -> HttpResponse:
    return HttpResponse("ok")


def query(_request: HttpRequest) -> HttpResponse:
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1")
        cursor.execute("SELECT 2")
        cursor.executemany("DELETE FROM django_content_type WHERE id = %s", [(1,), (2,), (3,)])
    return HttpResponse("ok")


def wrong_query(_request: HttpRequest) -> HttpResponse:
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT nothing FROM nowhere")
    except DatabaseError:
        return HttpResponse("as expected")
    raise AssertionError


def cache(_request: HttpRequest) -> HttpResponse:
    for alias, name in (("default", "own"), ("shared", "shared")):
        caches[alias].set(name, 1)
        caches[alias].get(name)
        caches[alias].get(name)
        caches[alias].get("absent")
    return HttpResponse("ok")


def template(request: HttpRequest) -> TemplateResponse:
    return TemplateResponse(request, "peer.html")


def stream(_request: HttpRequest) -> StreamingHttpResponse:
    return StreamingHttpResponse([b"a", b"b"])


def fail(_request: HttpRequest) -> HttpResponse:
    raise ValueError("asked to fail")


def model(_request: HttpRequest) -> HttpResponse:
    from peer_models.models import Order

    order = Order.objects.create()
    order.save()
    order.delete()
    return HttpResponse("ok")


def names(_request: HttpRequest) -> HttpResponse:
    """Tell the metrics of this worker that have samples, as the client library's own page of one process names them."""
    found = [metric for metric in REGISTRY.collect() if metric.name.startswith("django") and metric.samples]
    return HttpResponse(
        "\n".join(f"{metric.name}_total" if metric.type == "counter" else metric.name for metric in found)
    )


urlpatterns: list[Any] = [
    path("", index),
    path("query/", query),
    path("wrong/", wrong_query),
    path("cache/", cache),
    path("template/", template),
    path("stream/", stream),
    path("fail/", fail),
    path("model/", model),
    path("names/", names),
    path("", include("django_prometheus.urls")),
]

import django  # noqa: E402

django.setup()
app = WSGIHandler()
