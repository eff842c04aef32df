"""Size against quality, one figure a model, the Pareto front marked."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.ptq.numbers import Line, quality
from benchmarks.ptq.rows import GROUPS
from matplotlib.figure import Figure

_INK, _MUTED = "#1f2328", "#8b949e"
_COLORS = ("#1f2328", "#4c78a8", "#8fb1d3", "#2e8b57", "#d1495b", "#e1a100", "#7b5ea7")
_WORST = 1.6
"""Of the float model's bits per byte: what is beyond is a triangle at the upper edge."""


def draw(found: Mapping[str, Any], folder: Path) -> list[str]:
    """Draw what there is data for; return the files' names."""
    folder.mkdir(parents=True, exist_ok=True)
    drawn = []
    for model, table in found["models"].items():
        lines = [x for x in table["rows"].values() if x["name"] != "float"]
        if len(lines) > 1:
            pareto(table, lines, folder / f"{model}.png")
            drawn.append(f"{model}.png")
    return drawn


def pareto(table: Mapping[str, Any], lines: list[Line], path: Path) -> None:
    """Draw bits per byte over megabytes."""
    figure = Figure(figsize=(10, 6.5), dpi=120, layout="constrained")
    axes = figure.subplots()
    reference = table["rows"].get("float")
    top = _WORST * quality(reference) if reference else max(map(quality, lines))
    for (group, words), color in zip(GROUPS.items(), _COLORS, strict=True):
        mine = [x for x in lines if x["group"] == group]
        for beyond, marker in ((False, "o"), (True, "^")):
            shown = [x for x in mine if (quality(x) > top) == beyond]
            axes.scatter(
                [x["size_bytes"] / 1e6 for x in shown],
                [min(quality(x), top) for x in shown],
                s=26,
                color=color,
                marker=marker,
                edgecolors=[_INK if x["front"] else color for x in shown],
                linewidths=1.2,
                label=words if shown and (not beyond or len(shown) == len(mine)) else None,
                zorder=3,
            )
    front = sorted((x for x in lines if x["front"]), key=lambda x: float(x["size_bytes"]))
    axes.plot(
        [x["size_bytes"] / 1e6 for x in front],
        [min(quality(x), top) for x in front],
        color=_MUTED,
        linewidth=1,
        drawstyle="steps-post",  # to the right of a point, nothing is better until the next
        label="Pareto front (its points ringed)",
        zorder=2,
    )
    for place, x in enumerate(front):
        above = place % 2 == 0  # by turns on both sides of the front: neighbours' names stay apart
        axes.annotate(
            x["name"],
            (x["size_bytes"] / 1e6, min(quality(x), top)),
            xytext=(5, 5) if above else (-5, -6),
            ha="left" if above else "right",
            va="bottom" if above else "top",
            textcoords="offset points",
            fontsize=7,
            color=_INK,
        )
    if reference:
        axes.axhline(quality(reference), color=_INK, linewidth=0.8, linestyle=":")
        axes.annotate(
            "the float reference",
            (1, quality(reference)),
            xycoords=("axes fraction", "data"),
            xytext=(-4, -4),
            textcoords="offset points",
            ha="right",
            va="top",
            fontsize=7,
            color=_MUTED,
        )
        axes.set_ylim(quality(reference) - 0.06 * (top - quality(reference)), 1.02 * top)
    axes.set_title(table["called"], loc="left", color=_INK)
    axes.set_xlabel("size of the file, MB", color=_INK)
    axes.set_ylabel("bits per byte of held-out text (a triangle: above)", color=_INK)
    axes.grid(color=_MUTED, alpha=0.25, linewidth=0.5)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=8, frameon=False)
    figure.savefig(path)
