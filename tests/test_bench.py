"""The benchmarks' logic: what they compare, and the report that they print. No test here looks at a time."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from datetime import datetime, timedelta, timezone
from functools import partial
from typing import Any

import instructions
import plot
import pytest
import report
import request
import serving
import usermetrics
from contender import measure_added
from contenders.bare import app as trivial
from harness import FOLDER, Child, Figure, Part, Ratio, Scale, added, interleave, merged, paired
from work import SLICES

NEEDS_PEERS = {"opentelemetry_wsgi"}  # of the benchmarks' own environment
CONTENDERS = sorted(
    path.stem for path in (FOLDER / "contenders").glob("*.py") if not path.stem.startswith("_")
)

ANSWERS = """
import sys
from importlib import import_module
from serving import environs

app = import_module(f"contenders.{sys.argv[1]}").application()
for environ in environs(2):
    told = []
    result = app(environ, lambda status, headers, exc_info=None: told.append(status))
    print(*told, b"".join(result).decode())
    getattr(result, "close", int)()
"""
ECHO = "from harness import answer; answer(lambda question: [question])"


class Clock:
    """A contender that returns given values, slice by slice, and notes that it was asked."""

    def __init__(self, name: str, values: list[float], asked: list[str]) -> None:
        self.name = name
        self.values = iter(values)
        self.asked = asked

    def __call__(self) -> float:
        self.asked.append(self.name)
        return next(self.values)


def figure(name: str, *values: float, unit: str = "ns") -> Figure:
    return Figure(name, unit, values)


def test_a_figure_is_told_by_its_median_and_its_extremes() -> None:
    """One slow round changes a figure's highest value and not its median."""
    found = figure("ours", 3.0, 1.0, 100.0)
    assert (3.0, (1.0, 100.0)) == (found.median, found.spread)


def test_a_ratio_is_of_the_same_round() -> None:
    """A round in which the whole machine is twice as slow changes no ratio."""
    assert 0.5 == paired(figure("ours", 10, 20, 10), figure("stock", 20, 40, 20))


def test_a_ratio_is_of_what_is_added() -> None:
    """The bare application's time in a round is subtracted from both contenders."""
    bare = figure("bare", 5, 10, 5)
    assert 0.25 == paired(figure("ours", 10, 20, 10), figure("stock", 25, 50, 25), bare)


def test_what_is_added_is_less_what_the_bare_application_takes() -> None:
    """The bare application's time is subtracted round by round, and the unit says so."""
    assert figure("ours", 5, 10, unit="ns added") == added(figure("ours", 10, 20), figure("bare", 5, 10))


def test_figures_of_different_rounds_are_not_compared() -> None:
    """Comparing figures with different numbers of rounds raises ValueError."""
    with pytest.raises(ValueError, match="shorter"):
        paired(figure("ours", 1, 2), figure("stock", 1))


@pytest.mark.parametrize(
    ("value", "at_least", "met"),
    [(0.33, False, True), (0.34, False, False), (0.95, True, True), (0.2, False, True), (0.1, True, False)],
)
def test_a_promise_is_kept_up_to_its_bound(value: float, at_least: bool, met: bool) -> None:
    """A value equal to the bound keeps the promise, whether the bound is the highest or the lowest value."""
    bound = 0.95 if at_least else 0.33
    assert met == Ratio("ours / stock", value, bound, at_least).met


def test_a_verdict_says_what_was_promised() -> None:
    """A verdict shows yes or NO, the value, the bound and the name of the ratio."""
    assert "yes     0.25  at most 0.33   ours / stock" == str(Ratio("ours / stock", 0.25, 0.33))
    assert "NO      0.90  at least 0.95   throughput" == str(Ratio("throughput", 0.9, 0.95, at_least=True))
    assert "        0.15  not judged     ours / peer" == str(Ratio("ours / peer", 0.15, None))


def test_contenders_are_asked_in_turns() -> None:
    """Each contender runs once per turn, the order changes, and a round's value is the median of its slices."""
    asked: list[str] = []
    clocks = {
        name: Clock(name, [value + 100 * (slice_ == 0) for value in (1, 2) for slice_ in range(3)], asked)
        for name in ("bare", "stock", "ours")
    }
    found = interleave(clocks, "ns", Scale(rounds=2, slices=3))
    turns = [tuple(asked[start : start + 3]) for start in range(0, len(asked), 3)]
    assert [sorted(clocks)] * 6 == [sorted(turn) for turn in turns]
    assert len(set(turns)) > 1
    assert {name: figure(name, 1, 2) for name in clocks} == found


