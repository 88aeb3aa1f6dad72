"""An application that spends what it is asked to: CPU time, memory, the time of a child process. And tells of its process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from typing import TYPE_CHECKING

from plain import query, text

if TYPE_CHECKING:
    from collections.abc import Iterable
    from wsgiref.types import StartResponse, WSGIEnvironment

kept: list[bytearray] = []


def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    environ["wsgi_prom.route"] = path = environ["PATH_INFO"]
    asked = query(environ)
    if path == "/burn":
        burn(float(asked["s"]))
    elif path == "/grow":
        kept.append(bytearray(b"x" * (int(asked["mb"]) << 20)))
    elif path == "/child":
        subprocess.run(
            [sys.executable, "-c", f"import spending; spending.burn({asked['s']})"], check=True, timeout=60
        )
    # Not at once: another worker may take the next request.
    time.sleep(0.05)
    return text(start_response, json.dumps({"pid": os.getpid(), "psutil": "psutil" in sys.modules}))


def burn(seconds: float) -> None:
    """Spend *seconds* of CPU time, and no other."""
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        pass
