"""The time added to a request: by wsgi_prom, by hand-written metrics, by the frameworks' own exporters."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from contender import measure_added
from harness import Part, Ratio, paired

if TYPE_CHECKING:
    from collections.abc import Mapping

    from harness import Figure, Scale


@dataclass(frozen=True)
class Group:
    """
    Contenders that are measured together, by the names of their figures; *bare* is what the others add to.

    *short*: four times as many rounds, of a third of the slices. Each round has processes of its own, which differ more than
    slices do: under Flask, seven long rounds gave ratios from 0.09 to 0.16.
    """

    bare: str
    contenders: Mapping[str, str]
    work: str = "requests"
    short: bool = False


GROUPS: Final = (
    Group(
        "bare",
        {
            "bare": "bare",
            "floor": "floor",
            "stock": "stock",
            "ours": "ours",
            "ours count+duration": "ours_count",
            "stock label": "stock_label",
            "ours label": "ours_label",
            "opentelemetry": "opentelemetry_wsgi",
        },
    ),
    Group(
        "bare threads",
        {"bare threads": "bare", "floor threads": "floor", "stock threads": "stock", "ours threads": "ours"},
        work="threads",
    ),
    Group(
        "bare flask",
        {
            "bare flask": "flask_bare",
            "handlers flask": "flask_handlers",
            "prometheus-flask-exporter flask": "flask_exporter",
            "ours flask": "flask_ours",
        },
        short=True,
    ),
    Group(
        "bare django",
        {
            "bare django": "django_bare",
            "django-prometheus django": "django_exporter",
            "ours django": "django_ours",
        },
        short=True,
    ),
)

# Counted in instructions alone, each beside the plain application with the same environ: a response without a body, behind a
# proxy that sends X-Request-Start, and a body of 100 bytes that the application reads. Stock measures neither of the latter two.
GROUPS_IN_INSTRUCTIONS: Final = (
    Group("bare 204", {"bare 204": "bare_empty", "ours 204": "ours_empty"}),
    Group("bare proxied", {"bare proxied": "bare_proxied", "ours proxied": "ours_proxied"}),
    Group("bare body", {"bare body": "bare_body", "ours body": "ours_body"}),
    # With exemplars: of a request without a trace, of one whose trace is not sampled, and of one whose trace is.
    Group("bare exemplars", {"bare exemplars": "bare", "ours exemplars": "ours_exemplars"}),
    Group("bare unsampled", {"bare unsampled": "bare_unsampled", "ours unsampled": "ours_unsampled"}),
    Group("bare sampled", {"bare sampled": "bare_sampled", "ours sampled": "ours_sampled"}),
)

# The first figure is at most this many times the second.
PROMISED: Final = (
    ("ours", "stock", 0.30),
    ("ours", "floor", 3.5),
    ("ours count+duration", "stock", 0.25),
    ("ours label", "stock label", 0.33),
    ("ours threads", "stock threads", 0.33),
    ("ours threads", "floor threads", 3.5),
)
# In instructions alone. The time added is a tenth of the framework's own, and other processes of the same code, of the same
# minutes, have it between half and twice as long: their ratios are shown and not judged.
PROMISED_IN_INSTRUCTIONS: Final = (
    ("ours flask", "prometheus-flask-exporter flask", 1 / 8),
    ("ours django", "django-prometheus django", 1 / 15),
    ("ours 204", "stock", 0.30),
)
# Shown, and not judged.
SHOWN_IN_INSTRUCTIONS: Final = tuple(
    (f"ours {name}", "stock", None) for name in ("proxied", "body", "exemplars", "unsampled", "sampled")
)


def measure(scale: Scale) -> Part:
    figures: dict[str, Figure] = {}
    for group in GROUPS:
        part = scale
        if group.short and not scale.quick:
            part = replace(scale, rounds=scale.rounds * 4, slices=scale.slices // 3)
        figures |= measure_added(group.bare, group.contenders, group.work, "ns", part)
    return Part("What is added to a request", tuple(figures.values()), ratios(figures, "time"))


def ratios(figures: Mapping[str, Figure], unit: str) -> tuple[Ratio, ...]:
    """Return the ratios of which both *figures* were measured, in *unit*: "time" or "instructions"."""
    more = [
        (top, bottom, None if unit == "time" else bound)
        for top, bottom, bound in (*PROMISED_IN_INSTRUCTIONS, *SHOWN_IN_INSTRUCTIONS)
    ]
    return tuple(
        Ratio(f"{top} / {bottom}, {unit} added to a request", paired(figures[top], figures[bottom]), bound)
        for top, bottom, bound in (*PROMISED, *more)
        if top in figures and bottom in figures
    )
