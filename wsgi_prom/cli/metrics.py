"""Print each metric of the package: name, type, unit, labels, meaning, a query, since when it exists, whether it is stable."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from wsgi_prom.cli.arguments import add_json
from wsgi_prom.cli.output import write, write_json
from wsgi_prom.dashboards.catalogue import METRICS, UWSGI
from wsgi_prom.settings import PREFIX

if TYPE_CHECKING:
    import argparse

    from wsgi_prom.dashboards.catalogue import Entry


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    entries = (*METRICS, *UWSGI)
    if arguments.json:
        write_json([_to_json(entry) for entry in entries])
    else:
        write("\n".join(map(_text, entries)))
    return 0


def _to_json(entry: Entry) -> dict[str, Any]:
    return {
        "name": entry.name,
        "type": entry.type,
        "unit": entry.unit,
        "labels": list(entry.labels),
        "meaning": entry.meaning,
        "query": entry.query,
        "since": entry.since,
        "stable": entry.stable,
        "setting": _variable(entry.setting) if entry.setting else None,
        "labels_by_setting": {_variable(entry.more[0]): entry.more[1]} if entry.more else {},
    }


def _text(entry: Entry) -> str:
    about = [
        entry.type,
        *([entry.unit] if entry.unit else []),
        *([f"by {', '.join(entry.labels)}"] if entry.labels else []),
        f"since {entry.since}",
        "stable" if entry.stable else "may change",
    ]
    lines = [f"{entry.name} ({'; '.join(about)})", entry.meaning]
    if entry.setting:
        lines.append(f"Only with {_variable(entry.setting)}.")
    if entry.more:
        lines.append(f"With {_variable(entry.more[0])} by {entry.more[1]} too.")
    return "\n    ".join([*lines, entry.query]) + "\n"


def _variable(setting: str) -> str:
    return PREFIX + setting.upper()
