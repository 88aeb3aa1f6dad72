"""The referee itself: it reports what it must."""

from __future__ import annotations

from collections import Counter

import live
import pytest
import servers
from chaos import referee
from chaos.referee import Case, Kind, Scrapes, Verdict, Window, compare

ROW = ("/", "200")


@pytest.mark.parametrize(
    ("in_doubt", "counted", "verdict"),
    [
        (0, 100, Verdict(0, 0)),
        (0, 99, Verdict(1, 0)),
        (0, 101, Verdict(0, 1)),
        (2, 100, Verdict(0, 0)),
        (2, 102, Verdict(0, 0)),
        (2, 103, Verdict(0, 1)),
        (2, 99, Verdict(1, 0)),
    ],
)
def test_counts_between_what_was_completed_and_what_is_in_doubt_are_right(
    in_doubt: int, counted: int, verdict: Verdict
) -> None:
    """A count below the completed requests is a loss; one above those that may have completed is a duplicate."""
    assert verdict == compare(Counter({ROW: 100}), Counter({"/": in_doubt}), {ROW: counted})


def test_what_one_route_lost_another_does_not_make_up_for() -> None:
    """Counts are compared by route and status."""
    completed = Counter({ROW: 10, ("/b", "200"): 10})
    assert Verdict(1, 1) == compare(completed, Counter(), {ROW: 9, ("/b", "200"): 11})
    assert Verdict(0, 1) == compare(completed, Counter(), {ROW: 10, ("/b", "200"): 10, ("/b", "500"): 1})
    assert Verdict(20, 0) == compare(completed, Counter(), {})


def test_a_fault_explains_only_what_was_under_way() -> None:
    """A fault does not explain a failed request that ended before it, began after it, or went elsewhere."""
    window = Window(10.0, 10.1, None, down=False)
    kind = Kind("/", "/", 200, b"ok")
    times = [(9.0, 9.9), (9.0, 10.05), (10.05, 11.0), (10.2, 11.0)]
    assert [False, True, True, False] == [window.explains(referee.Cut(kind, *time, "")) for time in times]
    assert not window._replace(route="/b").explains(referee.Cut(kind, 9.0, 11.0, ""))


def test_scrapes_that_fail_or_go_back_are_noticed() -> None:
    """A counter that sinks or vanishes, and a scrape that fails, are reported."""
    name = "http_requests_total"
    first, second = (name, frozenset({("route", "/")})), (name, frozenset({("route", "/b")}))
    pages = iter([{first: 2.0, second: 1.0}, {first: 1.0}, {("process_cpu_seconds_total", frozenset()): 3.0}])
    scrapes = Scrapes(lambda: next(pages, None) or live.parse_samples("a 1\na 1\n"))
    assert [True, True, True, False] == [scrapes.scrape() for _ in range(4)]
    assert len(scrapes.went_back) == 3
    assert len(scrapes.failed) == 1


@pytest.mark.parametrize(
    ("app", "problem"), [("forgets", "lost"), ("doubles", "doubled"), ("answers", "nowhere")]
)
def test_one_request_in_a_hundred_is_noticed(app: str, problem: str) -> None:
    """On a real server one missed count, one extra count and one different answer in a hundred are reported."""
    with servers.start("gunicorn sync", app=f"miscounted:{app}", workers=2) as server:
        with pytest.raises(AssertionError, match=problem):
            with Case("", server, filed=False) as case:
                case.wait_for(300)
    assert [problem == "lost", problem == "doubled", problem == "nowhere"] == [
        case.figures.lost > 0,
        case.figures.doubled > 0,
        case.figures.wrong > 0,
    ]
