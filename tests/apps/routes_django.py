"""Django, with the adapter: a project in one module; run as `routes_django:app`."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from django.conf import settings
from django.core.exceptions import PermissionDenied
from django.core.handlers.wsgi import WSGIHandler
from django.http import Http404, HttpResponse, StreamingHttpResponse
from django.urls import include, path, re_path
from django.views import View

from wsgi_prom import set_route

if TYPE_CHECKING:
    from collections.abc import Callable

REQUESTS = {
    ("GET", "/"): ("/", 200),
    ("HEAD", "/"): ("/", 200),
    ("GET", "/users/1/"): ("/users/<int:user_id>/", 200),
    ("GET", "/users/2/"): ("/users/<int:user_id>/", 200),
    ("GET", "/users/0/"): ("/users/<int:user_id>/", 404),
    ("GET", "/api/v1/orders/7/"): (r"/api/v1/orders/(?P<number>\d+)/", 200),
    ("GET", "/api/v1/orders/7/lines/1/"): (r"/api/v1/orders/(?P<number>\d+)/lines/<int:line>/", 200),
    ("GET", "/legacy/7"): (r"/legacy/(\d+)", 200),
    ("GET", "/price$"): (r"/price\$", 200),
    ("GET", "/caf%C3%A9/x/"): ("/caf\u00e9/<name>/", 200),
    ("GET", "/page/"): ("/page/", 200),
    # Refused by the view, which is a class.
    ("POST", "/page/"): ("/page/", 405),
    ("GET", "/stream/"): ("/stream/", 200),
    ("GET", "/async/"): ("/async/", 200),
    ("GET", "/denied/"): ("/denied/", 403),
    ("GET", "/fail/"): ("/fail/", 500),
    # Refused by a later middleware, which has looked at the view.
    ("GET", "/users/1/?refuse=view"): ("/users/<int:user_id>/", 403),
    ("GET", "/users/1/?refuse=early"): ("unmatched", 403),
    # The slash is appended by a redirect.
    ("GET", "/users/1"): ("unmatched", 301),
    ("GET", "/users/ann/"): ("unmatched", 404),
    ("GET", "/none"): ("unmatched", 404),
}

ADAPTER = "wsgi_prom.frameworks.django.RouteMiddleware"


class Refuse:
    """A middleware in whose power it is to answer before the view does."""

    def __init__(self, get_response: Callable[[Any], Any]) -> None:
        self.get_response = get_response

    def __call__(self, request: Any) -> Any:
        if request.GET.get("refuse") == "early":
            return HttpResponse(status=403)
        return self.get_response(request)

    def process_view(self, request: Any, *_view: Any) -> Any:
        return HttpResponse(status=403) if request.GET.get("refuse") == "view" else None


def async_only(get_response: Callable[[Any], Any]) -> Callable[[Any], Any]:
    async def middleware(request: Any) -> Any:
        return await get_response(request)

    return middleware


async_only.sync_capable = False  # type: ignore[attr-defined]
async_only.async_capable = True  # type: ignore[attr-defined]


class Page(View):
    def get(self, _request: Any) -> HttpResponse:
        return HttpResponse("ok")


def index(_request: Any, *_args: Any, **_kwargs: Any) -> HttpResponse:
    return HttpResponse("ok")


def user(_request: Any, user_id: int) -> HttpResponse:
    if not user_id:
        raise Http404
    return HttpResponse(str(user_id))


def stream(_request: Any) -> StreamingHttpResponse:
    return StreamingHttpResponse(iter([b"a", b"b"]))


async def slow(_request: Any) -> HttpResponse:
    await asyncio.sleep(0)
    return HttpResponse("ok")


def named(request: Any, name: str) -> HttpResponse:
    set_route(request.environ, "/named/<name>")
    return HttpResponse(name)


def denied(_request: Any) -> HttpResponse:
    raise PermissionDenied


def fail(_request: Any) -> HttpResponse:
    raise ValueError("asked to fail")


orders = [re_path("^$", index), path("lines/<int:line>/", index)]
urlpatterns = [
    path("", index),
    path("users/<int:user_id>/", user),
    path("api/v1/", include([re_path(r"^orders/(?P<number>\d+)/", include(orders))])),
    re_path(r"^legacy/(\d+)$", index),
    re_path(r"^price\$", index),
    path("caf\u00e9/<name>/", index),
    re_path(r"^page/\Z", Page.as_view()),
    path("stream/", stream),
    path("async/", slow),
    path("denied/", denied),
    path("fail/", fail),
    path("named/<name>/", named),
]


def make(*, adapter: bool = True, more: tuple[str, ...] = (), **changes: Any) -> WSGIHandler:
    if not settings.configured:
        settings.configure(SECRET_KEY="of a test", ROOT_URLCONF=__name__, ALLOWED_HOSTS=["*"])
    first = [ADAPTER] if adapter else []
    settings.MIDDLEWARE = [*first, *more, "django.middleware.common.CommonMiddleware", f"{__name__}.Refuse"]
    for name, value in changes.items():
        setattr(settings, name, value)
    import django

    django.setup()
    return WSGIHandler()


app = make()
