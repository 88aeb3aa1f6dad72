"""The Django application that all others of Django's measure: one route with a parameter."""

from __future__ import annotations

from typing import Any

import django
from django.conf import settings
from django.core.wsgi import get_wsgi_application
from django.http import HttpResponse
from django.urls import path


def application(*middleware: str, apps: tuple[str, ...] = ()) -> Any:
    if not settings.configured:
        settings.configure(
            ALLOWED_HOSTS=["*"],
            INSTALLED_APPS=apps,
            ROOT_URLCONF=__name__,
            SECRET_KEY="of no use to anybody",
        )
        django.setup()
    # A handler reads it when it is made: another one may have others in the same process.
    settings.MIDDLEWARE = middleware
    return get_wsgi_application()


def user(_request: Any, number: int) -> HttpResponse:
    return HttpResponse(f"user {number}")


urlpatterns = [path("users/<int:number>", user)]
