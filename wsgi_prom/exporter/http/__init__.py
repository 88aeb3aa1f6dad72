"""The exporter's HTTP server."""

from __future__ import annotations

from typing import Final

# The key in environ of the time (time.monotonic) at which the whole request had arrived. Only this server sets it.
ARRIVAL: Final = "wsgi_prom.arrival"
