"""One model, set up as django-prometheus' README says."""

from __future__ import annotations

from django.db import models
from django_prometheus.models import ExportModelOperationsMixin


class Order(ExportModelOperationsMixin("order"), models.Model):  # type: ignore[misc]
    class Meta:
        app_label = "peer_models"

    def __str__(self) -> str:
        return "an order"
