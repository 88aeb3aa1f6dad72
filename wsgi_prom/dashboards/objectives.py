"""
Service level objectives, as an operator writes them (`99.9% of /pay under 0.3s`), and the rules that watch them.

1. An objective is for each job. Its error budget is the share of requests that may be bad.
2. A burn rate of 1 uses up the budget of 30 days in 30 days. An alert asks about two windows: the long one says that it
   matters, the short one that it still goes on. Windows and factors are those of Google's SRE workbook (chapter 5), as sloth has them.
3. Where there are no requests, there is no figure: a share of nothing would stay NaN in each mean over it.
"""

from __future__ import annotations

import json
import re
from bisect import bisect
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Final, NamedTuple

from prometheus_client.utils import floatToGoString

from wsgi_prom.errors import SettingError
from wsgi_prom.metrics import DURATION, METHODS, REQUESTS

if TYPE_CHECKING:
    from collections.abc import Container, Iterable, Iterator, Sequence

    from wsgi_prom.dashboards.naming import Naming

DEFAULTS: Final = ("99.9% of requests succeed", "99% of requests under 1s")

_FORM: Final = re.compile(
    r"(?P<percent>\d{1,2}(?:\.\d{1,6})?)% of (?:(?P<method>[A-Z]+) )?(?P<route>\S+) "
    r"(?:succeed|under (?P<number>\d{1,5}(?:\.\d{1,6})?)(?P<unit>ms|s))",
    re.ASCII,
)
_RIGHT: Final = "an objective such as '99.9% of /pay under 0.25s', '99.5% of POST /pay succeed' or '99% of requests under 1s'"
_ALL: Final = "requests"
_RATIO: Final = f"job_slo:{REQUESTS[0]}_bad:ratio_rate"
_LEFT: Final = f"job_slo:{REQUESTS[0]}_error_budget:remaining30d"
_WINDOWS: Final = ("5m", "30m", "1h", "2h", "6h", "1d", "3d")


class _Burn(NamedTuple):
    """The two windows of a condition, and how many times too fast the budget burns in both."""

    short: str
    long: str
    factor: Decimal


# Of the budget of 30 days: 2 % in an hour, 5 % in six hours; 10 % in a day, 10 % in three days.
_BURNS: Final = {
    "critical": (_Burn("5m", "1h", Decimal("14.4")), _Burn("30m", "6h", Decimal(6))),
    "warning": (_Burn("2h", "1d", Decimal(3)), _Burn("6h", "3d", Decimal(1))),
}


@dataclass(frozen=True)
class Objective:
    """
    An objective. *seconds* is a bound of the duration's histogram; None: requests shall not fail (a status of 5xx).

    *route* and *method* are empty for all.
    """

    text: str
    budget: Decimal
    route: str
    method: str
    seconds: float | None

    @classmethod
    def read(cls, text: str, bounds: Sequence[float]) -> Objective:
        """
        Read what an operator has written. *bounds* are those of the duration's histogram, in seconds.

        Raises SettingError, with the nearest bounds if the time is none of them.
        """
        match = _FORM.fullmatch(text)
        budget = 1 - Decimal(match["percent"]) / 100 if match else Decimal(0)
        if match is None or not 0 < budget < 1 or match["method"] not in {None, *METHODS}:
            raise SettingError(f"--slo={text!r} is not {_RIGHT}.")
        seconds = None
        if match["number"]:
            seconds = float(Decimal(match["number"]) / (1000 if match["unit"] == "ms" else 1))
            if seconds not in bounds:
                raise SettingError(_not_a_bound(text, seconds, bounds))
        route = "" if match["route"] == _ALL else match["route"]
        return cls(text, budget.normalize(), route, match["method"] or "", seconds)

    def matchers(self, selector: str, naming: Naming) -> str:
        """Return *selector* with the matchers of route and method."""
        more = [
            f"{name}={_quoted(value)}"
            for name, value in ((naming.names.route, self.route), (naming.names.method, self.method))
            if value
        ]
        return ", ".join([selector, *more])

    def bad(self, selector: str, naming: Naming, window: str) -> str:
        """Return the expression for the rate of bad requests by job, in a range of *window*."""
        matchers = self.matchers(selector, naming)
        requests, duration = map(naming.applied, (REQUESTS[0], DURATION[0]))
        if self.seconds is None:
            return (
                f'sum by (job) (rate({requests}_total{{{matchers}, {naming.names.status}=~"5.."}}[{window}]))'
            )
        # A page in text says 1.0, one in protobuf 1.
        bound = str(floatToGoString(self.seconds))  # type: ignore[no-untyped-call]
        le = (
            f'le=~"{bound.removesuffix(".0")}|{re.escape(bound)}"'
            if bound.endswith(".0")
            else f'le="{bound}"'
        )
        le = le.replace("\\", "\\\\")
        return (
            f"(sum by (job) (rate({duration}_count{{{matchers}}}[{window}]))\n"
            f"  - sum by (job) (rate({duration}_bucket{{{matchers}, {le}}}[{window}])))"
        )

    def total(self, selector: str, naming: Naming, window: str) -> str:
        """Return the expression for the rate of all requests of the objective by job, in a range of *window*."""
        matchers = self.matchers(selector, naming)
        name = f"{REQUESTS[0]}_total" if self.seconds is None else f"{DURATION[0]}_count"
        return f"sum by (job) (rate({naming.applied(name)}{{{matchers}}}[{window}]))"


