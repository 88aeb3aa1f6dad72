"""Plot two results as SVG: scrape time against workers, and the time added to a request."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from harness import Figure, Part

_COLOURS: Final = {"ours": "#2a7f62", "stock": "#c8553d"}
_OTHERS: Final = "#8d99ae"

_LEGENDS: Final = {
    "stock": "stock: the client library's collector",
    "read": "read: stock's files, and no more",
}

# Bars are compared with those of the same case, which is the last word of a figure's name. In the order of the picture.
_CASES: Final = ("", "label", "threads", "flask", "django")


def draw(parts: Mapping[str, Part], folder: Path) -> list[Path]:
    """Draw what *parts* have figures for into *folder*, and return the files."""
    # Imported here: the tests have no matplotlib.
    import matplotlib as mpl

    mpl.use("svg")
    # The same figures give the same file.
    mpl.rcParams.update({"svg.hashsalt": "wsgi_prom", "svg.fonttype": "none"})
    folder.mkdir(parents=True, exist_ok=True)
    drawn = []
    if "scrape" in parts:
        drawn.append(_picture(folder / "scrape.svg", _scrape, scrape_lines(parts["scrape"])))
    if "request" in parts:
        drawn.append(_picture(folder / "request.svg", _request, request_bars(parts["request"])))
    return drawn


def scrape_lines(part: Part) -> dict[str, list[tuple[int, float]]]:
    """Return workers and milliseconds by contender, of the figures that are named "CONTENDER WORKERS x 1000"."""
    lines: dict[str, list[tuple[int, float]]] = {}
    for figure in part.figures:
        found = re.fullmatch(r"(\S+) (\d+) x 1000", figure.name)
        if found and figure.unit == "ms":
            lines.setdefault(found[1], []).append((int(found[2]), figure.median))
    return {name: sorted(points) for name, points in lines.items()}


def request_bars(part: Part) -> list[Figure]:
    """Return the figures of what is added to a request, by case, the smallest first."""
    return sorted(
        (figure for figure in part.figures if figure.unit == "ns added"),
        key=lambda bar: (_case(bar.name), bar.median),
    )


def _case(name: str) -> int:
    word = name.rsplit(maxsplit=1)[-1]
    return _CASES.index(word) if word in _CASES else 0


def _picture(file: Path, paint: Callable[[Any, Any], None], content: Any) -> Path:
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(8, 5.5), layout="constrained")
    paint(axes, content)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    figure.savefig(file, format="svg", metadata={"Date": None})
    plt.close(figure)
    return file


def _scrape(axes: Any, lines: Mapping[str, list[tuple[int, float]]]) -> None:
    workers = sorted({count for points in lines.values() for count, _ in points})
    for name, points in lines.items():
        axes.plot(
            *zip(*points, strict=True),
            marker="o",
            label=_LEGENDS.get(name, name),
            color=_COLOURS.get(name, _OTHERS),
        )
        count, milliseconds = points[-1]
        axes.annotate(f"{milliseconds:,.0f} ms", (count, milliseconds), (4, 4), textcoords="offset points")
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xticks(workers, [str(count) for count in workers])
    axes.yaxis.set_major_formatter("{x:,g}")
    axes.set_title("A scrape, every label set changed since the last one", loc="left")
    axes.set_xlabel("workers, each with 1,000 label sets of a counter and a histogram")
    axes.set_ylabel("milliseconds")
    axes.legend(frameon=False)


def _request(axes: Any, bars: list[Figure]) -> None:
    # A gap between two cases.
    places = [place + 0.7 * _case(bar.name) for place, bar in enumerate(bars)]
    colours = [_COLOURS.get(bar.name.split()[0], _OTHERS) for bar in bars]
    drawn = axes.barh(places, [bar.median / 1000 for bar in bars], color=colours)
    axes.bar_label(drawn, [f"{bar.median / 1000:.1f}" for bar in bars], padding=3)
    axes.set_yticks(places, [bar.name for bar in bars])
    axes.tick_params(axis="y", length=0)
    axes.margins(x=0.08, y=0.02)
    axes.invert_yaxis()
    axes.set_title("What is added to a request, each compared within its case", loc="left")
    axes.set_xlabel("microseconds more than the bare application takes")
