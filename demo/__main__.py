"""Run the demo: `python -m demo`, from the root of a clone. `make demo` installs what it needs first."""

from __future__ import annotations

import argparse
import signal
import sys
from http.client import HTTPException
from typing import Any, NoReturn

from runner.program import ProgramError

try:
    from demo.scenario import SERVERS, play
except ModuleNotFoundError as error:
    sys.exit(f"demo: {error}. `make demo` installs all that the demo needs.")


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m demo",
        description="Run a real server under load, kill a worker, and compare what was sent with what was counted.",
    )
    parser.add_argument("--server", choices=SERVERS, default="uwsgi", help="default: %(default)s")
    parser.add_argument(
        "--requests", type=int, default=4000, metavar="N", help="how many to send, default: %(default)s"
    )
    parser.add_argument(
        "--keep", action="store_true", help="leave the server running afterwards, until Ctrl-C"
    )
    arguments = parser.parse_args()
    # The server has a session of its own, so the demo has to end it before it ends itself. SIGINT is set even where a
    # shell without job control made its background process ignore it; an ignored SIGHUP is nohup's.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if number == signal.SIGINT or signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, _interrupt)
    try:
        return 0 if play(arguments.server, arguments.requests, keep=arguments.keep) else 1
    except (ProgramError, HTTPException, OSError) as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def _interrupt(*_: Any) -> NoReturn:
    raise KeyboardInterrupt


sys.exit(main())
