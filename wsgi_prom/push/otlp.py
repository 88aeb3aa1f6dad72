"""
OTLP over HTTP, in protobuf: https://opentelemetry.io/docs/specs/otlp/.

1. The resource's attributes say whose metrics these are, by OpenTelemetry's own rules and variables.
2. Points that a receiver rejects are lost, and never sent again. If it is away, the rest of the reading is lost.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import unquote, urlsplit

from wsgi_prom import version
from wsgi_prom.push.attempts import retried, send_each
from wsgi_prom.push.endpoint import Endpoint, require
from wsgi_prom.push.sender import PushError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from threading import Event

    from wsgi_prom.push.login import Login
    from wsgi_prom.push.reading import Reading

log = logging.getLogger("wsgi_prom")

_HEADERS: Final = {"Content-Type": "application/x-protobuf"}
_EXPECTS: Final = "a receiver of OTLP over HTTP, such as http://HOST:4318"
# Answers after which the specification lets a client try again.
_TRY_LATER: Final = frozenset({429, 502, 503, 504})


def resource(
    environ: Mapping[str, str], given: Mapping[str, str], otherwise: Mapping[str, str]
) -> dict[str, str]:
    """
    Return the resource's attributes: *given*, of OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES in *environ*, and *otherwise*.

    What comes first here wins. Attributes that cannot be read are left out, all of them, and logged: OpenTelemetry's rule.
    """
    found = dict(otherwise)
    listed = environ.get("OTEL_RESOURCE_ATTRIBUTES", "")
    pairs = [pair.partition("=") for pair in listed.split(",") if pair.strip()]
    if all(name.strip() and equals for name, equals, _ in pairs):
        found |= {unquote(name.strip()): unquote(value.strip()) for name, _, value in pairs}
    else:
        log.warning("OTEL_RESOURCE_ATTRIBUTES=%r is ignored. Give a list of NAME=VALUE", listed)
    if environ.get("OTEL_SERVICE_NAME"):
        found["service.name"] = environ["OTEL_SERVICE_NAME"]
    return {**found, **given}


class Otlp:
    """The receiver at *url*; *attributes* are the resource's. It is tried for *seconds*. Raises SettingError."""

    name = "otlp"

    def __init__(self, url: str, login: Login, attributes: Mapping[str, str], seconds: float) -> None:
        require("--otlp", "otlp", "opentelemetry.proto.metrics.v1.metrics_pb2", "tenacity", "urllib3")
        self._endpoint = Endpoint("--otlp", url, login, _EXPECTS)
        whole = urlsplit(url).path not in {"", "/"}
        self._url = url if whole else f"{url.rstrip('/')}/v1/metrics"
        self._attributes = dict(attributes)
        self._seconds = seconds

    @property
    def where(self) -> str:
        return self._endpoint.where

    def lost(self, reading: Reading) -> int:
        """See `Receiver`."""
        return reading.size

    def send(self, reading: Reading, ended: Event) -> None:
        """See `Receiver`."""
        from wsgi_prom.push.otlp_metrics import batches

        deadline = time.monotonic() + self._seconds
        send_each(batches(reading), lambda metrics: self._post(metrics, deadline, ended))

    def _post(self, metrics: list[Any], deadline: float, ended: Event) -> None:
        from google.protobuf.message import DecodeError
        from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2 as service

        request = service.ExportMetricsServiceRequest()
        resource = request.resource_metrics.add()
        for name, value in self._attributes.items():
            resource.resource.attributes.add(key=name).value.string_value = value
        scope = resource.scope_metrics.add()
        scope.scope.name, scope.scope.version = "wsgi_prom", version.installed()
        scope.metrics.extend(metrics)
        body = request.SerializeToString()
        content = retried(
            lambda: self._endpoint.ask(body, _HEADERS, url=self._url, later=_TRY_LATER), deadline, ended
        )
        try:
            partial = service.ExportMetricsServiceResponse.FromString(content).partial_success
        except DecodeError:
            raise self._endpoint.unexpected("answers with what is none of OTLP's answers") from None
        if partial.rejected_data_points:
            message = " ".join(partial.error_message.split())
            raise PushError(
                f"{self.where} rejects {partial.rejected_data_points} points ({message})",
                lost=partial.rejected_data_points,
                lasting=True,
            )
