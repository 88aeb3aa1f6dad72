"""The Grafana dashboards of the package, the command that writes them, and the mixin for kube-prometheus."""

from __future__ import annotations

import json
import re
import subprocess
from typing import TYPE_CHECKING, Any

import _jsonnet
import commands
import jsonschema
import live
import pages
import promql
import pytest
import queries
import yaml
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import Dashboard

from dashboards.__main__ import texts

if TYPE_CHECKING:
    from pathlib import Path

NPM = live.ROOT / ".venv" / "npm" / "node_modules"
MIXIN = pages.DATA / "mixin.libsonnet"
RULES = yaml.safe_load((pages.DATA / "rules.yaml").read_text())
RECORDED = promql.recorded([rule for group in RULES["groups"] for rule in group["rules"]])
TARGETS = [target for path in pages.FILES for target in pages.targets(path)]


def run(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    return commands.run("dashboards", *arguments, **environ)


def test_what_is_shipped_is_what_is_built() -> None:
    """Each file is what the builder makes of the modules in dashboards/."""
    built = texts()
    assert {path.name for path in pages.FILES} | {"rules.yaml"} == built.keys()
    assert [] == [name for name, text in built.items() if (pages.DATA / name).read_text() != text], (
        "run make dashboards"
    )


def test_the_dashboards_are_four() -> None:
    """There are Server, Application, Fleet and uWSGI, each with the variables data source, job, instance and prefix."""
    found = {path.stem: pages.page(path) for path in pages.FILES}
    assert {"server", "application", "fleet", "uwsgi"} == set(found)
    assert len(found) == len({page["uid"] for page in found.values()})
    for page in found.values():
        names = [variable["name"] for variable in page["templating"]["list"]]
        assert ["datasource", "job", "instance", "prefix"] == names[:4]


def test_server_opens_with_saturation() -> None:
    """The first row of Server is utilisation, queue, drops and the oldest request; then come exits, memory and restarts."""
    rows = [
        panel["title"] for panel in pages.page(pages.DATA / "server.json")["panels"] if panel["type"] == "row"
    ]
    first = [panel["title"] for panel in pages.panels(pages.DATA / "server.json")[:4]]
    assert ["Saturation", "Exits and restarts", "Memory and processors", "The exporter"] == rows
    assert ["Utilisation", "Connections that wait", "Connections dropped", "Oldest request"] == first


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_a_query_names_what_is_exported(target: pages.Target) -> None:
    """A panel's query names metrics and labels that the package exports or its rules record, and its legend labels that it has."""
    assert [] == promql.unknown(target.expression, RECORDED)
    named = set(re.findall(r"{{\s*(\w+)\s*}}", target.legend))
    assert set() == named - promql.labels(target.expression, RECORDED)


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_a_query_follows_the_variables(target: pages.Target) -> None:
    """Each selector of a query has the variable job, and each metric of requests its prefix."""
    (path,) = [path for path in pages.FILES if path.stem == target.name.split()[0]]
    (chosen,) = [
        found.expression
        for found in pages.targets(path, job="shop", prefix="shop_")
        if found.name == target.name
    ]
    assert chosen.count("{") == chosen.count('{job=~"shop"')
    assert [] == re.findall(r"\b(?<!shop_)http_\w*", chosen)


def test_the_queries_of_the_variables_name_what_is_exported() -> None:
    """label_values of each variable names a metric and a label that the package exports."""
    for path in pages.FILES:
        for variable in pages.page(path)["templating"]["list"]:
            if variable["type"] == "query":
                found = re.fullmatch(
                    r"label_values\((.+), (\w+)\)", variable["query"].replace("${prefix}", "")
                )
                assert found is not None
                assert [] == promql.unknown(found[1])
                assert found[2] in promql.labels(found[1])


def test_each_panel_says_what_it_shows() -> None:
    """Each panel has a description, a title, a number of its own in its dashboard, and lies beside the others."""
    for path in pages.FILES:
        found = pages.page(path)["panels"]
        assert len(found) == len({panel["id"] for panel in found})
        assert [] == [panel["title"] for panel in pages.panels(path) if not panel["description"]]
        taken = [
            (x, y)
            for panel in found
            for x in range(panel["gridPos"]["x"], panel["gridPos"]["x"] + panel["gridPos"]["w"])
            for y in range(panel["gridPos"]["y"], panel["gridPos"]["y"] + panel["gridPos"]["h"])
        ]
        assert len(taken) == len(set(taken))
        assert max(x for x, _ in taken) < 24


def test_the_sdk_reads_what_it_has_built() -> None:
    """grafana-foundation-sdk reads each dashboard into its types, and writes it as it is but for what it adds by default."""
    for path in pages.FILES:
        page = pages.page(path)
        written = json.loads(json.dumps(Dashboard.from_json(page), cls=JSONEncoder))
        assert [] == list(missing(page, written)), path.name


def missing(expected: Any, actual: Any, where: str = "") -> list[str]:
    """Return where *actual* has another value than *expected*, or none."""
    if isinstance(expected, dict) and isinstance(actual, dict):
        return [
            found
            for key, value in expected.items()
            for found in missing(value, actual.get(key), f"{where}.{key}")
        ]
    if isinstance(expected, list) and isinstance(actual, list) and len(expected) == len(actual):
        return [
            found
            for number, (value, other) in enumerate(zip(expected, actual, strict=True))
            for found in missing(value, other, f"{where}[{number}]")
        ]
    return [] if expected == actual or where.endswith(".tooltip.mode") else [where]


@pytest.fixture(scope="module")
def schema(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Return the schema of a dashboard, made of the types that Grafana publishes as @grafana/schema."""
    program = NPM / ".bin" / "ts-json-schema-generator"
    if not program.exists():
        raise FileNotFoundError(2, "No such file or directory", program.name)
    folder = tmp_path_factory.mktemp("schema")
    (folder / "node_modules").symlink_to(NPM)
    (folder / "grafana.ts").write_text((live.ROOT / "tests" / "grafana.ts").read_text())
    command = [program, "--path", "grafana.ts", "--type", "Page", "--no-type-check"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120, check=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_each_dashboard_is_valid_by_the_schema_of_grafana(schema: dict[str, Any]) -> None:
    """Each dashboard, its panels' options and fields included, has the types of @grafana/schema and nothing beside them."""
    validator = jsonschema.Draft7Validator(schema)
    for path in pages.FILES:
        page = pages.page(path)
        assert [] == [
            (list(error.absolute_path), error.message[:300]) for error in validator.iter_errors(page)
        ]
        page["panels"][1]["options"]["colourMode"] = "value"
        page["panels"][2]["targets"] = "none"
        assert 2 == len(list(validator.iter_errors(page)))


def test_the_command_writes_them(tmp_path: Path) -> None:
    """Without a choice the command writes the dashboards as they are shipped, and their names."""
    done = run("--out", str(tmp_path / "new" / "folder"))
    written = sorted((tmp_path / "new" / "folder").iterdir())
    assert (0, "") == (done.returncode, done.stderr)
    assert sorted(done.stdout.split()) == [str(path) for path in written]
    assert {f"wsgi-prom-{path.name}": path.read_text() for path in pages.FILES} == {
        path.name: path.read_text() for path in written
    }


def test_what_a_user_chooses(tmp_path: Path) -> None:
    """The variable job offers the jobs of --selector, and the variable prefix begins as WSGI_PROM_PREFIX; all else is as it was."""
    done = run("--out", str(tmp_path), "--selector", 'env="prod"', WSGI_PROM_PREFIX="shop_")
    assert (0, "") == (done.returncode, done.stderr)
    for path in pages.FILES:
        page = json.loads((tmp_path / f"wsgi-prom-{path.name}").read_text())
        variables = {variable["name"]: variable for variable in page["templating"]["list"]}
        assert 'label_values(wsgi_prom_build_info{env="prod"}, job)' == variables["job"]["query"]
        assert ("shop_", "shop_") == (variables["prefix"]["query"], variables["prefix"]["current"]["value"])
        assert pages.page(path)["panels"] == page["panels"]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--out", "/proc/nowhere"], "/proc/nowhere: No such file or directory"),
        (["--out", "dashboards", "--selector", "shop"],
         """--selector='shop' is not a list of matchers without braces, such as 'job="shop"' or 'job=~"shop|pay",env!="test"'."""),
        (["--out", "dashboards", "--prefix", "1_"], "prefix='1_' is not the beginning of a metric name, such as shop_."),
    ],
)  # fmt: skip
def test_a_mistake_is_one_clear_line(arguments: list[str], told: str) -> None:
    """What cannot be used is told in one line."""
    done = run(*arguments)
    assert (1, "", f"wsgi_prom: {told}\n") == (done.returncode, done.stdout, done.stderr)


