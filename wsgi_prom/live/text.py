"""Figures as a person reads them: few digits, a unit, and a dash for what is not known."""

from __future__ import annotations

from typing import Final

UNKNOWN: Final = "\N{EN DASH}"  # as wide as a digit

_MEBIBYTE: Final = 1024.0**2


def count(value: float | None) -> str:
    """Return a number of things."""
    return UNKNOWN if value is None else f"{value:,.0f}"


def rate(value: float | None) -> str:
    """Return a number of things per second, or on average."""
    if value is None:
        return UNKNOWN
    if value == 0:
        return "0"
    if value < 0.01:
        return "<0.01"
    if value < 10:
        return f"{value:.2f}"
    return f"{value:.1f}" if value < 100 else f"{value:,.0f}"


def share(value: float | None) -> str:
    """Return a share of 1 in percent."""
    if value is None:
        return UNKNOWN
    if value == 0:
        return "0 %"
    if value < 0.001:
        return "<0.1 %"
    return f"{value * 100:.1f} %" if value < 0.0995 else f"{value * 100:.0f} %"


def seconds(value: float | None, *, above: bool = False) -> str:
    """Return a time; with *above*, that it is longer than that."""
    if value is None:
        return UNKNOWN
    if above:
        # The bound of a bucket, as it was set.
        return f"> {value:g} s" if value >= 1 else f"> {value * 1000:g} ms"
    return _seconds(value)


def _seconds(value: float) -> str:
    if value == 0:
        return "0 s"
    if value < 0.00995:
        return f"{value * 1000:.1f} ms"
    if value < 0.9995:
        return f"{value * 1000:.0f} ms"
    if value < 99.995:
        return f"{value:.2f} s" if value < 9.995 else f"{value:.1f} s"
    if value < 3600:
        return f"{value / 60:.0f} min"
    return f"{value / 3600:.0f} h" if value < 2 * 86400 else f"{value / 86400:.0f} d"


def age(value: float | None) -> str:
    """Return how long ago something began, in whole units."""
    if value is None:
        return UNKNOWN
    return f"{value:.0f} s" if value < 100 else _seconds(value)


def size(value: float | None) -> str:
    """Return a number of bytes."""
    if value is None:
        return UNKNOWN
    return f"{value / _MEBIBYTE:.1f} MiB" if value < 10 * _MEBIBYTE else f"{value / _MEBIBYTE:,.0f} MiB"
