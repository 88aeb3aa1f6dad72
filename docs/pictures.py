"""
Make the pictures of the page for people and of `wsgi-prom top`, from a real gunicorn under load: `make pictures`.

The load rises and falls for a minute, and a worker is killed in it.
"""

from __future__ import annotations

import math
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import contextmanager
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Final

HERE: Final = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from rich.console import Console  # noqa: E402 - the clone is on the path only now

from demo.load import kind_of, send  # noqa: E402
from demo.scenario import start  # noqa: E402
from wsgi_prom.cli import top_screen  # noqa: E402
from wsgi_prom.cli.top_url import UrlViews  # noqa: E402
from wsgi_prom.push.endpoint import Login  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Iterator

    from runner.server import Server
    from wsgi_prom.live.view import View

_SECONDS: Final = 50
_CLIENTS: Final = 12
_PAGE: Final = (1180, 1230)
# As many as Debian's chromium needs to draw the page once, and none of its seconds more.
_BROWSER: Final = (
    "chromium", "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars",
)  # fmt: skip


@contextmanager
def load(url: str) -> Iterator[None]:
    """Send requests of all kinds, at a rate that rises and falls."""
    ended = threading.Event()

    def client(number: int) -> None:
        began = time.monotonic()
        while not ended.wait(0.03 * (1.6 + math.sin((time.monotonic() - began) / 7))):
            send(url, kind_of(number), number=number)
            number += _CLIENTS

    clients = [threading.Thread(target=client, args=(number,)) for number in range(_CLIENTS)]
    for thread in clients:
        thread.start()
    try:
        yield
    finally:
        ended.set()
        for thread in clients:
            thread.join()


def looked(server: Server, page: str) -> View:
    """Look at *page* each second, and kill a worker after a third of the time. Return the last view."""
    views = UrlViews(page, Login())
    for second in range(_SECONDS):
        view = views.look()
        if second == _SECONDS // 3:
            server.signal_child(min(server.workers()), signal.SIGKILL)
        time.sleep(1)
    return view


def draw_top(view: View) -> None:
    """Write what `wsgi-prom top` draws, in a terminal of 100 columns."""
    console = Console(record=True, width=100, height=28, file=StringIO(), force_terminal=True)
    console.print(top_screen.screen(view, top_screen.Shown(), 100, 28))
    # Without the addresses of rich's fonts: no picture of ours asks another host.
    drawn = re.sub(r"@font-face \{.*?\}", "", console.export_svg(title="wsgi-prom top"), flags=re.DOTALL)
    (HERE / "top.svg").write_text(drawn)


def draw_page(url: str) -> None:
    with tempfile.TemporaryDirectory() as profile:
        size = "{},{}".format(*_PAGE)
        options = [f"--user-data-dir={profile}", f"--window-size={size}", f"--screenshot={HERE / 'page.png'}"]
        subprocess.run([*_BROWSER, *options, url], check=True, timeout=120, capture_output=True)


def main() -> int:
    if shutil.which(_BROWSER[0]) is None:
        print("pictures: chromium is not installed (Debian: chromium)", file=sys.stderr)
        return 1
    with start("gunicorn", 1_000_000) as server, load(server.url):
        page = server.metrics_url.removesuffix("metrics")
        view = looked(server, page)
        draw_page(page)
        draw_top(view)
    return 0


if __name__ == "__main__":
    sys.exit(main())
