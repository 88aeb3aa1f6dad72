"""
The hook of gunicorn: `gunicorn -c python:wsgi_prom.hooks.gunicorn myapp:app`, or in your own gunicorn.conf.py

    from wsgi_prom.hooks.gunicorn import *

A configuration may define functions with these names itself, before or after that line: gunicorn calls both.

1. To read the configuration makes nothing that stays, since --check-config and --print-config read it too. The server starts
   with on_starting, in the arbiter, after gunicorn has applied raw_env and has imported a preloaded application. Such an
   application may look for the directory (prometheus-flask-exporter does): until then it is there, empty.
2. Whatever a worker needs is imported in the arbiter: the user of --user may not be able to read it.
3. Nothing but a wrong setting, at the start, ends a server or a worker.
"""

from __future__ import annotations

import atexit
import inspect
import logging
import os
import signal
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

import gunicorn
from gunicorn.config import KNOWN_SETTINGS, Config

from wsgi_prom.app_interface import takes_two
from wsgi_prom.exporter.target import Target
from wsgi_prom.hooks import gunicorn_exits, logs, reloads
from wsgi_prom.hooks.instance import Instance, attempt, read_settings
from wsgi_prom.hooks.worker import begin, serve, stop_at
from wsgi_prom.middleware import wrap_for_hook
from wsgi_prom.server.listen_queues import ListeningSocket
from wsgi_prom.store import roles

if TYPE_CHECKING:
    from collections.abc import Callable

    from gunicorn.arbiter import Arbiter

# Empty: a name that `import *` brings would take the place of a function that the configuration has defined above.
__all__: tuple[str, ...] = ()

# An arbiter that USR2 of another one has started: the other's pre_exec ran in this very process, before the exec.
_IS_RELOAD: Final = "GUNICORN_PID" in os.environ
_instance = Instance(reload=_IS_RELOAD, master=os.getpid())
_instance.directory.make_early()
# Whether the exporter was started; the configuration that HUP has read last; the worker of this process, once it is forked and
# once it is initialized. A configuration's own hooks may call ours, which then do nothing the second time.
_ready = False
_reloaded: Config | None = None
_forked: Any = None
_worker: Any = None


def on_starting(server: Arbiter) -> None:
    """Make the directory ready. Does nothing the second time."""
    logs.install(getattr(server.log, "error_log", None))  # another logger class may have none
    with attempt("no metrics"):
        owner = _owner(server)
        # gunicorn calls no on_exit where it cannot listen.
        atexit.register(_discard, os.getpid())
        _instance.start(owner=owner)
        if _instance.directory.number is not None:
            gunicorn_exits.keep(
                _instance.path, _instance.directory.number, os.geteuid() if owner is None else owner[0]
            )
    nworkers_changed(server, server.num_workers, None)


def when_ready(server: Arbiter) -> None:
    """Start the exporter, now that the server listens. Does nothing the second time."""
    global _ready
    if not _ready:
        _ready = True
        if _IS_RELOAD:
            reloads.begin()
        with attempt("no metrics"):
            _instance.set_target(_target(server))
            _instance.start_exporter(log_file=_error_log(server))


def on_reload(server: Arbiter) -> None:
    """Give the exporter the settings of the configuration that HUP has read, and start one if there is none any more."""
    global _reloaded
    if server.cfg is not _reloaded:
        _reloaded = server.cfg
        reloads.begin()
    with attempt("the exporter goes on with the settings that it has"):
        _instance.reload(target=_target(server), owner=_owner(server), log_file=_error_log(server))


def nworkers_changed(_: Arbiter, new_value: int, _old_value: int | None) -> None:
    """Tell the exporter how many workers there are to be."""
    with attempt("the page does not say how many workers there are to be"):
        _instance.directory.tell_target(new_value)


def pre_exec(server: Arbiter) -> None:
    """Name the directory to the arbiter that USR2 starts: it gets the environment from before the configuration."""
    with attempt("the new arbiter makes a directory of its own"):
        _instance.directory.announce_in(server.cfg.env_orig)


def post_fork(server: Arbiter, worker: Any) -> None:
    """Claim a slot, in the worker, unless it drops to another user, who has to do that. Does nothing the second time."""
    if _owner(server) is None:
        _begin(worker)


def on_dirty_starting(_: Any) -> None:
    """Say what this process is, which starts dirty workers."""
    _be_dirty()


def dirty_worker_init(_: Any) -> None:
    """Say that this process is a dirty worker. (gunicorn calls dirty_post_fork in its parent.)"""
    _be_dirty()


def _be_dirty() -> None:
    with attempt("the page does not say that this process is a dirty worker"):
        roles.take(_instance.path, "dirty")


def post_worker_init(worker: Any) -> None:
    """Wrap the application, and claim a slot if that was not done. Does nothing the second time."""
    global _worker
    if worker is _worker:
        return
    _worker = worker
    with attempt("this worker's requests are not counted"):
        _wrap_application(worker)
    _begin(worker)
    serve()
    reloads.count()
    with attempt("a worker that stops is shown as idle or busy"):
        stop_at(signal.SIGTERM, signal.SIGQUIT, signal.SIGINT)


