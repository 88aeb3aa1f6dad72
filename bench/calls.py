"""The calls of an application's own metrics that are measured. All contenders run the same code."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from prometheus_client import Counter, Histogram

    Call = Callable[[int], None]

LABEL_SETS: Final = 1000

_NAMES: Final = ("method", "route")


# The client library is imported where it is used: under callgrind the import takes seconds, and some contenders do without.
@cache
def _counter() -> Counter:
    from prometheus_client import Counter

    return Counter("orders_total", "Orders.", _NAMES)


@cache
def _histogram() -> Histogram:  # with the library's own 15 buckets
    from prometheus_client import Histogram

    return Histogram("order_seconds", "Orders.", _NAMES)


def counter() -> Call:
    orders = _counter()

    def call(count: int) -> None:
        for _ in range(count):
            orders.labels("GET", "/users").inc()

    return call


def histogram() -> Call:
    seconds = _histogram()

    def call(count: int) -> None:
        for _ in range(count):
            seconds.labels("GET", "/users").observe(0.03)

    return call


def kept_counter() -> Call:
    child = _counter().labels("GET", "/users")

    def call(count: int) -> None:
        for _ in range(count):
            child.inc()

    return call


def kept_histogram() -> Call:
    child = _histogram().labels("GET", "/users")

    def call(count: int) -> None:
        for _ in range(count):
            child.observe(0.03)

    return call


CALLS: Final[Mapping[str, Callable[[], Call]]] = {
    "counter": counter,
    "histogram": histogram,
    "kept counter": kept_counter,
    "kept histogram": kept_histogram,
}


def fill() -> tuple[Any, ...]:
    """Record once in each of LABEL_SETS label sets of a counter and a histogram, and return the two."""
    orders, seconds = _counter(), _histogram()
    for number in range(LABEL_SETS):
        orders.labels("GET", f"/orders/{number}").inc()
        seconds.labels("GET", f"/orders/{number}").observe(0.03)
    return orders, seconds
