"""
An application as real ones are: a little CPU, a little waiting, and a thousand label sets of metrics of its own.

`/N` is a request that records into label set N, `/spin` one that only computes, and `/metrics` stock's scrape, in a
worker and with a registry of its own, as the client library documents it.
"""

from __future__ import annotations

import time
from typing import Any, Final

from filler import LABELS, LabelSets
from prometheus_client import CollectorRegistry, make_wsgi_app
from prometheus_client.multiprocess import MultiProcessCollector

WAIT_SECONDS: Final = 0.010

# A millisecond or so. A number of steps and not a span of time: who shares the core with others takes longer.
_STEPS: Final = 25_000
_SPINS: Final = 20

_sets: Final = LabelSets(LABELS)
_sets.change()


def app(environ: dict[str, Any], start_response: Any) -> Any:
    path = environ["PATH_INFO"]
    if path == "/metrics":
        registry = CollectorRegistry()
        MultiProcessCollector(registry)
        return make_wsgi_app(registry)(environ, start_response)
    started = time.perf_counter()
    if path == "/spin":
        sum(range(_SPINS * _STEPS))
    else:
        sum(range(_STEPS))
        time.sleep(WAIT_SECONDS)
        _sets.record(int(path[1:]), time.perf_counter() - started)
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "2")])
    return [b"ok"]
