"""
An application as anyone has it: nothing in here knows how, or whether, it is measured.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from flask import Flask, Response, request
from prometheus_client import Counter

if TYPE_CHECKING:
    from collections.abc import Iterator

# Whoever asks must not be able to keep a worker for longer than this.
LONGEST_SLEEP = 5.0

app = Flask(__name__)

# The application's own metrics are plain prometheus_client: made anywhere, in any process.
PROFILE_VIEWS = Counter("shop_profile_views_total", "Profiles shown.", ["member"])


@app.get("/")
def index() -> str:
    return "Hello\n"


@app.get("/users/<int:user_id>")
def user(user_id: int) -> dict[str, object]:
    # A label of two values, not one for each user: every label set is kept for good.
    member = user_id % 2 == 0
    PROFILE_VIEWS.labels("yes" if member else "no").inc()
    return {"id": user_id, "member": member}


@app.get("/slow")
def slow() -> str:
    seconds = min(request.args.get("seconds", 0.25, type=float), LONGEST_SLEEP)
    time.sleep(max(seconds, 0.0))
    return f"Slept for {seconds} s\n"


@app.get("/stream")
def stream() -> Response:
    def lines() -> Iterator[str]:
        for number in range(5):
            # The work happens while the body is sent: a duration that ends where the view returns misses it.
            time.sleep(0.02)
            yield f"line {number}\n"

    return Response(lines(), mimetype="text/plain")


@app.get("/fail")
def fail() -> str:
    raise RuntimeError("asked to fail")