def test_the_order_of_the_turns_is_the_same_each_time() -> None:
    """Two runs have the same order of turns, so only the machine makes them differ."""
    orders = []
    for _ in range(2):
        asked: list[str] = []
        interleave({name: Clock(name, [1.0] * 20, asked) for name in "abcd"}, "ns", Scale(4, 5))
        orders.append(asked)
    assert orders[0] == orders[1]


def test_a_child_answers_each_question() -> None:
    """A child process answers questions sent as lines of JSON until it is ended."""
    with Child(["-c", ECHO]) as child:
        assert [["one"], [None], [{"two": 2}]] == [child.ask(item) for item in ("one", None, {"two": 2})]


def test_a_child_that_ends_is_an_error() -> None:
    """Asking a child that has ended raises an error and gives no figure."""
    with Child(["-c", "raise SystemExit(3)"]) as child, pytest.raises((RuntimeError, BrokenPipeError)):
        child.ask()


def test_a_variable_can_be_taken_out_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """A variable whose value is None is removed from a child's environment; the hash seed is fixed."""
    monkeypatch.setenv("BENCH_TEST", "1")
    found = merged({"BENCH_TEST": None, "BENCH_OTHER": "2"})
    assert (None, "2", "0") == tuple(
        found.get(name) for name in ("BENCH_TEST", "BENCH_OTHER", "PYTHONHASHSEED")
    )


def part() -> Part:
    return Part(
        "A title",
        (figure("bare", 1.0), figure("stock", 6160.0, 7000.0, 6500.0), figure("ours", 6600.0)),
        (Ratio("ours / stock", 0.25, 0.33), Ratio("ours / floor", 4.0, 3.5)),
    )


def test_the_table_says_where_a_peer_does_better() -> None:
    """The table marks a peer that takes less than ours, but not a contender that measures nothing."""
    lines = report.table(part()).splitlines()
    assert "A title" == lines[0]
    assert [
        ["bare", "1", "1", "1", "ns"],
        ["stock", "6,500", "6,160", "7,000", "ns", "better", "than", "ours"],
    ] == [line.split() for line in lines[2:4]]


def test_a_peer_is_compared_in_the_same_case() -> None:
    """A peer is compared with ours in the same case only."""
    figures = (figure("stock 1 x 1000", 5), figure("ours 1 x 1000", 3), figure("ours 8 x 1000", 9))
    assert "better" not in report.table(Part("", figures, ()))


def test_of_a_rate_the_higher_is_better() -> None:
    """The table marks a peer that answers more requests a second, and not one that answers fewer."""
    figures = [figure(name, value, unit="req/s") for name, value in (("ours", 5), ("stock", 6), ("other", 4))]
    assert ["stock"] == re.findall(
        r"^ *(\w+).*better", report.table(Part("", tuple(figures), ())), re.MULTILINE
    )


def test_the_verdicts_are_counted() -> None:
    """The summary has one line for each ratio, and the number of promises that are kept, of those that were made."""
    unjudged = Part("", (), (Ratio("ours / peer", 9.0, None),))
    lines = report.verdicts([part(), part(), unjudged]).splitlines()
    assert [*map(str, (*part().ratios, *part().ratios, *unjudged.ratios))] == lines[:-1]
    assert "2 of 4 as promised" == lines[-1]


def test_the_json_has_all_values_and_what_they_are_of() -> None:
    """The JSON report has all values and verdicts, the machine, versions, date and command."""
    at = datetime(2026, 11, 25, 12, tzinfo=timezone(timedelta(hours=2)))
    found = json.loads(json.dumps(report.as_json({"request": part()}, ["python", "bench"], at)))
    assert ("2026-11-25T10:00:00+00:00", ["python", "bench"]) == (found["date"], found["command"])
    assert {"system", "processor", "cores", "load"} == found["machine"].keys()
    assert {"wsgi-prom", "prometheus-client"} <= found["packages"].keys()
    outcome = found["parts"]["request"]
    assert {"name": "stock", "unit": "ns", "median": 6500.0, "values": [6160.0, 7000.0, 6500.0]} in outcome[
        "figures"
    ]
    assert [True, False] == [ratio["met"] for ratio in outcome["ratios"]]


def test_the_scrape_picture_is_by_workers() -> None:
    """The scrape plot shows only the figures with 1,000 label sets, by number of workers."""
    figures = [
        figure(name, value, unit=unit)
        for name, value, unit in (
            ("stock 8 x 1000", 500, "ms"),
            ("stock 1 x 1000", 200, "ms"),
            ("ours 1 x 1000", 5, "ms"),
            ("ours 1 x 1000 cold", 9, "ms"),
            ("ours 8 x 100", 2, "ms"),
            ("ours 512 x 1000", 7, "MB"),
        )
    ]
    assert {"stock": [(1, 200), (8, 500)], "ours": [(1, 5)]} == plot.scrape_lines(
        Part("", tuple(figures), ())
    )


