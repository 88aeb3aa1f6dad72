"""
The recording and alerting rules of rules.yaml, for a selector, the names of the servers, and objectives.

rules.yaml can be used as it is. What follows _OBJECTIVES in it is made here too, and `make dashboards` writes it.
"""

from __future__ import annotations

import re
from importlib import resources
from typing import TYPE_CHECKING, Final

from wsgi_prom.dashboards import objectives
from wsgi_prom.dashboards.naming import Naming
from wsgi_prom.errors import SettingError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from wsgi_prom.dashboards.objectives import Objective

# Of every selector in rules.yaml: it selects all.
SELECTOR: Final = 'job=~".+"'
_OBJECTIVES: Final = (
    "  # Objectives: made by wsgi_prom/dashboards/objectives.py, for those of its DEFAULTS.\n"
)
_USUAL: Final = Naming()
_DOCUMENTS: Final = "docs/"
_MATCHER: Final = r'[a-zA-Z_]\w*\s*(?:=~|!~|!=|=)\s*"(?:[^"\\\n]|\\.)*"'


def selector(text: str) -> str:
    """Return *text* if it is a list of matchers, such as job="shop", without braces. Raises SettingError."""
    if not re.fullmatch(rf"{_MATCHER}(?:\s*,\s*{_MATCHER})*", text, re.ASCII):
        raise SettingError(
            f'--selector={text!r} is not a list of matchers without braces, such as \'job="shop"\' or \'job=~"shop|pay",env!="test"\'.'
        )
    return text


def text(
    chosen: Sequence[Objective],
    *,
    selector: str = SELECTOR,
    naming: Naming = _USUAL,
    documents: str = _DOCUMENTS,
) -> str:
    """
    Return the rules in YAML, for the objectives *chosen*.

    *selector* takes the place of SELECTOR, *naming* is that of the servers, and *documents* the address of the folder docs/, for
    links to the runbook.
    """
    source = resources.files("wsgi_prom.dashboards").joinpath("rules.yaml").read_text(encoding="utf-8")
    head, _, _ = source.partition(_OBJECTIVES)
    head = naming.applied(head).replace(SELECTOR, selector) + _OBJECTIVES
    rules = objectives.rules(chosen, selector, naming)
    return (head + rules).replace(f"runbook_url: {_DOCUMENTS}", f"runbook_url: {documents}")
