"""uWSGI's hook: applications that nobody wraps, and what a master does between the import and the first fork."""

from __future__ import annotations

import live
import pytest
import servers

UNWRAPPED = r"\[WARNING\] wsgi_prom: requests are served, and none is counted: no application is wrapped"


@pytest.mark.parametrize("options", [(), ("--lazy-apps",)], ids=["prefork", "lazy-apps"])
def test_an_application_that_nobody_wraps_is_told_once(options: tuple[str, ...]) -> None:
    """The hook, and module = myapp:app: one line that says what to do."""
    with live.uwsgi(*options, module="plain:app", app=None, workers=2) as server:
        live.drive(server.url, ["/"] * 5)
        assert server.wait_for_log(UNWRAPPED)
        assert {} == servers.requests_counted(server.samples())


def test_an_application_that_is_wrapped_at_its_first_request_is_no_false_alarm() -> None:
    """In another worker than the one that looks, too: after the looks that would have told it, the log says nothing."""
    with live.uwsgi("--threads", "2", module="late:app", app=None, workers=2) as server:
        live.drive(server.url, ["/"] * 5)
        signals = live.eventually(lambda: int(server.get("/signals").body), lambda found: found >= 4)
        log = server.log()
        assert {("/", "200"): 5} == servers.requests_counted(server.samples())
    assert signals >= 4
    assert "no application is wrapped" not in log
