"""docs/troubleshooting.md: the log lines that it quotes are written, and the pages, settings and metrics that it names exist."""

from __future__ import annotations

import ast
import dataclasses
import re

import live

from wsgi_prom.dashboards import catalogue
from wsgi_prom.settings import PREFIX, Settings

TEXT = (live.ROOT / "docs" / "troubleshooting.md").read_text()
QUOTED = re.findall(r"the log says\s+`([^`]+)`", TEXT)


def messages() -> str:
    """Return all texts of the package, each on a line of its own."""
    trees = [ast.parse(path.read_text()) for path in (live.ROOT / "wsgi_prom").rglob("*.py")]
    constants = [node.value for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Constant)]
    return "\n".join(text for text in constants if isinstance(text, str))


def test_the_log_lines_that_it_quotes_are_written() -> None:
    """Each text that the log is said to have is part of a message of the package."""
    assert len(QUOTED) == 9
    written = messages()
    assert [] == [text for text in QUOTED if text.rstrip(":") not in written]


def test_what_it_names_exists() -> None:
    """Its variables are settings, its metrics are on pages, and its links lead to documents."""
    variables = set(re.findall(r"\bWSGI_PROM_[A-Z_]+", TEXT))
    known = {PREFIX + field.name.upper() for field in dataclasses.fields(Settings)}
    assert set() == variables - known
    names = {entry.name for entry in (*catalogue.METRICS, *catalogue.UWSGI)}
    named = set(re.findall(r"`((?:http|wsgi|process)_\w+(?:_total|_bytes))`", TEXT))
    assert set() == named - names
    assert [] == [
        link for link in re.findall(r"\]\((\w+\.md)\)", TEXT) if not (live.ROOT / "docs" / link).exists()
    ]
