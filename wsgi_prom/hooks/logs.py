"""
Where the log lines of `wsgi_prom` go in a server's processes whose application has not configured logging: to the server's log.
"""

from __future__ import annotations

import copy
import logging
import sys

_log = logging.getLogger("wsgi_prom")


class _ServerLog(logging.Handler):
    """Writes warnings to *server*'s logger, or to stderr as gunicorn has it; nothing where another handler gets them too."""

    server: logging.Logger | None = None

    def emit(self, record: logging.LogRecord) -> None:
        if len(_log.handlers) > 1 or logging.getLogger().handlers:
            return
        try:
            told = copy.copy(record)
            # Some messages have the prefix, since they are logged where no hook is as well.
            told.msg, told.args = f"wsgi_prom: {record.getMessage().removeprefix('wsgi_prom: ')}", ()
            if self.server is not None:
                self.server.handle(told)
            elif sys.stderr is not None:  # closed before the server started
                sys.stderr.write(f"{self.format(told)}\n")
        except Exception:
            self.handleError(record)


_handler = _ServerLog(logging.WARNING)
_handler.setFormatter(
    logging.Formatter("[%(asctime)s] [%(process)d] [%(levelname)s] %(message)s", "%Y-%m-%d %H:%M:%S %z")
)


def install(server: logging.Logger | None = None) -> None:
    """Write the lines to *server*, a server's own logger, or to stderr. The last call counts."""
    _handler.server = server
    _log.addHandler(_handler)  # once, whoever calls again