def as_text(rules: list[dict[str, Any]]) -> list[str]:
    """Return *rules* in an order and a form of their own."""
    return sorted(json.dumps(rule, sort_keys=True) for rule in rules)


def evaluated(text: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(
        _jsonnet.evaluate_snippet("user.jsonnet", f"local mixin = import '{MIXIN}';\n{text}")
    )
    return found


def test_the_mixin_has_dashboards_and_rules(tmp_path: Path) -> None:
    """The mixin is what kube-prometheus takes: the dashboards by file name, alerts and recording rules apart, all that is shipped."""
    found = evaluated("{d: mixin.grafanaDashboards, a: mixin.prometheusAlerts, r: mixin.prometheusRules}")
    assert {f"wsgi-prom-{path.name}": pages.page(path) for path in pages.FILES} == found["d"]
    groups = [*found["r"]["groups"], *found["a"]["groups"]]
    assert [rule for group in RULES["groups"] for rule in group["rules"] if "record" in rule] == [
        rule for group in found["r"]["groups"] for rule in group["rules"]
    ]
    assert [rule for group in RULES["groups"] for rule in group["rules"] if "alert" in rule] == [
        rule for group in found["a"]["groups"] for rule in group["rules"]
    ]
    assert [] == [group["name"] for group in groups if not group["rules"]]
    # JSON is YAML too.
    (tmp_path / "rules.yaml").write_text(json.dumps({"groups": groups}))
    queries.check_rules(tmp_path / "rules.yaml")


@pytest.mark.parametrize("names", ["prometheus", "otel"])
def test_the_mixin_is_configured_as_the_commands_are(names: str, tmp_path: Path) -> None:
    """With _config's selector, prefix, names, docs and objectives of one's own the mixin has what the commands write for such servers."""
    options = ["--selector", 'job="shop"', "--prefix", "shop_"]
    run("--out", str(tmp_path / "dashboards"), *options, WSGI_PROM_NAMES=names)
    slo = ["--slo", "99% of POST /pay under 0.25s", "--slo", "99.9% of requests succeed"]
    done = commands.run("rules", *options, *slo, "--docs", "https://git.example/docs", WSGI_PROM_NAMES=names)
    commands.run("rules", *slo, "--out", str(tmp_path / "rules.yaml"))
    own = f"rules: importstr '{tmp_path}/rules.yaml'"
    config = f"selector: 'job=\"shop\"', prefix: 'shop_', names: '{names}', docs: 'https://git.example/docs/', {own}"
    found = evaluated(
        f"local m = mixin {{_config+:: {{{config}}}}}; {{d: m.grafanaDashboards, a: m.prometheusAlerts, r: m.prometheusRules}}"
    )
    written = {path.name: json.loads(path.read_text()) for path in (tmp_path / "dashboards").iterdir()}
    assert written == found["d"]
    rules = [rule for group in yaml.safe_load(done.stdout)["groups"] for rule in group["rules"]]
    mixed = [rule for kind in "ra" for group in found[kind]["groups"] for rule in group["rules"]]
    assert as_text(rules) == as_text(mixed)
    assert ("http_server_request_duration_seconds" in str(written)) == (names == "otel")


def test_the_mixin_takes_no_other_names() -> None:
    """Names that there are not end the evaluation, with those that there are."""
    with pytest.raises(RuntimeError, match="names is one of otel, prometheus"):
        evaluated("(mixin {_config+:: {names: 'opentelemetry'}}).prometheusRules")
