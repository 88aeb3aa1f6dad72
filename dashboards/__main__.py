"""
Write the data of wsgi_prom/dashboards/: `make dashboards`. With --check, name what is out of date and exit with 1.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from grafana_foundation_sdk.cog.encoder import JSONEncoder

from dashboards import application, fleet, server, uwsgi
from wsgi_prom.dashboards import objectives, rules
from wsgi_prom.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Sequence

    from grafana_foundation_sdk.builders.dashboard import Dashboard

DATA: Final = Path(rules.__file__).parent
_PAGES: Final = {"server": server, "application": application, "fleet": fleet, "uwsgi": uwsgi}
# What the SDK writes and Grafana's schema of today does not have (tests/grafana.ts).
_OUTDATED: Final = (
    ("style",),
    *(("templating", "list", name) for name in ("auto", "auto_count", "auto_min", "id")),
    ("panels", "options", "footer"),
)


def texts() -> dict[str, str]:
    """Return the content of each file by its name."""
    pages = {f"{name}.json": _text(module.build()) for name, module in _PAGES.items()}
    return {"rules.yaml": rules.text(objectives.read(objectives.DEFAULTS, Settings().buckets)), **pages}


def _text(builder: Dashboard) -> str:
    page = json.loads(json.dumps(builder.build(), cls=JSONEncoder))
    for path in _OUTDATED:
        _remove(page, path)
    for panel in page["panels"]:
        if panel["type"] == "heatmap":
            # The SDK has its former switch, which it turns off.
            panel["options"]["tooltip"] = {"mode": "single"}
    return json.dumps(page, indent=2, sort_keys=True) + "\n"


def _remove(found: Any, path: Sequence[str]) -> None:
    """Remove what is at *path*, in all items of each list on the way."""
    if isinstance(found, list):
        for item in found:
            _remove(item, path)
    elif len(path) > 1:
        _remove(found.get(path[0], {}), path[1:])
    else:
        found.pop(path[0], None)


def main(*options: str) -> int:
    """Write the files that are out of date; with --check, name them and return 1."""
    stale = 0
    for name, text in texts().items():
        path = DATA / name
        if path.exists() and path.read_text(encoding="utf-8") == text:
            continue
        stale += 1
        if "--check" in options:
            sys.stderr.write(f"{path} is out of date: run make dashboards\n")
        else:
            path.write_text(text, encoding="utf-8")
    return int("--check" in options and stale > 0)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
