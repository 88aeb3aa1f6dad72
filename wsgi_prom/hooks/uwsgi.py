"""
The hook of uWSGI: `shared-import = wsgi_prom.hooks.uwsgi` in its configuration.

uWSGI imports it once, in the master, before the fork and before the application; at a reload once more, in the same
process. The application is wrapped by `module = wsgi_prom.wsgi:application` or by hand.
"""

from __future__ import annotations

import _thread
import logging
import os
from pwd import getpwnam, getpwuid
from typing import TYPE_CHECKING, Any, Final

import uwsgi

from wsgi_prom.client.asking_thread import asking_thread
from wsgi_prom.discovery.worker_target import worker_target
from wsgi_prom.exporter.target import Target
from wsgi_prom.hooks import logs, reloads, uwsgi_stats_server, uwsgi_unwrapped
from wsgi_prom.hooks.instance import Instance, attempt
from wsgi_prom.hooks.uwsgi_exits import Exits
from wsgi_prom.hooks.worker import begin
from wsgi_prom.server.listen_queues import ListeningSocket
from wsgi_prom.store import fork_locks, roles
from wsgi_prom.store.current_slot import current_slot

if TYPE_CHECKING:
    from collections.abc import Callable

log = logging.getLogger("wsgi_prom")

_NO_THREADS: Final = (
    "custom collectors and functions of gauges are on no page: threads do not run between requests. Add "
    "enable-threads = true to uWSGI's configuration"
)
_NO_PAGES: Final = (
    "WSGI_PROM_TARGETS='workers': the workers have no pages, since threads do not run between requests. Add enable-threads = true to "
    "uWSGI's configuration"
)
_instance: Instance | None = None
_exits: Exits | None = None
# With daemonize2 the process that imports this ends before the first fork; at a reload the master stays what it is.
_becomes_daemon = "daemonize2" in uwsgi.opt and not uwsgi.is_a_reload


def _on_import() -> None:
    """Make the directory ready and start the exporter, in the master."""
    global _instance, _exits
    logs.install()
    if uwsgi.worker_id() > 0 and uwsgi.masterpid() not in {0, os.getpid()}:
        # `import =` under lazy-apps: too late, and in each worker. A directory for each would show one at random.
        log.error("no metrics: load the hook by shared-import = wsgi_prom.hooks.uwsgi, not by import")
        return
    if "gevent" in uwsgi.opt:
        asking_thread.start_thread = worker_target.start_thread = _start_greenlet
    elif not uwsgi.has_threads:
        # By default, before 2.0.27. The option cannot be set here: uWSGI has looked at it.
        asking_thread.remedy, worker_target.remedy = _NO_THREADS, _NO_PAGES
    with attempt("no metrics"):
        _call_after_fork(_on_fork)
        # The master of daemonize2 is another process than the one that announced the directory.
        _instance = Instance(reload=bool(uwsgi.is_a_reload))
        reloads.share()
        if uwsgi.is_a_reload:
            reloads.begin()
        _instance.start(owner=_owner())
        stats = uwsgi_stats_server.address(_instance.path)
        _instance.set_target(_target(stats))
        if uwsgi.masterpid() > 0:
            with attempt("the ends of workers are not counted"):
                _exits = Exits(stats)
        if not _becomes_daemon:
            _instance.start_exporter()
        uwsgi_unwrapped.watch(_instance.path)


def _on_fork() -> None:
    """Claim a slot in a worker; a mule or spooler claims one when it records something."""
    # uWSGI runs no fork callbacks of Python's. This comes first, since what follows may use a metric.
    fork_locks.free()
    if _instance is not None and uwsgi.worker_id() == 0 and uwsgi.masterpid() > 0:
        with attempt("the page does not say that this process is a mule or a spooler"):
            roles.take(_instance.path, "mule" if uwsgi.mule_id() > 0 else "spooler")
    if uwsgi.worker_id() > 0:
        if _exits is not None:
            _exits.note_start()
        # From lazy-apps on, the application is loaded after this; its middleware says when it is.
        begin(booting="lazy-apps" in uwsgi.opt or "lazy" in uwsgi.opt)
        if _exits is not None:
            _exits.begin()
        reloads.count()
        with attempt("the collectors of this worker are not asked"):
            asking_thread.begin()
        with attempt("this worker has no page of its own"):
            worker_target.begin()
    else:
        with attempt("this process claims its slot when it records something"):
            current_slot.part_from_parent()
    if _instance is None or uwsgi.worker_id() == 0:
        return
    with attempt("no exporter"):
        if _becomes_daemon and uwsgi.worker_id() == 1:
            # The master runs no Python once it is a daemon, so its first worker starts the exporter, which lives as long as it.
            _instance.start_exporter(parent=uwsgi.masterpid() or None)
        elif uwsgi.masterpid() > 0:
            # The master runs no Python at a reload of its workers either.
            _instance.replace_lost_exporter(parent=uwsgi.masterpid())


def _start_greenlet(run: Callable[[], None]) -> None:
    """Start a thread when uWSGI's loop runs: it has replaced threads by greenlets then, if it is to (gevent-monkey-patch)."""
    import gevent  # type: ignore[import-untyped]  # noqa: PLC0415 - uWSGI has it

    gevent.spawn(lambda: _thread.start_new_thread(run, ()))


def _target(stats: str) -> Target:
    given: Any = uwsgi.opt.get("module") or uwsgi.opt.get("wsgi-file") or b""
    return Target(
        given.decode(errors="replace") if isinstance(given, bytes) else "",
        "uWSGI",
        uwsgi.version.decode(),
        "gevent" if "gevent" in uwsgi.opt else "",
        int(uwsgi.cores),
        tuple(found for fd in uwsgi.sockets if (found := ListeningSocket.of(fd)) is not None),
        stats,
    )


def _owner() -> tuple[int, int] | None:
    """Return the uid and gid of the workers if the master keeps root (master-as-root)."""
    if os.geteuid() != 0 or "uid" not in uwsgi.opt:
        return None
    given: Any = uwsgi.opt["uid"]
    name = given.decode()
    user = getpwuid(int(name)) if name.isdigit() else getpwnam(name)
    return user.pw_uid, user.pw_gid


def _call_after_fork(ours: Any) -> None:
    try:
        import uwsgidecorators  # noqa: PLC0415 - at its import it takes uWSGI's only post_fork_hook: it has to come first
    except Exception:  # a bare Exception without a master; some distributions have it in a package of its own
        theirs = getattr(uwsgi, "post_fork_hook", None)

        def both() -> None:
            ours()
            if theirs is not None:
                theirs()

        uwsgi.post_fork_hook = both
    else:
        uwsgidecorators.postfork(ours)


_on_import()
