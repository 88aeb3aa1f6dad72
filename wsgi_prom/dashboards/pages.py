"""
The Grafana dashboards of the package, for a selector and a prefix.

The JSON files can be imported as they are. `make dashboards` writes them.
"""

from __future__ import annotations

import json
from importlib import resources
from typing import Final

from wsgi_prom.dashboards.rules import SELECTOR

_NAMES: Final = ("server", "application", "fleet", "uwsgi")
_PREFIX: Final = "prefix"


def pages(*, selector: str = SELECTOR, prefix: str = "") -> dict[str, str]:
    """
    Return the text of each dashboard by the name of its file.

    The variable job offers the jobs of the targets that *selector* selects, and the variable prefix begins as *prefix*.
    """
    return {f"wsgi-prom-{name}.json": _page(name, selector, prefix) for name in _NAMES}


def _page(name: str, selector: str, prefix: str) -> str:
    source = resources.files("wsgi_prom.dashboards").joinpath(f"{name}.json").read_text(encoding="utf-8")
    page = json.loads(source)
    for variable in page["templating"]["list"]:
        if variable["type"] == "query":
            variable["query"] = variable["query"].replace(SELECTOR, selector)
        elif variable["name"] == _PREFIX and prefix:
            variable["query"] = prefix
            variable["current"] = {"selected": True, "text": prefix, "value": prefix}
    return json.dumps(page, indent=2, sort_keys=True) + "\n"
