"""docs/guarantees.md: each promise names its tests, and they exist."""

from __future__ import annotations

import ast
import re
from typing import TYPE_CHECKING

import live
import pytest

if TYPE_CHECKING:
    from pathlib import Path

TEXT = (live.ROOT / "docs" / "guarantees.md").read_text()
ROWS = [
    line
    for line in TEXT.splitlines()
    if line.startswith("| ") and not re.match(r"\| (promise|fault) \|", line)
]


def defined_in(path: Path) -> set[str]:
    tree = ast.parse(path.read_text()) if path.exists() else ast.Module([], [])
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.split("|")[1].strip()[:60])
def test_a_promise_is_shown(row: str) -> None:
    """Each promise has tests in its last column, and all of them exist."""
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", row.split("|")[-2])
    assert named
    assert [] == [f"{path}::{name}" for path, name in named if name not in defined_in(live.ROOT / path)]


def test_there_are_lines() -> None:
    """The tests above have read every row of every table."""
    lines = [line for line in TEXT.splitlines() if line.startswith("|")]
    heads = sum(line.startswith("|---") for line in lines)
    assert heads == TEXT.count("\n## ") - 1
    assert len(lines) - 2 * heads == len(ROWS) > 40