def read(texts: Iterable[str], bounds: Sequence[float], *, disabled: Container[str] = ()) -> list[Objective]:
    """Read several objectives. Raises SettingError, also for one that is there twice, or that needs a metric that is *disabled*."""
    found: dict[str, Objective] = {}
    for text in texts:
        if text in found:
            raise SettingError(f"--slo={text!r} is given twice. Give it once.")
        found[text] = Objective.read(text, bounds)
        if found[text].seconds is not None and DURATION[0] in disabled:
            raise SettingError(
                f"--slo={text!r} needs {DURATION[0]}, which WSGI_PROM_DISABLE leaves out. Give objectives that end in: succeed."
            )
    return list(found.values())


def rules(objectives: Iterable[Objective], selector: str, naming: Naming) -> str:
    """Return the groups of rules for *objectives*, as items of a list in YAML."""
    return "\n".join("".join(_group(objective, selector, naming)) for objective in objectives)


def _group(objective: Objective, selector: str, naming: Naming) -> Iterator[str]:
    name = _quoted(objective.text)
    yield f"  - name: {_quoted(f'wsgi_prom.objective {objective.text}')}\n    rules:\n"
    for window in _WINDOWS:
        bad, total = (ask(selector, naming, window) for ask in (objective.bad, objective.total))
        yield f"      - record: {naming.applied(_RATIO + window)}\n        expr: >-\n"
        yield _folded(f"{bad}\n  / ({total} > 0)")
        yield f"        labels: {{slo: {name}}}\n"
    mean = f"avg_over_time({naming.applied(_RATIO + _WINDOWS[0])}{{{selector}, slo={name}}}[30d])"
    yield f"      - record: {naming.applied(_LEFT)}\n        expr: >-\n"
    yield _folded(f"1 - {mean} / {objective.budget:f}")
    yield f"        labels: {{slo: {name}}}\n"
    for severity, burns in _BURNS.items():
        conditions = [
            "\n    and ".join(
                f"{naming.applied(_RATIO + window)}{{{selector}, slo={name}}} > {burn.factor} * {objective.budget:f}"
                for window in (burn.short, burn.long)
            )
            for burn in burns
            # No share of bad requests is above 1.
            if burn.factor * objective.budget < 1
        ]
        if conditions:
            yield _alert(objective, severity, "\n  or ".join(conditions))


def _alert(objective: Objective, severity: str, expression: str) -> str:
    kind = "Error" if objective.seconds is None else "Latency"
    share = "{{ $value | humanizePercentage }} of the requests of {{ $labels.job }}"
    is_bad = "failed" if objective.seconds is None else "were too slow"
    return (
        f"      - alert: Wsgi{kind}BudgetBurn\n        expr: >-\n{_folded(expression)}"
        f"        labels: {{severity: {severity}, slo: {_quoted(objective.text)}}}\n        annotations:\n"
        f"          summary: {_quoted(f'{share} {is_bad}: {{{{ $labels.slo }}}}')}\n"
        f"          runbook_url: docs/alerts.md#wsgi{kind.lower()}budgetburn\n"
    )


def _quoted(text: str) -> str:
    """Return *text* as a string of PromQL, and of YAML."""
    return json.dumps(text, ensure_ascii=False)


def _folded(text: str) -> str:
    """
    Return the lines of *text* as a folded scalar of YAML, which is one line: jsonnet 0.18 reads no line end in a string.
    """
    return "".join(f"{' ' * 10}{line.strip()}\n" for line in text.split("\n"))


def _not_a_bound(text: str, seconds: float, bounds: Sequence[float]) -> str:
    place = bisect(bounds, seconds)
    near = " or ".join(f"{bound:g}s" for bound in bounds[max(place - 1, 0) : place + 1])
    return (
        f"--slo={text!r}: {seconds:g}s is not a bound of {DURATION[0]}. Write {near} (the nearest), or add "
        f"{seconds:g} to WSGI_PROM_BUCKETS, for the server and for this command."
    )
