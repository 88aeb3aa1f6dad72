"""`wsgi-prom rules`: the rules that are shipped, each alert's cases, and what a user chooses."""

from __future__ import annotations

import re
import subprocess
from functools import cache
from typing import TYPE_CHECKING, Any

import commands
import live
import promql
import pytest
import queries
import yaml

from wsgi_prom.dashboards import objectives, rules
from wsgi_prom.dashboards.naming import Naming
from wsgi_prom.settings import Settings

if TYPE_CHECKING:
    from pathlib import Path

SHIPPED = live.ROOT / "wsgi_prom" / "dashboards" / "rules.yaml"
CASES = [live.ROOT / "tests" / name for name in ("alerts.yaml", "objectives.yaml")]
RUNBOOK = (live.ROOT / "docs" / "alerts.md").read_text()


def run(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    return commands.run("rules", *arguments, **environ)


@cache
def read(text: str) -> Any:
    """Return a document that is read once for all that is asked of it."""
    return yaml.safe_load(text)


def items(text: str) -> list[dict[str, Any]]:
    """Return the rules of all groups."""
    return [rule for group in read(text)["groups"] for rule in group["rules"]]


ALERTS = sorted({rule["alert"] for rule in items(SHIPPED.read_text()) if "alert" in rule})


def test_the_shipped_rules_are_those_of_the_command(tmp_path: Path) -> None:
    """Without a choice the command writes what the package has as a file, which promtool accepts."""
    done = run("--out", str(tmp_path / "rules.yaml"))
    assert (0, "", "") == (done.returncode, done.stdout, done.stderr)
    assert SHIPPED.read_text() == (tmp_path / "rules.yaml").read_text(), "run make dashboards"
    assert run().stdout == SHIPPED.read_text()
    queries.check_rules(SHIPPED)


def test_each_alert_fires_when_it_should() -> None:
    """promtool finds that each alert fires in its case and does not in another: tests/alerts.yaml and tests/objectives.yaml."""
    done = subprocess.run(
        ["promtool", "test", "rules", *CASES], capture_output=True, text=True, timeout=120, check=False
    )
    assert 0 == done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize("alert", ALERTS)
def test_each_alert_has_its_cases_and_its_runbook(alert: str) -> None:
    """Each alert has a case that fires it and one that does not, a severity, and a link to its own section of docs/alerts.md."""
    asked = [
        case
        for path in CASES
        for test in read(path.read_text())["tests"]
        for case in test["alert_rule_test"]
        if case["alertname"] == alert
    ]
    assert {True, False} == {bool(case["exp_alerts"]) for case in asked}
    for rule in items(SHIPPED.read_text()):
        if rule.get("alert") == alert:
            assert rule["labels"]["severity"] in {"critical", "warning"}
            assert f"docs/alerts.md#{alert.lower()}" == rule["annotations"]["runbook_url"]
    assert f"\n## {alert}\n" in RUNBOOK


def test_the_runbook_has_no_other_alerts() -> None:
    """Each section of docs/alerts.md that is named as an alert is of one, and has what it means, what to look at, what to do."""
    sections = dict(re.findall(r"^## (Wsgi\w+)\n(.*?)(?=^## |\Z)", RUNBOOK, re.DOTALL | re.MULTILINE))
    assert ALERTS == sorted(sections)
    parts = ["**Means:**", "**Look at:**", "**Do:**"]
    assert [] == [name for name, text in sections.items() if not all(part in text for part in parts)]


def test_the_rules_name_what_is_exported() -> None:
    """No expression names a metric or a label that the package does not export or a rule before it does not record."""
    found = items(SHIPPED.read_text())
    series = promql.recorded(found)
    assert [] == [wrong for rule in found for wrong in promql.unknown(rule["expr"], series)]


def test_the_labels_of_an_annotation_are_those_of_the_alert() -> None:
    """Each label in a summary is one that the alert has."""
    found = items(SHIPPED.read_text())
    series = promql.recorded(found)
    for rule in found:
        if "alert" in rule:
            named = set(re.findall(r"\$labels\.(\w+)", rule["annotations"]["summary"]))
            assert set() == named - promql.labels(rule["expr"], series) - set(rule["labels"]), rule["alert"]


def test_what_a_user_chooses(tmp_path: Path) -> None:
    """Selector, prefix, objectives and the runbook's address are in all rules, which promtool accepts."""
    selector = r'job="a: b #c", env!~"t\\d"'
    done = run(
        "--selector", selector, "--slo", r"99.95% of POST /pay/<int:a\b>/é under 250ms", "--slo", "50% of /all succeed",
        "--docs", "https://git.example/docs", "--out", str(tmp_path / "rules.yaml"), WSGI_PROM_PREFIX="shop_",
    )  # fmt: skip
    assert (0, "") == (done.returncode, done.stderr)
    queries.check_rules(tmp_path / "rules.yaml")
    text = (tmp_path / "rules.yaml").read_text()
    found = items(text)
    assert [] == re.findall(r"(?<!shop_)http_\w*", text)
    assert [] == [rule for rule in found if selector not in rule["expr"]]
    alerts = [rule for rule in found if "alert" in rule]
    assert [] == [
        rule
        for rule in alerts
        if not rule["annotations"]["runbook_url"].startswith("https://git.example/docs/alerts.md#")
    ]
    ratios = {
        rule["labels"]["slo"]: rule["expr"]
        for rule in found
        if rule.get("record", "").endswith("ratio_rate5m") and "labels" in rule
    }
    assert (
        r'sum by (job) (rate(shop_http_request_duration_seconds_bucket{job="a: b #c", env!~"t\\d", '
        r'route="/pay/<int:a\\b>/é", method="POST", le="0.25"}[5m]))'
    ) in ratios[r"99.95% of POST /pay/<int:a\b>/é under 250ms"]
    # Half of the requests may fail: no share is 3 times as much.
    (slow,) = [rule for rule in alerts if rule["labels"].get("slo") == "50% of /all succeed"]
    assert "warning" == slow["labels"]["severity"]
    assert "> 1 * 0.5" in slow["expr"]


def test_the_keyword_prefix_wins() -> None:
    """--prefix wins over WSGI_PROM_PREFIX."""
    assert run("--prefix", "shop_").stdout == run("--prefix", "shop_", WSGI_PROM_PREFIX="pay_").stdout
    assert "shop_http_requests_total" in run("--prefix", "shop_").stdout


MATCHERS = (
    """is not a list of matchers without braces, such as 'job="shop"' or 'job=~"shop|pay",env!="test"'."""
)
OBJECTIVE = "is not an objective such as '99.9% of /pay under 0.25s', '99.5% of POST /pay succeed' or '99% of requests under 1s'."


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--slo", "99.9% of /pay under 0.3s"], ("--slo='99.9% of /pay under 0.3s': 0.3s is not a bound of http_request_duration_seconds. "
         "Write 0.25s or 0.5s (the nearest), or add 0.3 to WSGI_PROM_BUCKETS, for the server and for this command.")),
        (["--slo", "99.9% of /pay under 1ms"], ("--slo='99.9% of /pay under 1ms': 0.001s is not a bound of http_request_duration_seconds. "
         "Write 0.005s (the nearest), or add 0.001 to WSGI_PROM_BUCKETS, for the server and for this command.")),
        (["--slo", "99.9% of /pay under 60s"], ("--slo='99.9% of /pay under 60s': 60s is not a bound of http_request_duration_seconds. "
         "Write 10s (the nearest), or add 60 to WSGI_PROM_BUCKETS, for the server and for this command.")),
        (["--slo", "100% of /pay succeed"], f"--slo='100% of /pay succeed' {OBJECTIVE}"),
        (["--slo", "0% of /pay succeed"], f"--slo='0% of /pay succeed' {OBJECTIVE}"),
        (["--slo", "99.9% of /pay"], f"--slo='99.9% of /pay' {OBJECTIVE}"),
        (["--slo", "99.9% of FETCH /pay succeed"], f"--slo='99.9% of FETCH /pay succeed' {OBJECTIVE}"),
        (["--slo", "99.9 of /pay under 0.25s"], f"--slo='99.9 of /pay under 0.25s' {OBJECTIVE}"),
        (["--slo", ""], f"--slo='' {OBJECTIVE}"),
        (["--slo", "99% of /a succeed"] * 2, "--slo='99% of /a succeed' is given twice. Give it once."),
        (["--selector", '{job="shop"}'], f"""--selector='{{job="shop"}}' {MATCHERS}"""),
        (["--selector", 'job="a\nb"'], f"""--selector='job="a\\nb"' {MATCHERS}"""),
        (["--out", "/nowhere/rules.yaml"], "/nowhere/rules.yaml: No such file or directory"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_clear_line(arguments: list[str], told: str) -> None:
    """What cannot be used is told in one line with the option, its value and the remedy, and nothing is written."""
    done = run(*arguments)
    assert (1, "", f"wsgi_prom: {told}\n") == (done.returncode, done.stdout, done.stderr)


def test_the_buckets_that_are_set_are_the_bounds() -> None:
    """With WSGI_PROM_BUCKETS its bounds can be asked for, and others cannot, those of the default objectives included."""
    assert 0 == run("--slo", "99% of /pay under 300ms", WSGI_PROM_BUCKETS="0.1,0.3").returncode
    done = run(WSGI_PROM_BUCKETS="0.1,0.3")
    assert (1, True) == (done.returncode, "99% of requests under 1s" in done.stderr)


def test_an_objective_of_a_duration_that_is_off_is_an_error() -> None:
    """Where WSGI_PROM_DISABLE leaves the duration out, an objective that needs it would have no figure: it is told."""
    off = {"WSGI_PROM_DISABLE": "http_request_duration_seconds"}
    done = run(**off)
    assert (1, "") == (done.returncode, done.stdout)
    assert (
        "wsgi_prom: --slo='99% of requests under 1s' needs http_request_duration_seconds, which WSGI_PROM_DISABLE leaves out. "
        "Give objectives that end in: succeed.\n"
    ) == done.stderr
    assert 0 == run("--slo", "99% of requests succeed", **off).returncode


@pytest.mark.parametrize("seconds", Settings().buckets)
def test_the_bound_of_an_objective_is_that_of_the_page(seconds: float) -> None:
    """The label `le` that is asked for is the page's, in text and in protobuf."""
    (objective,) = objectives.read([f"99% of requests under {seconds}s"], Settings().buckets)
    (asked,) = re.findall(r'le=(~?)"([^"]*)"', objective.bad(rules.SELECTOR, Naming(), "5m"))
    pattern = asked[1].replace("\\\\", "\\") if asked[0] else re.escape(asked[1])
    assert [True] * 2 == [re.fullmatch(pattern, le) is not None for le in (str(seconds), f"{seconds:g}")]
