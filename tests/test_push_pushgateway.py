"""A real Pushgateway: it shows what a page shows, in a group of its own."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import live
import pushed
import pytest
from samples import parse_samples

from wsgi_prom.cli import main
from wsgi_prom.exporter.exposition import render
from wsgi_prom.merge.collector import Collector
from wsgi_prom.push.login import Login
from wsgi_prom.push.pushgateway import Pushgateway
from wsgi_prom.push.sender import PushError

if TYPE_CHECKING:
    from pathlib import Path

GROUP = {"job": "shop/a", "instance": "web-1", "zone": "eu"}


def shown(url: str) -> dict[Any, float]:
    """Return what the gateway shows of the application, without the labels of its group."""
    found = parse_samples(live.request(f"{url}/metrics").body.decode())
    own = {key: value for key, value in found.items() if key[0].startswith("shop_")}
    assert all(labels >= GROUP.items() for _, labels in own)
    return {(name, labels - frozenset(GROUP.items())): value for (name, labels), value in own.items()}


def test_a_real_pushgateway(shared: Path) -> None:
    """
    It has for each series the figure of a page of the directory, less what ended; what is recorded before SIGTERM is there, and what a
    metric calls as the grouping key does is renamed. A path that is none of a gateway is told with the remedy.
    """

    def page() -> dict[Any, float]:
        found = parse_samples(render(Collector(shared).collect()))
        return {key: value for key, value in found.items() if key[0].startswith("shop_")}

    with live.hold_port() as held, pushed.application(shared) as record:
        url = f"http://127.0.0.1:{held.getsockname()[1]}"
        command = ["prometheus-pushgateway", f"--web.listen-address={url.removeprefix('http://')}"]
        options = [
            "--pushgateway",
            f"{url}/",
            "--job",
            "shop/a",
            "--instance",
            "web-1",
            "--grouping",
            "zone=eu",
        ]
        record("book", 3, -4.5, [0.2, 9.0])
        with live.LiveServer(command, ready=(r"Listening on", 1), url=url):
            with pushed.pushing(shared, *options) as push:
                first = page()
                live.eventually(lambda: shown(url), lambda found: found == first)
                record("game", 1, 7)
                second = page()
                push.kill(15)
                assert 0 == push.wait()
            assert second == shown(url)
            assert first != second
            pushgateway = Pushgateway(url, Login(), GROUP, 1.0)
            pushgateway.send(
                pushed.reading(pushed.gauge("shop_own", (("instance", "theirs"),), 1)), threading.Event()
            )
            assert {("shop_own", frozenset({("exported_instance", "theirs")})): 1.0} == shown(url)
            wrong = Pushgateway(f"{url}/wrong", Login(), GROUP, 1.0)
            with pytest.raises(PushError, match=r"answers 404 .* It should be a Pushgateway"):
                wrong.send(pushed.reading(pushed.gauge("shop_own", (), 1)), threading.Event())


@pytest.mark.parametrize("given", ["zone", "job=a", "a-b=c", "zone=", "__zone=a"])
def test_labels_that_cannot_group(given: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A grouping key has labels as Prometheus allows, and neither job nor instance twice."""
    status = main(["push", "--directory", str(tmp_path), "--pushgateway", "http://h", "--grouping", given])
    expected = f"--grouping={given!r} is not a label. Give NAME=VALUE; --job and --instance have options of their own."
    assert (1, f"wsgi_prom: {expected}\n") == (status, capsys.readouterr().err)
