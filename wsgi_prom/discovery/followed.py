"""
The targets that are registered in etcd below a prefix, followed as they change.

1. A change is a reason to read the whole prefix again, and so is time. So nothing depends on the events themselves: not on a watch that
   ends without a word, nor on the history that a compaction removes.
2. While etcd does not answer, the targets are those that were read last.
3. Labels by which Prometheus would scrape by another path, scheme or interval are a server's only where it registers them: its
   `__scheme__`, if that is https.
"""

from __future__ import annotations

import base64
import json
import logging
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from wsgi_prom.discovery.etcd import REQUEST_SECONDS, errors
from wsgi_prom.discovery.retrying import retried

if TYPE_CHECKING:
    from collections.abc import Callable
    from threading import Event

    from wsgi_prom.discovery.etcd import Etcd
    from wsgi_prom.discovery.targets import Group

log = logging.getLogger("wsgi_prom")

# Until the prefix is read again though etcd has told of no change: a connection may be dead and say nothing, and one that says
# something is as long at most.
_READ_SECONDS: Final = 10.0
# Keys of one reading that are named in the log, and how much of each.
_MOST_TOLD: Final = 5
_SHOWN_CHARACTERS: Final = 200
# The only label of its kind that targets.py makes.
_OWN: Final = ("__scheme__", "https")
# Between two readings: many targets that change at the same time are read once.
_PAUSE_SECONDS: Final = 0.2


class Followed:
    """The targets in *etcd*."""

    def __init__(self, etcd: Etcd) -> None:
        self._etcd = etcd
        self._prefix = f"{etcd.registry.path}/"
        # The keys that were left out last.
        self._left_out: set[str] = set()

    def run(self, show: Callable[[list[Group]], None], ended: Event) -> None:
        """Call *show* with the targets, again and again, until *ended*. Retries what fails, and logs it once."""

        def begin() -> Any:
            # All that is asked later: who may log in may have no right to read.
            client = self._etcd.connect()
            try:
                with self._watch(client):
                    show(self._read(client))
            except errors() as error:
                raise self._etcd.error(error) from error
            return client

        told = ""
        while not ended.is_set() and (client := retried(begin, ended, told)) is not None:
            if told:
                log.info("%s answers again", self._etcd.registry)
            try:
                while not ended.is_set():
                    with self._watch(client) as watch:
                        show(self._read(client))
                        _wait(watch)
                    ended.wait(_PAUSE_SECONDS)
            except errors() as error:
                told = str(self._etcd.error(error))
                log.warning("%s. The targets stay as they were read last", told)
                ended.wait(_PAUSE_SECONDS)

    def read(self) -> list[Group]:
        """Return the targets as they are now. Raises EtcdError."""
        try:
            return self._read(self._etcd.connect())
        except errors() as error:
            raise self._etcd.error(error) from error

    def _read(self, client: Any) -> list[Group]:
        found = sorted(
            (item["key"].decode("utf-8", "replace"), value) for value, item in client.get_prefix(self._prefix)
        )
        groups = {key: _group(value) for key, value in found}
        left_out = {key for key, group in groups.items() if group is None}
        new = sorted(left_out - self._left_out)
        for key in new[:_MOST_TOLD]:
            log.warning("the key %r in etcd holds no target, and is left out", key[:_SHOWN_CHARACTERS])
        if len(new) > _MOST_TOLD:
            log.warning("%d more keys in etcd hold no target, and are left out", len(new) - _MOST_TOLD)
        self._left_out = left_out
        return [group for group in groups.values() if group is not None]

    def _watch(self, client: Any) -> Any:
        """
        Return the answer of etcd that goes on with each change from now on: a response of requests.

        Not by etcd3gw's own watch, whose thread ends without a word when the connection does.
        """
        first = self._prefix.encode()
        beyond = first[:-1] + bytes([first[-1] + 1])
        request = {"create_request": {"key": _base64(first), "range_end": _base64(beyond)}}
        timeout = REQUEST_SECONDS, _READ_SECONDS
        response = client.session.post(client.get_url("/watch"), json=request, stream=True, timeout=timeout)
        response.raise_for_status()
        return response


def _wait(watch: Any) -> None:
    """Wait until etcd sends a change, has sent nothing for a while, or ends the connection."""
    with suppress(*errors()):
        for line in watch.iter_lines(chunk_size=1):
            # The first line says that the watch has begun.
            if b'"created":true' not in line.replace(b" ", b""):
                return


def _group(value: bytes) -> Group | None:
    """Return the target that *value* holds, None if that is none."""
    with suppress(ValueError, RecursionError):
        group = json.loads(value)
        if _is_group(group):
            return {"targets": group["targets"], "labels": group["labels"]}
    return None


def _is_group(group: Any) -> bool:
    """Return whether *group* is one that Prometheus takes: it refuses a file in which one is not."""
    if (
        not isinstance(group, dict)
        or not isinstance(group.get("targets"), list)
        or not isinstance(group.get("labels"), dict)
    ):
        return False
    texts = [*group["targets"], *group["labels"], *group["labels"].values()]
    return (
        bool(group["targets"])
        and all(isinstance(text, str) for text in texts)
        and _are_names(group["labels"])
    )


def _are_names(labels: dict[str, str]) -> bool:
    # Prometheus asks an address by `__scheme__: http` without TLS, with the job's password.
    return all(
        name.isascii() and name.isidentifier() and (not name.startswith("__") or (name, value) == _OWN)
        for name, value in labels.items()
    )


def _base64(text: bytes) -> str:
    return base64.b64encode(text).decode("ascii")
