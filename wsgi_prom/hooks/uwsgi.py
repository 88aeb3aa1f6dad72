"""
The hook of uWSGI: `shared-import = wsgi_prom.hooks.uwsgi` in its configuration.

uWSGI imports it once, in the master, before the fork and before the application; at a reload once more, in the same
process. The application is wrapped by `module = wsgi_prom.wsgi:application` or by hand.
"""

from __future__ import annotations

import logging
import os
from typing import Any

import uwsgi

from wsgi_prom.exporter.target import Target
from wsgi_prom.hooks import logs, unwrapped
from wsgi_prom.hooks.instance import Instance, attempt
from wsgi_prom.store import fork_locks
from wsgi_prom.store.current_slot import current_slot

log = logging.getLogger("wsgi_prom")


_instance: Instance | None = None
# Whether the master is to be another process than the one that imports this.
_becomes_daemon = False


def _start() -> None:
    global _instance, _becomes_daemon
    logs.install()
    if uwsgi.worker_id() > 0 and uwsgi.masterpid() not in {0, os.getpid()}:
        # `import =` under lazy-apps: too late, and in each worker. A directory for each would show one at random.
        log.error("no metrics: load the hook by shared-import = wsgi_prom.hooks.uwsgi, not by import")
        return
    with attempt("no metrics"):
        _chain_after_fork()
        # Whoever announced it: with daemonize2 the master is a child of the process that read the configuration.
        _instance = Instance(reload=bool(uwsgi.is_a_reload))
        # With daemonize2 this process ends before the first fork. At a reload the master stays what it is.
        _becomes_daemon = "daemonize2" in uwsgi.opt and not uwsgi.is_a_reload
        _instance.start(target=_target(), owner=_owner(), exporter=not _becomes_daemon)
        unwrapped.watch(_instance.path)


def _target() -> Target:
    given: Any = uwsgi.opt.get("module") or uwsgi.opt.get("wsgi-file") or b""
    return Target(given.decode(errors="replace") if isinstance(given, bytes) else "", "uWSGI")


def _owner() -> tuple[int, int] | None:
    """Return whom the workers will be, where the master keeps root (master-as-root)."""
    if os.geteuid() != 0 or "uid" not in uwsgi.opt:
        return None
    from pwd import getpwnam, getpwuid  # noqa: PLC0415

    given: Any = uwsgi.opt["uid"]
    name = given.decode()
    user = getpwuid(int(name)) if name.isdigit() else getpwnam(name)
    return user.pw_uid, user.pw_gid


def _after_fork() -> None:
    # uWSGI runs none of Python's callbacks. Before anything else: what follows may use a metric.
    fork_locks.free()
    with attempt("this process claims its slot when it records something"):
        if uwsgi.worker_id() > 0:
            current_slot.renew()
        else:
            # A mule or spooler claims a slot when it records something.
            current_slot.part_from_parent()
    if _becomes_daemon and uwsgi.worker_id() == 1 and _instance is not None:
        # The master runs no Python once it is a daemon, so that the first of its workers starts what lives as long as it.
        with attempt("no exporter"):
            _instance.launch(parent=uwsgi.masterpid() or None)


def _chain_after_fork() -> None:
    try:
        # First: at its import it takes the one place that there is for a hook, whoever has it.
        import uwsgidecorators  # noqa: PLC0415
    except (
        Exception
    ):  # raises a bare Exception without a master, and is a package of its own in some distributions
        before = getattr(uwsgi, "post_fork_hook", None)

        def after_fork() -> None:
            _after_fork()
            if before is not None:
                before()

        uwsgi.post_fork_hook = after_fork
    else:
        uwsgidecorators.postfork(_after_fork)


_start()
