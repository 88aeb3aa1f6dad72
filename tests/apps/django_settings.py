"""A Django project in one module, wrapped by hand; `python -m django check --settings django_settings`."""

from __future__ import annotations

from django.core.wsgi import get_wsgi_application
from django.http import HttpRequest, HttpResponse
from django.urls import path
from prometheus_client import Counter

from wsgi_prom import PrometheusMiddleware

SECRET_KEY = "of a test"
ROOT_URLCONF = __name__
WSGI_APPLICATION = f"{__name__}.application"
ALLOWED_HOSTS = ["*"]

ORDERS = Counter("app_orders_total", "Orders taken.")


def index(_request: HttpRequest) -> HttpResponse:
    return HttpResponse("ok")


urlpatterns = [path("", index)]


def lazy(environ, start_response):
    # Django's application imports this module for its settings: it is made at the first request.
    return get_wsgi_application()(environ, start_response)


application = PrometheusMiddleware(lazy)
