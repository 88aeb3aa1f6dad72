"""The servers under benchmarks, with the hook or bare."""

from __future__ import annotations

from urllib.parse import urlsplit

from harness import FOLDER

from runner import proc
from runner.server import Server


class Daemon(Server):
    """A server of an application that is a module of this folder."""

    module_folders = (FOLDER,)

    @property
    def address(self) -> tuple[str, int]:
        """The application's host and port."""
        url = urlsplit(self.url)
        return str(url.hostname), url.port or 80

    def cpu_seconds(self) -> float:
        """Return the CPU time of the server and its living workers, without the exporter's."""
        # The exporter has a session of its own.
        return sum(proc.cpu_seconds(pid) for pid in proc.pids() if proc.session(pid) == self.pid)


def gunicorn(application: str, *options: str, workers: int, hook: bool, **env: str) -> Daemon:
    """Return a gunicorn that serves *application*."""
    config = "python:wsgi_prom.hooks.gunicorn" if hook else None
    return Daemon.gunicorn(application, *options, workers=workers, config=config, **env)


def uwsgi(application: str, *options: str, workers: int, hook: bool, **env: str) -> Daemon:
    """Return a uWSGI that serves *application*."""
    options = ("--disable-logging", *options)
    if hook:
        return Daemon.uwsgi(application, *options, workers=workers, **env)
    return Daemon.uwsgi(None, *options, workers=workers, module=application, hook=None, **env)
