"""The middleware's keywords, as an editor, `help()` and a type checker show them."""

from __future__ import annotations

import dataclasses
import inspect
import re
import subprocess
import sys
import typing
from typing import TYPE_CHECKING

import live
import pytest

from wsgi_prom import PrometheusMiddleware
from wsgi_prom.middleware import Keywords
from wsgi_prom.settings import Settings

if TYPE_CHECKING:
    from pathlib import Path

ACCEPTED = {field.name for field in dataclasses.fields(Settings) if field.metadata["keyword"]}


def test_the_typed_keywords_are_those_that_are_accepted() -> None:
    """The typed keywords are exactly those that the middleware accepts."""
    assert set(Keywords.__annotations__) == ACCEPTED


def test_help_shows_each_keyword() -> None:
    """The docstring has a line for each keyword with its meaning and default."""
    lines = [line.partition(":") for line in inspect.getdoc(PrometheusMiddleware).splitlines()]
    told = {name: text for name, _, text in lines if name in ACCEPTED}
    assert set(told) == ACCEPTED
    assert all("default" in text for text in told.values())


def test_the_signature_names_the_typed_keywords() -> None:
    """The signature refers to the typed keywords, so that an editor completes them."""
    parameter = inspect.signature(PrometheusMiddleware).parameters["settings"]
    assert parameter.kind is inspect.Parameter.VAR_KEYWORD
    assert parameter.annotation == "Unpack[Keywords]"
    assert set(typing.get_type_hints(Keywords)) == ACCEPTED


CALLS = {
    'labels={"a": "b", "host": lambda environ: environ["HTTP_HOST"]}, buckets=[0.1, 1]': None,
    "bucket=[0.1]": 'Unexpected keyword argument "bucket"',
    "label_limit=[]": 'Argument "label_limit"',
}


def test_a_type_checker_knows_the_keywords(tmp_path: Path) -> None:
    """A type checker accepts right keywords and reports unknown ones and wrong types."""
    pytest.importorskip("mypy")
    app = tmp_path / "app.py"
    imports = ["from wsgiref.simple_server import demo_app", "from wsgi_prom import PrometheusMiddleware"]
    app.write_text(
        "\n".join([*imports, *(f"PrometheusMiddleware(demo_app, {call})" for call in CALLS)]) + "\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--no-incremental", app],
        cwd=live.ROOT, capture_output=True, text=True, check=False, timeout=170,
    )  # fmt: skip
    errors = {int(line): text for line, text in re.findall(r"app\.py:(\d+): error: (.*)", done.stdout)}
    wrong = {number: message for number, message in enumerate(CALLS.values(), start=3) if message}
    assert wrong.keys() == errors.keys(), done.stdout
    assert [] == [number for number, message in wrong.items() if message not in errors[number]]
