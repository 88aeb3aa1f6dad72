"""
Targets in etcd: a key for each, under a lease that is refreshed, and that ends by itself if nobody does.

1. A key is PREFIX/HOST/TARGET; its value is the target in the format of file_sd.
2. Whatever fails, the registration begins again with a new lease: etcd may have lost the former one, and all its data.
3. A key that another process of this target has put since goes to that one's lease, and stays when this one's ends.
"""

from __future__ import annotations

import json
import logging
import math
import socket
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from wsgi_prom.discovery.etcd import EtcdError, errors
from wsgi_prom.discovery.registration import LOOK_SECONDS
from wsgi_prom.discovery.retrying import retried

if TYPE_CHECKING:
    from collections.abc import Sequence

    from wsgi_prom.discovery.etcd import Etcd
    from wsgi_prom.discovery.registration import End, Read, Tell
    from wsgi_prom.discovery.targets import Group

log = logging.getLogger("wsgi_prom")

# Of an interval of `sd_seconds`: two refreshes may fail.
_REFRESHES: Final = 3


class LeaseRegistration:
    """Keeps targets in *etcd*, each for *seconds* at most after this process was killed."""

    def __init__(self, etcd: Etcd, seconds: float) -> None:
        self._etcd = etcd
        self._seconds = seconds

    def run(self, read: Read, tell: Tell, end: End) -> None:
        """See `Registration`."""

        def begin() -> _Keys:
            try:
                keys = _Keys(self._etcd, self._seconds)
                keys.put(read())
                # A lease that can never be refreshed is found out here, and not again and again later.
                keys.refresh()
            except errors() as error:
                raise self._etcd.error(error) from error
            return keys

        told = ""
        while (keys := retried(begin, end.event, told)) is not None:
            log.info("targets are registered at %s", self._etcd.registry)
            tell(True)
            try:
                self._keep(keys, read, end)
            except errors() as error:
                tell(False)
                told = str(self._etcd.error(error))
                log.warning("%s. The targets are registered again as soon as possible", told)
                continue
            if end.withdraw:
                keys.withdraw()
            return

    def _keep(self, keys: _Keys, read: Read, end: End) -> None:
        """Keep *keys* until *end*. Raises what `errors` lists."""
        due = 0.0
        while not end.event.wait(LOOK_SECONDS):
            keys.put(read())
            due += LOOK_SECONDS
            if due * _REFRESHES >= self._seconds:
                due = 0.0
                keys.refresh()


class _Keys:
    """The keys of this process in *etcd*, under a lease of *seconds*. Every method raises what `errors` lists."""

    def __init__(self, etcd: Etcd, seconds: float) -> None:
        self._etcd = etcd
        self._client = etcd.connect()
        self._lease = self._client.lease(ttl=max(math.ceil(seconds), 2))
        self._values: dict[str, str] = {}

    def put(self, targets: Sequence[Group]) -> None:
        """Register *targets* there, and no others of this process."""
        wanted = {self._key(target): json.dumps(target) for target in targets}
        for key in self._values.keys() - wanted.keys():
            self._client.delete(key)
        for key, value in wanted.items():
            if self._values.get(key) != value:
                self._client.put(key, value, self._lease)
        self._values = wanted

    def refresh(self) -> None:
        """Keep the lease for another while, and find out which keys somebody has deleted, to put them again."""
        if self._lease.refresh() < 1:
            raise EtcdError(f"{self._etcd.where}: etcd has lost the lease")
        found: list[bytes] = self._lease.keys()
        there = {key.decode("utf-8", "replace") for key in found}
        self._values = {key: value for key, value in self._values.items() if key in there}

    def withdraw(self) -> None:
        """Remove the keys. If that fails, they go when the lease ends."""
        with suppress(*errors()):
            self._lease.revoke()

    def _key(self, target: Group) -> str:
        # The host's name too: two hosts may both have a target at 127.0.0.1:9464.
        return f"{self._etcd.registry.path}/{socket.gethostname()}/{target['targets'][0]}"