def _begin(worker: Any) -> None:
    global _forked
    if worker is not _forked:
        _forked = worker
        begin(booting=True)


def on_exit(_: Arbiter) -> None:
    """Remove the directory."""
    gunicorn_exits.forget()
    _discard(os.getpid())


def _discard(arbiter: int) -> None:
    if os.getpid() == arbiter:  # not in a worker
        with attempt("the directory is left to the exporter"):
            _instance.directory.discard()


def _check_config(config: Config) -> bool:
    """Return whether --check-config was given, and end the process if it was and a setting is wrong."""
    asked = bool(config.settings["check_config"].get())
    if asked:
        # As the arbiter does when it starts.
        os.environ.update(config.env)
        read_settings()
    return asked


def __getattr__(name: str) -> Callable[..., None]:
    """Return a hook of gunicorn's that does nothing: a configuration's own may call ours, whichever it is."""
    if any(setting.name == name and setting.section == "Server Hooks" for setting in KNOWN_SETTINGS):
        return lambda *_: None
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def _wrap_application(worker: Any) -> None:
    serves_wsgi = takes_two(getattr(worker, "wsgi", None))
    if serves_wsgi is None:
        # A worker class with coroutines serves ASGI. Anybody can write one, so its name says nothing.
        methods = (item for kind in type(worker).__mro__ for item in vars(kind).values())
        serves_wsgi = not any(inspect.iscoroutinefunction(method) for method in methods)
    if serves_wsgi:
        worker.wsgi = wrap_for_hook(worker.wsgi)
    else:
        worker.log.warning(
            "wsgi_prom: the application of %s is not a WSGI application: it does not take environ and start_response. Its "
            "requests are not counted. If it is a factory, name its call: myapp:create_app(). ASGI is not supported",
            type(worker).__name__,
        )


def _target(server: Arbiter) -> Target:
    # An application class of one's own, a BaseApplication, has none.
    return Target(
        getattr(server.app, "app_uri", None) or "",
        "gunicorn",
        gunicorn.__version__,
        str(server.cfg.worker_class_str),
        _concurrency(server.cfg),
        _sockets(server),
    )


def _sockets(server: Arbiter) -> tuple[ListeningSocket, ...]:
    """Return the sockets that the server listens on, none before it does."""
    if server.cfg.reuse_port:  # each worker has its own
        return tuple(
            ListeningSocket.at(*address) for address in server.cfg.address if isinstance(address, tuple)
        )
    found = [ListeningSocket.of(listener.fileno()) for listener in server.LISTENERS]
    return tuple(listening for listening in found if listening is not None)


def _concurrency(config: Config) -> int:
    """Return how many requests a worker serves at a time, 0 for a worker class that is none of gunicorn's own."""
    kind = str(config.worker_class_str)
    if kind in {"sync", "gthread"}:
        return int(config.threads) if kind == "gthread" else 1
    return int(config.worker_connections) if kind.startswith(("gevent", "eventlet")) else 0


def _owner(server: Arbiter) -> tuple[int, int] | None:
    """Return the uid and gid of the workers if they drop to --user while the arbiter stays root."""
    uid, gid = server.cfg.uid, server.cfg.gid
    return (uid, gid) if os.geteuid() == 0 and uid != 0 else None


def _error_log(server: Arbiter) -> int | None:
    """Return what the exporter writes its log to: the file that gunicorn has open, None for stderr."""
    # Opened by its name again, as root, in a folder of the workers' user, it could be anything that user has put there.
    for handler in getattr(getattr(server.log, "error_log", None), "handlers", ()):
        stream: Any = handler.stream if isinstance(handler, logging.FileHandler) else None
        if stream is not None:  # not open yet
            with suppress(OSError, ValueError):  # closed
                return int(stream.fileno())
    return None


def _call_after(ours: Callable[..., None]) -> Callable[[Any], Callable[..., None]]:
    """Return a setting's `get`: the configuration's own function, followed by *ours*."""

    def get(setting: Any) -> Callable[..., None]:
        theirs: Callable[..., None] = setting.value
        if theirs is ours:
            return ours

        def both(*arguments: Any) -> None:
            theirs(*arguments)
            ours(*arguments)

        return both

    return get


# gunicorn (19 to 27) looks its hooks up by the setting's `get`. There it finds ours behind the configuration's own, which the
# configuration cannot undo. Its own comes first: it may clear PROMETHEUS_MULTIPROC_DIR as the client library's recipe does,
# set a variable, wrap the application, or raise.
_HOOKS: Final = {
    hook.__name__: hook
    for hook in (
        on_starting,
        when_ready,
        on_reload,
        nworkers_changed,
        pre_exec,
        post_fork,
        post_worker_init,
        on_dirty_starting,
        dirty_worker_init,
        on_exit,
    )
}
for _setting in KNOWN_SETTINGS:
    if _setting.name in _HOOKS:
        _setting.get = _call_after(_HOOKS[_setting.name])  # type: ignore[assignment, method-assign]
gunicorn_exits.watch()
# gunicorn asks for this setting when the whole configuration is read, raw_env included, and before it loads the application.
Config.check_config = property(_check_config)  # type: ignore[attr-defined]
