"""
Passwords as a users' file keeps them: `NAME:$scrypt$ln=14,r=8,p=1$SALT$HASH`, a line each.

scrypt is in the standard library; bcrypt, which web servers and Prometheus' exporters use, is not.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from typing import Self

# 2**14 blocks of 8: 16 MB and 40 ms, once for each client and start of the exporter.
_COST: Final = (14, 8, 1)
# What a check may take at most: 64 MB.
_MOST_MEMORY: Final = 64 * 1024 * 1024

_LINE: Final = re.compile(
    r"(?P<name>[^:\s#][^:\x00-\x1f\x7f]*):\$scrypt\$ln=(?P<ln>\d{1,2}),r=(?P<r>\d{1,2}),p=(?P<p>\d)"
    r"\$(?P<salt>[A-Za-z0-9+/]{11,86})\$(?P<digest>[A-Za-z0-9+/]{43})",
    re.ASCII,
)


@dataclass(frozen=True)
class Hashed:
    """A password that cannot be read from it. *cost* are scrypt's: the logarithm of n, r and p."""

    cost: tuple[int, int, int]
    salt: bytes
    digest: bytes

    @classmethod
    def make(cls, password: bytes, cost: tuple[int, int, int] = _COST) -> Self:
        salt = secrets.token_bytes(16)
        return cls(cost, salt, _digest(password, salt, cost))

    def matches(self, password: bytes) -> bool:
        return hmac.compare_digest(_digest(password, self.salt, self.cost), self.digest)

    def decoy(self) -> Hashed:
        """Return one that nothing matches, at the same cost."""
        return Hashed(self.cost, secrets.token_bytes(len(self.salt)), secrets.token_bytes(32))

    def line(self, name: str) -> str:
        """Return the line for user *name*. Raises ValueError if no line can hold that name."""
        ln, r, p = self.cost
        line = f"{name}:$scrypt$ln={ln},r={r},p={p}${_encode(self.salt)}${_encode(self.digest)}"
        if parse(line)[0] != name:
            raise ValueError(name)
        return line


def parse(line: str) -> tuple[str, Hashed]:
    """Return the name and the password of a line. Raises ValueError."""
    found = _LINE.fullmatch(line)
    if found is None:
        raise ValueError("not a line")
    ln, r, p = int(found["ln"]), int(found["r"]), int(found["p"])
    # scrypt's own bound: n below 2**(16 r).
    if not (1 <= ln < 16 * r and r >= 1 and p >= 1 and 128 * r * 2**ln * p <= _MOST_MEMORY):
        raise ValueError("too costly")
    return found["name"], Hashed((ln, r, p), _decode(found["salt"]), _decode(found["digest"]))


def _digest(password: bytes, salt: bytes, cost: tuple[int, int, int]) -> bytes:
    ln, r, p = cost
    # OpenSSL counts some more than the blocks.
    return hashlib.scrypt(password, salt=salt, n=2**ln, r=r, p=p, maxmem=2 * _MOST_MEMORY, dklen=32)


def _encode(data: bytes) -> str:
    return base64.b64encode(data).decode().rstrip("=")


def _decode(text: str) -> bytes:
    return base64.b64decode(text + "=" * (-len(text) % 4))
