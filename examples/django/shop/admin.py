"""The models in Django's admin, whose routes are measured like any others."""

from __future__ import annotations

from django.contrib import admin

from shop.models import Order, Product

admin.site.register(Order)
admin.site.register(Product, list_display=("name", "price", "stock"))
