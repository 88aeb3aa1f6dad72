"""sendfile: a server that uses it still does when the application is measured, as its system calls show."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import live
import pairs
import pytest
import wire
from apps import protocol
from pairs import Fleet

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from live import LiveServer

# uWSGI sends from threads as from processes.
SERVERS = [name for name in pairs.FORKING if name not in {"uwsgi keep-alive", "uwsgi threads"}]
# `sendfile(out, in, offset, count) = sent`, in one line or resumed in another.
CALL = re.compile(r"sendfile(?:64)?(?: resumed>|\().*= (\d+)$", re.MULTILINE)

# What goes by sendfile, case by case in the order in which they are asked.
FILES = {
    "file_real": len(protocol.BODY),
    "file_real_length": len(protocol.BODY),
    "file_opened": len(protocol.BODY),
    "file_bytesio": 0,
    "list_one": 0,
}
# gevent's socket.sendfile reads the file and sends what it has read (gevent/_socket3.py, sendfile).
WITHOUT = {"gunicorn gevent"}


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    folder = tmp_path_factory.mktemp("traces")

    def traced(name: str, which: str, **env: str) -> LiveServer:
        server = pairs.server(name, which, **env)
        # As a grandchild (-D), so that the server is the process that is started, and gets the signals.
        trace = ["-D", "-f", "-qq", "--seccomp-bpf", "-e", "trace=?sendfile,?sendfile64"]
        server.command[:0] = ["strace", *trace, "-o", str(folder / f"{name} {which}.trace")]
        return server

    with Fleet(folder, traced) as found:
        yield found


def sent(trace: Path, url: str, expected: dict[str, int]) -> dict[str, int]:
    """Request each case, and return the bytes that sendfile sent for it; waits for *expected* bytes."""
    found, before = {}, 0
    for name, size in expected.items():
        answer = wire.exchange(url, wire.request(f"/{name}", headers=(("Connection", "close"),)))
        assert protocol.BODY in answer

        def total() -> int:
            return sum(int(call[1]) for call in CALL.finditer(trace.read_text()))

        after = live.eventually(total, lambda found, wanted=before + size: found == wanted, 5)
        found[name], before = after - before, after
    return found


@pytest.mark.parametrize("name", SERVERS)
def test_sendfile_is_used_where_it_was(name: str, fleet: Fleet) -> None:
    """All bytes of a real file go by sendfile, with a Content-Length and without, and no others."""
    expected = dict.fromkeys(FILES, 0) if name in WITHOUT else FILES
    pair = fleet[name]
    found = {
        which: sent(pair.events[which].with_suffix(".trace"), url, expected)
        for which, url in pair.urls().items()
    }
    assert {"bare": expected, "measured": expected} == found
