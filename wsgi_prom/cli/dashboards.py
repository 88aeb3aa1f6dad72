"""Write the Grafana dashboards into a folder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from wsgi_prom.cli.output import write
from wsgi_prom.cli.rules import add_selection
from wsgi_prom.dashboards import rules
from wsgi_prom.dashboards.naming import Naming
from wsgi_prom.dashboards.pages import pages
from wsgi_prom.settings import Settings

if TYPE_CHECKING:
    import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--out", type=Path, required=True, metavar="DIR", help="the folder to write to; it is made"
    )
    add_selection(parser, "the variable job offers")


def run(arguments: argparse.Namespace) -> int:
    settings = Settings.read(prefix=arguments.prefix)
    found = pages(selector=rules.selector(arguments.selector), naming=Naming.of(settings))
    arguments.out.mkdir(parents=True, exist_ok=True)
    for name, text in found.items():
        (arguments.out / name).write_text(text, encoding="utf-8")
        write(f"{arguments.out / name}\n")
    return 0
