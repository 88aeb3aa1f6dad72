"""Who listens where on this machine, as /proc tells: no socket is made, and nothing is connected to."""

from __future__ import annotations

import ipaddress
import os
import socket
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from wsgi_prom.settings import Address

if TYPE_CHECKING:
    from collections.abc import Iterator

# proc(5): the states of TCP's sockets, and the flag of a unix socket that listens (__SO_ACCEPTCON).
_LISTEN: Final = "0A"
_ACCEPTS: Final = "00010000"


class Listener(NamedTuple):
    """A socket that listens at *address*, with the number by which processes' descriptors refer to it."""

    address: Address
    inode: str


def listeners() -> list[Listener]:
    """Return the listeners of TCP and of unix sockets in this network namespace."""
    found = []
    for words in (words for name in ("tcp", "tcp6") for words in _table(name)):
        if words[3] == _LISTEN:
            host, _, port = words[1].partition(":")
            found.append(Listener(Address(_ip(host), int(port, 16)), words[9]))
    bound = (words for words in _table("unix") if words[3] == _ACCEPTS and len(words) > 7)
    return found + [Listener(Address(path=words[7]), words[6]) for words in bound]


def in_the_way(address: Address) -> list[Listener]:
    """Return the listeners that keep another from listening at *address*. Raises OSError for a host that is no name."""
    if address.path:
        return [listener for listener in listeners() if listener.address.path == address.path]
    host = resolve(address.host)
    return [
        listener
        for listener in listeners()
        if listener.address.port == address.port != 0 and _meet(host, listener.address.host)
    ]


def resolve(host: str) -> str:
    """Return the IP address that an exporter told of *host* listens at. Raises OSError."""
    try:
        return str(socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0][4][0])
    except UnicodeError as error:
        raise OSError(f"{host!r} has a label that is empty or too long") from error


def holders(inode: str) -> list[int]:
    """Return the pids that have the socket *inode* open, as far as this user may know them."""
    return [pid for pid in _pids() if inode in sockets(pid)]


def sockets(pid: int) -> set[str]:
    """Return the inodes of the sockets of process *pid*; none if it is another user's."""
    found = set()
    with suppress(OSError):
        for descriptor in Path(f"/proc/{pid}/fd").iterdir():
            with suppress(OSError):  # closed meanwhile
                target = str(descriptor.readlink())
                if target.startswith("socket:["):
                    found.add(target[8:-1])
    return found


def command_line(pid: int) -> str:
    """Return the command line of process *pid*, empty if it is gone."""
    with suppress(OSError):
        return os.fsdecode(Path(f"/proc/{pid}/cmdline").read_bytes()).replace("\0", " ").strip()
    return ""


def _table(name: str) -> Iterator[list[str]]:
    with suppress(OSError):  # a kernel without IPv6
        for line in Path(f"/proc/net/{name}").read_text().splitlines()[1:]:
            yield line.split(maxsplit=7) if name == "unix" else line.split()


def _ip(text: str) -> str:
    # Groups of four bytes, each in the order of the machine; all of ours have the lowest first.
    raw = bytes.fromhex(text)
    ip = ipaddress.ip_address(b"".join(raw[n : n + 4][::-1] for n in range(0, len(raw), 4)))
    return str(getattr(ip, "ipv4_mapped", None) or ip)


def _meet(one: str, other: str) -> bool:
    # A socket at :: takes IPv4 too, unless it was told otherwise.
    if "::" in {one, other}:
        return True
    return one == other or ("0.0.0.0" in {one, other} and (":" in one) == (":" in other))  # noqa: S104


def _pids() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdecimal()]
