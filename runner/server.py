"""
gunicorn and uWSGI, on ports that the system chooses and the servers log.

Nothing here sends a request: callers compare exact counts, so readiness is read from the log.
"""

from __future__ import annotations

import re
import signal
from typing import TYPE_CHECKING, Final

from runner.environment import BIN
from runner.proc import processes, session
from runner.program import Program

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping, Sequence
    from typing import Self

METRICS_LINE: Final = re.compile(r"wsgi_prom: metrics at (http://\S+)")
GUNICORN_LINE: Final = re.compile(r"Listening at: (http://[^\s,]+).* \(\d+\)")
UWSGI_LINE: Final = re.compile(r"uwsgi socket 0 (?:bound to TCP|inherited INET) address (\S+:\d+)")


class Server(Program):
    """
    A program that serves HTTP at *url*, or at the first group of the pattern *address* in its log.

    The last match counts: a server logs its address again when it reloads.
    """

    def __init__(
        self,
        command: Sequence[str | os.PathLike[str]],
        *,
        cwd: str | os.PathLike[str] | None = None,
        env: Mapping[str, str | None] | None = None,
        ready: tuple[re.Pattern[str] | str, int] | None = None,
        address: re.Pattern[str] | None = None,
        url: str | None = None,
        stop_signal: int = signal.SIGTERM,
    ) -> None:
        super().__init__(command, cwd=cwd, env=env, ready=ready, stop_signal=stop_signal)
        self._address = address
        self._url = url

    @classmethod
    def gunicorn(
        cls,
        app: str,
        *options: str,
        workers: int = 4,
        config: str | None = "python:wsgi_prom.hooks.gunicorn",
        cwd: str | os.PathLike[str] | None = None,
        **env: str | None,
    ) -> Self:
        """
        Return a gunicorn that serves *app* with the hook, or without where *config* is None.
        """
        # A gevent worker that is still booting misses its SIGTERM (tried), and gunicorn waits 30 s for it by default.
        command = ["--bind", "127.0.0.1:0", "--workers", str(workers), "--graceful-timeout", "10"]
        if config is not None:
            command += ["--config", config]
        return cls(
            [BIN / "gunicorn", *command, *options, app],
            cwd=cwd,
            env=env,
            ready=(r"Booting worker with pid", workers),
            address=GUNICORN_LINE,
        )

    @classmethod
    def uwsgi(
        cls,
        app: str | None,
        *options: str,
        workers: int = 4,
        module: str = "wsgi_prom.wsgi:application",
        hook: str | None = "wsgi_prom.hooks.uwsgi",
        port: int = 0,
        cwd: str | os.PathLike[str] | None = None,
        **env: str | None,
    ) -> Self:
        """
        Return a uWSGI that serves *module* with the hook, or without where *hook* is None; WSGI_PROM_APP is *app*.

        A test that reloads the master needs a *port*: the master would bind another one that the system chooses.
        """
        command = ["--http-socket", f"127.0.0.1:{port}", "--master", "--need-app", "--die-on-term"]
        # A worker that is still loading its application misses the signal to end (tried without wsgi_prom too), and
        # the master waits 60 s for it by default.
        command += ["--processes", str(workers), "--worker-reload-mercy", "10"]
        if hook is not None:
            command += ["--shared-import", hook]
        return cls(
            [BIN / "uwsgi", *command, "--module", module, *options],
            cwd=cwd,
            env={"WSGI_PROM_APP": app, **env},
            ready=(
                r"WSGI app 0 .* ready" if "--lazy-apps" in options else r"spawned uWSGI worker \d+",
                workers,
            ),
            address=UWSGI_LINE,
        )

    @property
    def url(self) -> str:
        """
        The application's URL.
        """
        if self._url is not None:
            return self._url
        if self._address is None:
            raise RuntimeError("neither url nor address was given")
        found = self.wait_for_log(self._address)[1]
        return found if found.startswith("http") else f"http://{found}"

    @property
    def metrics_url(self) -> str:
        """
        The URL of the page that the exporter serves.
        """
        return self.wait_for_log(METRICS_LINE)[1]

    def workers(self, pid: int | None = None) -> list[int]:
        """
        Return the living workers of the main process (or of *pid*): children in its session, which an exporter leaves.
        """
        # Not by `children`, which may omit one, nor by command lines, which gunicorn rewrites where setproctitle is
        # installed.
        master = pid or self.pid
        own = (master, session(master))
        return sorted(child.pid for child in processes() if (child.parent, child.session) == own)
