"""
The Grafana dashboards of the package, for a selector and the names of the servers.

The JSON files can be imported as they are. `make dashboards` writes them.
"""

from __future__ import annotations

import json
from importlib import resources
from typing import Final

from wsgi_prom.dashboards.naming import Naming
from wsgi_prom.dashboards.rules import SELECTOR

_NAMES: Final = ("server", "application", "fleet", "uwsgi")
_USUAL: Final = Naming()
_PREFIX: Final = "prefix"


def pages(*, selector: str = SELECTOR, naming: Naming = _USUAL) -> dict[str, str]:
    """
    Return the text of each dashboard by the name of its file.

    The variable job offers the jobs of the targets that *selector* selects, the variable prefix begins as that of *naming*, and
    queries have its names.
    """
    return {f"wsgi-prom-{name}.json": _page(name, selector, naming) for name in _NAMES}


def _page(name: str, selector: str, naming: Naming) -> str:
    source = resources.files("wsgi_prom.dashboards").joinpath(f"{name}.json").read_text(encoding="utf-8")
    page = json.loads(source)
    # The prefix is a variable.
    called = Naming(names=naming.names).applied
    for panel in page["panels"]:
        for target in panel.get("targets", ()):
            target |= {key: called(target[key]) for key in ("expr", "legendFormat")}
    for variable in page["templating"]["list"]:
        if variable["type"] == "query":
            variable["query"] = called(variable["query"]).replace(SELECTOR, selector)
        elif variable["name"] == _PREFIX and naming.prefix:
            variable["query"] = naming.prefix
            variable["current"] = {"selected": True, "text": naming.prefix, "value": naming.prefix}
    return json.dumps(page, indent=2, sort_keys=True) + "\n"
