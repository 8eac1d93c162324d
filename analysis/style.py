"""How a method looks in every figure: Okabe and Ito's colour-blind-safe colours, and a marker."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from PIL import Image

from analysis.schema import BASE

DPI = 150
HEADING, LEGEND_ROW, FOOTER_LINE = 0.36, 0.22, 0.165  # inches
LABELS_A_ROW = 5
INK = "#222222"
FAINT = "#8a8a8a"
BLACK, ORANGE, SKY, GREEN = "#000000", "#E69F00", "#56B4E9", "#009E73"
YELLOW, BLUE, VERMILION, PURPLE = "#F0E442", "#0072B2", "#D55E00", "#CC79A7"


@dataclass(frozen=True)
class Look:
    """Colour, marker, line style and line width (points) of a method."""

    colour: str
    marker: str = "o"
    line: str = "-"
    width: float = 2.0


BASE_LOOK = Look("#555555", "", ":", 1.2)
KNOWN: Mapping[str, Look] = {
    BASE: BASE_LOOK,
    "euphonium": Look(VERMILION, "o"),
    "euphonium_published": Look(PURPLE, "v"),
    "flow_grpo": Look(BLUE, "s"),
    "dance_grpo": Look(GREEN, "^"),
}
_COLOURS = (ORANGE, SKY, PURPLE, BLACK, VERMILION, BLUE, GREEN, YELLOW)


def looks(methods: Sequence[str]) -> dict[str, Look]:
    """A look for each method and the base: fixed for the project's own methods, in order for any other.

    Others take the colours that no known method of the run has, then all again with other lines.
    """
    taken = {KNOWN[name].colour for name in methods if name in KNOWN}
    free = [
        Look(colour, marker, line)
        for line, markers in (("-", "DPvXo*^h"), ("--", "<>dp8Hs."), (":", "oDs^vPX*"), ("-.", "PX*hDs<>"))
        for colour, marker in zip(_COLOURS, markers, strict=True)
        if line != "-" or colour not in taken
    ]
    others = [name for name in methods if name not in KNOWN]
    given = {name: free[place % len(free)] for place, name in enumerate(others)}
    return {BASE: BASE_LOOK} | {name: KNOWN.get(name) or given[name] for name in methods}


def figure(width: float, height: float) -> Figure:
    """An empty figure (inches) that draws without pyplot, so that nothing is shared or left open."""
    drawn = Figure(figsize=(width, height), dpi=DPI, facecolor="white", layout="constrained")
    FigureCanvasAgg(drawn)
    return drawn


def tidy(axes: Axes) -> None:
    """Light grid, no box, small ticks."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(FAINT)
    axes.tick_params(labelsize=8.5, colors=INK, length=3)
    axes.grid(color="#e4e4e4", linewidth=0.7)
    axes.set_axisbelow(True)


def legend_columns(handles: Sequence[Line2D], width: float, most: int = LABELS_A_ROW) -> int:
    """How many labels of a legend fit beside each other in `width` inches."""
    longest = max((len(str(handle.get_label())) for handle in handles), default=0)
    return max(1, min(most, int(width / (0.55 + 0.075 * longest))))


def surround(
    drawn: Figure, heading: str, footer: str, handles: Sequence[Line2D], labels_a_row: int = LABELS_A_ROW
) -> None:
    """Heading and legend above a figure's panels; a footer (seeds, budget, what bands are) below them."""
    width, height = drawn.get_size_inches()
    columns = legend_columns(handles, width, labels_a_row)
    rows = math.ceil(len(handles) / columns)
    lines = textwrap.wrap(footer, round(16.6 * width))
    top, bottom = HEADING + LEGEND_ROW * rows, 0.1 + FOOTER_LINE * len(lines)
    drawn.set_layout_engine("constrained", rect=(0, bottom / height, 1, 1 - (top + bottom) / height))
    drawn.text(0.005, 1 - 0.06 / height, heading, fontsize=12, fontweight="bold", color=INK, va="top")
    drawn.text(0.005, 0.04 / height, "\n".join(lines), fontsize=8, color="#555555", va="bottom")
    drawn.legend(
        handles=list(handles),
        loc="upper left",
        bbox_to_anchor=(0.0, 1 - (HEADING - 0.06) / height),
        ncols=columns,
        frameon=False,
        fontsize=9,
        borderaxespad=0,
        columnspacing=1.6,
    )


def save(drawn: Figure, folder: Path, name: str) -> list[Path]:
    """Write a figure as PNG and SVG; equal figures give equal files.

    `Figure.savefig` draws twice for each file, once to lay out; this lays out once and draws once for each.
    """
    folder.mkdir(parents=True, exist_ok=True)
    png, svg = folder / f"{name}.png", folder / f"{name}.svg"
    engine = drawn.get_layout_engine()
    if engine is not None:
        engine.execute(drawn)
        drawn.set_layout_engine("none")
    canvas = FigureCanvasAgg(drawn)
    canvas.draw()
    Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB").save(png, dpi=(DPI, DPI))
    with mpl.rc_context({"svg.hashsalt": name}):
        drawn.set_dpi(72)  # what SVG counts in
        FigureCanvasSVG(drawn).print_svg(svg, metadata={"Date": None})
    return [png, svg]
