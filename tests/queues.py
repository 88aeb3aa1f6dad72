"""Adds up what the kernel reports of all listen queues with one address."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from wsgi_prom.server.listen_queues import listeners

if TYPE_CHECKING:
    from collections.abc import Iterable

    from wsgi_prom.server.listen_queues import ListeningSocket


class Queue(NamedTuple):
    length: int
    limit: int
    drops: int | None


def read(sockets: Iterable[ListeningSocket], **options: Any) -> dict[str, Queue]:
    """Return the queue of each of *sockets* by name; *options* are those of `listeners`."""
    queues = {}
    for name, found in listeners(sockets, **options).items():
        drops = [listener.drops for listener in found if listener.drops is not None]
        queues[name] = Queue(
            sum(listener.length for listener in found),
            sum(listener.limit for listener in found),
            sum(drops) if len(drops) == len(found) else None,
        )
    return queues
