"""A result of `wsgi-prom check`."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Finding:
    """What was looked at, whether it is as it should be (None: it cannot be known from here), and what to do if not."""

    subject: str
    ok: bool | None
    message: str
    remedy: str = ""
