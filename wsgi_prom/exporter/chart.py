"""Lines of the last five minutes, as inline SVG: without scripts, and without attributes that a strict policy forbids."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

# Seconds that a chart is of: the first of these that holds all values.
_SPANS: Final = (60, 120, 300)
_WIDTH: Final = 300
_HEIGHT: Final = 60
# After a longer pause nobody looked in between, and the line begins anew.
_LONGEST_GAP: Final = 15.0


class Line(NamedTuple):
    """A line: its *name*, the *style* of its class, and a value for each time, None where it is not known."""

    name: str
    style: str
    values: Sequence[float | None]


def chart(
    what: str,
    now: float,
    times: Sequence[float],
    lines: Iterable[Line],
    text: Callable[[float | None], str],
    most: float | None = None,
) -> str:
    """
    Return a figure of *lines*, whose highest value *text* writes. *most* is the top of the scale, else the highest value.

    *what* is said to those who do not see it, with the last and the highest value of each line.
    """
    lines = list(lines)
    span = next((span for span in _SPANS if times and now - times[0] <= span), _SPANS[-1 if times else 0])
    known = [value for line in lines for value in line.values if value is not None]
    highest = max(known, default=0.0)
    top = most or highest or 1.0
    said = [
        f"{line.name} {text(line.values[-1] if line.values else None)}, at most "
        f"{text(max([value for value in line.values if value is not None], default=None))}"
        for line in lines
    ]
    paths = "".join(
        f'<path class="{line.style}" d="{_path(now, span, times, line.values, top)}"/>' for line in lines
    )
    label = escape(f"{what} of the last {_ago(span)}: {'; '.join(said)}")
    legend = "".join(
        f'<span class="{line.style}">{escape(line.name)}</span>' for line in lines[:2] if lines[1:]
    )
    return (
        f'<p class="scale"><span>{escape(text(most or highest) if known else "")}</span>{legend}</p>'
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" preserveAspectRatio="none" role="img" '
        f'aria-label="{label}">'
        f'<path class="base" d="M0 {_HEIGHT - 0.5}H{_WIDTH}"/>{paths}</svg>'
        f'<p class="scale" aria-hidden="true"><span>{_ago(span)} ago</span><span>now</span></p>'
    )


def _ago(span: float) -> str:
    return f"{span / 60:.0f} min"


def _path(now: float, span: float, times: Sequence[float], values: Sequence[float | None], top: float) -> str:
    parts = []
    before: float | None = None
    for time, value in zip(times, values, strict=True):
        if value is None:
            before = None
            continue
        x = max(_WIDTH * (1 - (now - time) / span), 0.0)
        y = (_HEIGHT - 2) * (1 - min(value / top, 1.0)) + 1
        command = "L" if before is not None and time - before <= _LONGEST_GAP else "M"
        # A line of one point is a dot.
        parts.append(f"{command}{x:.1f} {y:.1f}" + ("h.1" if command == "M" else ""))
        before = time
    return "".join(parts)
