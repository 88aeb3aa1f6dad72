"""The views: nothing in here knows how, or whether, it is measured."""

from __future__ import annotations

from typing import TYPE_CHECKING

from django.db import transaction
from django.db.models import F
from django.http import HttpRequest, HttpResponse, JsonResponse, StreamingHttpResponse
from django.shortcuts import get_object_or_404
from django.views import View
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_POST
from prometheus_client import Counter

from shop.models import Order, Product

if TYPE_CHECKING:
    from collections.abc import Iterator

# The application's own metrics are plain prometheus_client, added up over all workers.
ORDERS = Counter("shop_orders_total", "Orders, by whether the product was there.", ["outcome"])


def index(_request: HttpRequest) -> JsonResponse:
    return JsonResponse({product.pk: product.name for product in Product.objects.all()})


class ProductView(View):
    def get(self, _request: HttpRequest, pk: int) -> JsonResponse:
        product = get_object_or_404(Product, pk=pk)
        return JsonResponse({"name": product.name, "price": str(product.price), "stock": product.stock})


@csrf_exempt
@require_POST
def order(_request: HttpRequest, pk: int) -> HttpResponse:
    with transaction.atomic():
        product = get_object_or_404(Product, pk=pk)
        if not Product.objects.filter(pk=pk, stock__gt=0).update(stock=F("stock") - 1):
            ORDERS.labels("sold out").inc()
            return HttpResponse("sold out\n", status=409)
        Order.objects.create(product=product)
    ORDERS.labels("accepted").inc()
    return HttpResponse("thank you\n", status=201)


def export(_request: HttpRequest) -> StreamingHttpResponse:
    def lines() -> Iterator[str]:
        # Read while it is sent: the view has returned long before.
        for product in Product.objects.iterator(chunk_size=100):
            yield f"{product.pk},{product.name},{product.price}\n"

    return StreamingHttpResponse(lines(), content_type="text/csv")


def fail(_request: HttpRequest) -> HttpResponse:
    raise RuntimeError("asked to fail")
