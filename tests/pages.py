"""The Grafana dashboards of the package, as tests read them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import live

if TYPE_CHECKING:
    from pathlib import Path

DATA: Final = live.ROOT / "wsgi_prom" / "dashboards"
FILES: Final = sorted(DATA.glob("*.json"))
# A run of a test is seconds long.
_VARIABLES: Final = {
    "$__rate_interval": "10s",
    "$__range": "40s",
    "$job": ".+",
    "$instance": ".+",
    "$route": ".*",
    "${prefix}": "",
}


class Target(NamedTuple):
    """A query of a panel; *name* says where it is, *legend* names its series."""

    name: str
    expression: str
    legend: str


def page(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def panels(path: Path) -> list[dict[str, Any]]:
    """Return the panels of a dashboard, less the rows."""
    return [panel for panel in page(path)["panels"] if panel["type"] != "row"]


def targets(path: Path, **variables: str) -> list[Target]:
    """Return the queries of the dashboard at *path* with the values of its variables, *variables* or those for a short run."""
    values = _VARIABLES | {
        f"${name}" if name != "prefix" else "${prefix}": value for name, value in variables.items()
    }
    found = []
    for panel in panels(path):
        for target in panel["targets"]:
            expression = target["expr"]
            for variable, value in values.items():
                expression = expression.replace(variable, value)
            name = f"{path.stem} {panel['id']} {panel['title']} {target['refId']}"
            found.append(Target(name, expression, target.get("legendFormat", "")))
    return found