def test_the_request_picture_is_of_what_is_added() -> None:
    """The request plot leaves out the bare application and sorts the contenders, the cheapest first."""
    bars = [figure(name, value, unit="ns added") for name, value in (("stock", 6), ("ours", 2))]
    assert ["ours", "stock"] == [
        bar.name for bar in plot.request_bars(Part("", (figure("bare", 1), *bars), ()))
    ]


def test_a_framework_s_exporter_is_judged_by_instructions() -> None:
    """What is added under a framework has a bound in instructions; the ratio of times is shown without one."""
    figures = {name: figure(name, 1) for name in ("ours flask", "prometheus-flask-exporter flask")}
    assert [None] == [ratio.bound for ratio in request.ratios(figures, "time")]
    assert [1 / 8] == [ratio.bound for ratio in request.ratios(figures, "instructions")]


def test_what_was_promised_is_measured() -> None:
    """Each promise names figures that are measured, and each figure belongs to a contender's module."""
    groups = (*request.GROUPS, *request.GROUPS_IN_INSTRUCTIONS)
    figures = {name: module for group in groups for name, module in group.contenders.items()}
    promised = (*request.PROMISED, *request.PROMISED_IN_INSTRUCTIONS, *request.SHOWN_IN_INSTRUCTIONS)
    assert {name for top, bottom, *_ in promised for name in (top, bottom)} <= figures.keys()
    modules = {*figures.values(), *(module for module, _ in usermetrics.CONTENDERS.values())}
    assert set(CONTENDERS) == modules
    assert figures.keys() > instructions.GUARDED


@pytest.mark.parametrize("name", [name for name in CONTENDERS if name not in NEEDS_PEERS])
def test_a_contender_serves(name: str, tmp_path) -> None:
    """Each contender answers the benchmark's requests in a process of its own, in multiprocess mode."""
    done = subprocess.run(
        [sys.executable, "-c", ANSWERS, name],
        cwd=FOLDER, env=merged({"PROMETHEUS_MULTIPROC_DIR": str(tmp_path)}), capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    answer = "200 OK user 42" if re.match("flask|django", name) else "200 OK ok"
    if name.endswith("_empty"):
        answer = "204 No Content "
    assert f"{answer}\n" * 2 == done.stdout, done.stderr


class Body:
    """A result that notes whether it is iterated and closed."""

    def __init__(self, events: list[str]) -> None:
        self.events = events

    def __iter__(self):
        self.events.append("iterated")
        yield b"chunk"

    def close(self) -> None:
        self.events.append("closed")


@pytest.mark.parametrize("kind", ["requests", "threads"])
def test_the_bare_application_and_the_other_take_turns(kind: str) -> None:
    """The bare application and the measured one serve equally many requests, in turns, in one process."""
    served = {"bare": 0, "other": 0}

    def app(name: str, environ: dict[str, object], start_response: Any) -> list[bytes]:
        served[name] += 1
        return trivial(environ, start_response)

    before = sys.getswitchinterval()
    try:
        measure = SLICES[kind](partial(app, "other"), partial(app, "bare"))
        warm = dict(served)
        measure()
    finally:
        sys.setswitchinterval(before)
    assert warm["bare"] == warm["other"]
    assert served["bare"] == served["other"] > warm["bare"]


def test_what_a_contender_adds_is_measured_beside_the_bare_one() -> None:
    """Each contender gets one value a round; all but the bare one's are marked as added."""
    found = measure_added(
        "bare", {"bare": "bare", "floor": "floor"}, "requests", "ns", Scale(rounds=2, slices=1)
    )
    assert {"bare": ("ns", 2), "floor": ("ns added", 2)} == {
        name: (figure.unit, len(figure.values)) for name, figure in found.items()
    }


def test_a_result_is_used_as_a_server_does() -> None:
    """A result is iterated and closed; a file_wrapper's result is only closed, as with sendfile."""
    events: list[str] = []

    class File(Body, serving.FileWrapper):
        pass

    bodies = {"/file": File, serving.PATH: Body}
    requests = serving.environs(1) + serving.environs(1, iter([b"/file"]))
    serving.serve(lambda environ, _start: bodies[environ["PATH_INFO"]](events), requests)
    assert ["closed", "iterated", "closed"] == events
    assert [] == requests


def test_the_environs_are_as_gunicorn_makes_them() -> None:
    """An environ has about thirty keys, strings of its own, and a class as file_wrapper."""
    first, second = serving.environs(2)
    assert first.keys() == second.keys()
    assert 30 <= len(first) < 35
    assert first["PATH_INFO"] is not second["PATH_INFO"]
    assert isinstance(first["wsgi.file_wrapper"], type)
