"""
When a certificate expires. Python's ssl tells it only of a certificate that it has verified, so never of an expired one.
"""

from __future__ import annotations

import base64
import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

# The first in a file is the server's; those behind it are of its authorities. OpenSSL takes it under each of these names.
_PEM: Final = re.compile(rb"-----BEGIN (?:X509 |TRUSTED )?CERTIFICATE-----(.+?)-----END ", re.DOTALL)
# The tags of X.690 (DER) that are met here.
_VERSION: Final = 0xA0
_UTC_TIME: Final = 0x17


def expiry(pem: bytes) -> float | None:
    """
    Return when the first certificate in *pem* expires (notAfter), in seconds since the epoch; None if that cannot be read.
    """
    found = _PEM.search(pem)
    if found is None:
        return None
    try:
        # RFC 5280, 4.1: Certificate { tbsCertificate { version, serialNumber, signature, issuer, validity { notBefore, notAfter
        _, certificate = next(_elements(base64.b64decode(found[1])))
        _, signed = next(_elements(certificate))
        # Version 1 has no version.
        fields = [content for tag, content in _elements(signed) if tag != _VERSION]
        _, (tag, content) = _elements(fields[3])
        text = content.decode("ascii")
        if tag == _UTC_TIME:
            # 4.1.2.5.1: two digits of the year, up to 2049.
            text = ("20" if text < "50" else "19") + text
        return datetime.strptime(text, "%Y%m%d%H%M%SZ").replace(tzinfo=UTC).timestamp()
    except (ValueError, IndexError, StopIteration):
        return None


def _elements(der: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield tag and content of each element in *der*, one behind the other."""
    start = 0
    while start < len(der):
        tag, length = der[start], der[start + 1]
        start += 2
        if length & 0x80:
            # The length of the length.
            size = length & 0x7F
            length = int.from_bytes(der[start : start + size], "big")
            start += size
        yield tag, der[start : start + length]
        start += length
