"""Print results as tables with verdicts, and write them as JSON."""

from __future__ import annotations

import os
import platform
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from harness import Figure, Part

# Contenders that do less than ours, and are no peers.
YARDSTICKS: Final = {"bare", "floor", "read"}

_PACKAGES: Final = (
    "wsgi-prom", "prometheus-client", "flask", "prometheus-flask-exporter", "django", "django-prometheus",
    "opentelemetry-instrumentation-wsgi", "opentelemetry-exporter-prometheus", "gunicorn", "uwsgi",
)  # fmt: skip


def table(part: Part) -> str:
    """
    Return the figures of *part*, and where a peer does better than ours.

    A figure's name is a contender and then a case: "stock threads" is compared with "ours threads".
    """
    figures = {figure.name: figure for figure in part.figures}
    rows = [("", "median", "lowest", "highest", "", "")]
    for figure in part.figures:
        low, high = figure.spread
        remark = "better than ours" if _is_better(figure, figures) else ""
        rows.append((figure.name, *map(number, (figure.median, low, high)), figure.unit, remark))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        f"  {name:{widths[0]}}  {median:>{widths[1]}}  {low:>{widths[2]}}  {high:>{widths[3]}}"
        f"  {unit:{widths[4]}}  {remark}".rstrip()
        for name, median, low, high, unit, remark in rows
    ]
    return "\n".join([part.title, *lines])


def number(value: float) -> str:
    """Return *value* with three significant digits, or without decimals."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _is_better(figure: Figure, figures: Mapping[str, Figure]) -> bool:
    contender, _, case = figure.name.partition(" ")
    ours = figures.get(f"ours {case}".strip())
    if contender in YARDSTICKS or ours is None:
        return False
    if figure.unit.endswith("/s"):
        return figure.median > ours.median
    return figure.median < ours.median


def verdicts(parts: Sequence[Part]) -> str:
    """Return all ratios, each with its verdict, and how many promises are kept."""
    ratios = [ratio for part in parts for ratio in part.ratios]
    verdicts = [ratio.met for ratio in ratios if ratio.met is not None]
    return "\n".join([*map(str, ratios), f"{sum(verdicts)} of {len(verdicts)} as promised"])


def as_json(parts: Mapping[str, Part], command: Sequence[str], at: datetime) -> dict[str, Any]:
    """Return all values, with the machine, the versions and the *command* that they are of."""
    return {
        "date": at.astimezone(UTC).isoformat(timespec="seconds"),
        "command": list(command),
        "machine": {
            "system": platform.platform(),
            "processor": _processor(),
            "cores": os.cpu_count(),
            "load": os.getloadavg(),
        },
        "python": platform.python_version(),
        "packages": {name: found for name in _PACKAGES if (found := _version(name)) is not None},
        "parts": {name: part.as_json() for name, part in parts.items()},
    }


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(": ")[2]
    return platform.machine()


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
