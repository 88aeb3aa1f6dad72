"""Print recording and alerting rules for Prometheus, or write them to a file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from wsgi_prom.cli.output import write
from wsgi_prom.dashboards import objectives, rules
from wsgi_prom.dashboards.naming import Naming
from wsgi_prom.settings import Settings

if TYPE_CHECKING:
    import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_selection(parser, "the rules are about")
    parser.add_argument(
        "--slo",
        action="append",
        metavar="OBJECTIVE",
        help=(
            "such as '99.9% of /pay under 0.25s' or '99.9% of POST /pay succeed'; `requests` stands for all routes. Give each "
            f"(default: {' and '.join(map(repr, objectives.DEFAULTS))}). A time has to be a bound of the duration's histogram: "
            "WSGI_PROM_BUCKETS"
        ).replace("%", "%%"),
    )
    parser.add_argument(
        "--docs",
        default="docs/",
        metavar="URL",
        help="the address of the folder docs/ of wsgi_prom, for the alerts' links to their runbook",
    )
    parser.add_argument("--out", type=Path, metavar="FILE", help="the file to write (default: stdout)")


def add_selection(parser: argparse.ArgumentParser, purpose: str) -> None:
    """Add --selector and --prefix, which `dashboards` has too."""
    parser.add_argument(
        "--selector",
        default=rules.SELECTOR,
        metavar="MATCHERS",
        help=f"which targets {purpose}, such as 'job=\"shop\"' (default: {rules.SELECTOR}, all)",
    )
    parser.add_argument(
        "--prefix", help="what goes before the names of metrics of requests (default: WSGI_PROM_PREFIX)"
    )


def run(arguments: argparse.Namespace) -> int:
    settings = Settings.read(prefix=arguments.prefix)
    chosen = objectives.read(
        arguments.slo or objectives.DEFAULTS, settings.buckets, disabled=settings.disable
    )
    text = rules.text(
        chosen,
        selector=rules.selector(arguments.selector),
        naming=Naming.of(settings),
        documents=f"{arguments.docs.rstrip('/')}/",
    )
    if arguments.out is None:
        write(text)
    else:
        arguments.out.write_text(text, encoding="utf-8")
    return 0
