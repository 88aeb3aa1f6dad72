"""How many workers gunicorn is to have."""

from __future__ import annotations

import os
import re
import signal

import live
import servers

NAME = "wsgi_workers_target"


def target(server: live.LiveServer) -> float | None:
    return servers.value(server.samples(), NAME)


def test_signals_change_it() -> None:
    """It is that of the configuration, one more for each TTIN, one less for each TTOU, and again that at a HUP."""
    with servers.start("gunicorn sync", workers=2) as server:
        found = [live.eventually(lambda: target(server), lambda number: number == 2)]
        for number, expected in (
            (signal.SIGTTIN, 3),
            (signal.SIGTTOU, 2),
            (signal.SIGTTOU, 1),
            (signal.SIGHUP, 2),
        ):
            os.kill(server.pid, number)
            found.append(
                live.eventually(lambda: target(server), lambda now, expected=expected: now == expected)
            )
    assert [2, 3, 2, 1, 2] == found


def test_two_arbiters_have_workers_side_by_side() -> None:
    """After USR2 it is of both arbiters, and of the one that is left when the other has ended, however that ended."""
    with servers.start("gunicorn sync", workers=2) as server:
        alone = live.eventually(lambda: target(server), lambda number: number == 2)
        server.kill(signal.SIGUSR2)
        both = live.eventually(lambda: target(server), lambda number: number == 4)
        server.wait_for_log(r"Booting worker with pid", count=4)
        new = re.findall(r"Listening at: .* \((\d+)\)", server.log())[-1]
        server.kill(signal.SIGTERM)
        server.wait()
        left = live.eventually(lambda: target(server), lambda number: number == 2)
        os.kill(int(new), signal.SIGTERM)
        live.eventually(server.processes, lambda pids: not pids)
    assert (2, 4, 2) == (alone, both, left)


def test_another_server_does_not_tell() -> None:
    """uWSGI has no such figure."""
    with servers.start("uwsgi prefork", workers=1) as server:
        found = target(server)
    assert found is None
