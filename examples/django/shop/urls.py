"""The URL patterns, which become the `route` label: `/products/<int:pk>/`."""

from __future__ import annotations

from django.contrib import admin
from django.urls import include, path, re_path
from django.views.generic import RedirectView

from shop import views

products = [
    path("", views.ProductView.as_view(), name="product"),
    path("order/", views.order),
]

urlpatterns = [
    path("", views.index),
    path("products/<int:pk>/", include(products)),
    # The shop's address of a product was another once.
    re_path(r"^p(?P<pk>\d+)$", RedirectView.as_view(pattern_name="product")),
    path("export/", views.export),
    path("fail/", views.fail),
    path("admin/", admin.site.urls),
]
