"""
The users of a web configuration, and the check of their passwords.

1. The check of an unknown user takes as long as that of a known one.
2. One password is hashed at a time. A client whose password was right before never waits for that.
"""

from __future__ import annotations

import hmac
import secrets
import threading
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

# One thread hashes a password and one more waits: two of the exporter's threads.
_AT_A_TIME: Final = 2
# bcrypt reads 72 bytes of a password. Its Python library refuses a longer one; htpasswd and exporter-toolkit cut it.
_LONGEST: Final = 72


class BusyError(Exception):
    """Other passwords are being checked."""


class Users:
    """
    Users by name, at least one, with the *hashes* of their passwords. For any number of threads.

    *matches* tells whether a password has a hash: `bcrypt.checkpw`, which releases the GIL.
    """

    def __init__(self, hashes: Mapping[bytes, bytes], matches: Callable[[bytes, bytes], bool]) -> None:
        self._hashes = hashes
        self._matches = matches
        # Right passwords by user, as HMACs with a key of this process: to hash for each scrape would take 0.1 s or more.
        self._key = secrets.token_bytes(32)
        self._right: dict[bytes, bytes] = {}
        self._hashing = threading.Lock()
        self._queue = threading.Semaphore(_AT_A_TIME)

    def allow(self, name: bytes, password: bytes) -> bool:
        """Tell whether *password* is that of user *name*. Raises BusyError if two other threads check passwords."""
        digest = hmac.digest(self._key, name + b":" + password, "sha256")
        if hmac.compare_digest(self._right.get(name, b""), digest):
            return True
        if not self._queue.acquire(blocking=False):
            raise BusyError
        try:
            with self._hashing:
                # Again: another thread may have hashed the same password meanwhile.
                if hmac.compare_digest(self._right.get(name, b""), digest):
                    return True
                matched = self._matches(password[:_LONGEST], self._hash(name))
                if matched and name in self._hashes:
                    self._right[name] = digest
                    return True
                return False
        finally:
            self._queue.release()

    def _hash(self, name: bytes) -> bytes:
        """Return the hash of *name*. An unknown name always gets the hash of the same user: hashes may differ in cost."""
        hashes = list(self._hashes.values())
        choice = int.from_bytes(hmac.digest(self._key, name, "sha256"), "big") % len(hashes)
        return self._hashes.get(name, hashes[choice])
