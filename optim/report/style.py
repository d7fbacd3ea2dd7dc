"""The style that all figures share: colours, sizes, axes, grids of panels, and how a figure becomes a picture."""

from __future__ import annotations

import io
import math

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from optim.units import VARIABLES, display_unit

# Okabe-Ito colours: distinct for people with any common colour vision
BLUE, ORANGE, GREEN, GREY, INK = "#0072B2", "#D55E00", "#009E73", "#8a8f98", "#24292f"
STYLE = {"font": 9, "small": 7.5}


def new_figure(title: str, size: tuple[float, float], simulated: bool) -> Figure:
    """An empty figure; `size` is width and height in inches."""
    figure = Figure(figsize=size, layout="constrained", facecolor="white")
    set_title(figure, title, simulated)
    return figure


def set_title(figure: Figure, title: str, simulated: bool) -> None:
    """The title of a figure; simulated data are named as such on every figure."""
    text = title + ("   ·   SIMULATED DATA" if simulated else "")
    place = {} if figure.get_layout_engine() else {"y": 1.0 - 0.08 / figure.get_figheight(), "va": "top"}
    figure.suptitle(text, fontsize=11, color=INK, x=0.01, ha="left", **place)


def tidy_axes(axes: Axes) -> None:
    """Remove the frame of axes and draw a pale grid."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(GREY)
    axes.tick_params(labelsize=STYLE["small"], colors=INK)
    axes.grid(True, color="#e6e8eb", linewidth=0.6)
    axes.set_axisbelow(True)


def unit_of(variable: str) -> str:
    """The unit in which people read a variable."""
    known = {"product_per_biomass": "g/g", "volume": "mL", "temperature": "°C"}
    return known.get(variable) or display_unit(VARIABLES[variable].unit)


def panel_grid(
    n: int, title: str, simulated: bool, *, size: tuple[float, float] = (2.3, 1.7), share: bool = False
) -> tuple[Figure, list[Axes]]:
    """A figure with n panels, each of a width and height in inches; `share` gives all of them the same axes.

    Margins are in inches, too: a layout engine would measure every tick label, which takes seconds.
    """
    columns = min(6, max(1, math.ceil(math.sqrt(n * 1.4))))
    rows = math.ceil(n / columns)
    whole = max(5.0, size[0] * columns), 0.7 + size[1] * rows
    figure = Figure(figsize=whole, facecolor="white")
    set_title(figure, title, simulated)
    gap = (0.12, 0.3) if share else (0.45, 0.55)
    figure.subplots_adjust(
        left=0.5 / whole[0],
        right=1.0 - 0.15 / whole[0],
        bottom=0.42 / whole[1],
        top=1.0 - 0.6 / whole[1],
        wspace=gap[0] * columns / (whole[0] - gap[0] * columns),
        hspace=gap[1] * rows / (whole[1] - 1.0 - gap[1] * rows),
    )
    panels = list(figure.subplots(rows, columns, sharex=share, sharey=share, squeeze=False).flat)
    for a in panels[n:]:
        a.remove()
    for i, a in enumerate(panels[:n]):
        tidy_axes(a)
        if share and i + columns >= n:
            a.tick_params(labelbottom=True)  # a removed panel below must not take the labels with it
    return figure, panels[:n]


def picture_of(figure: Figure) -> bytes:
    """A figure as PNG without a time stamp, so that equal figures are equal files."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110, metadata={"Software": None})
    return buffer.getvalue()
