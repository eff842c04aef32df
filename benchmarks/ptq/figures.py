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
"""Of the float model's bits per byte: what is beyond is drawn at the upper edge."""


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
        if mine:
            axes.scatter(
                [x["size_bytes"] / 1e6 for x in mine],
                [min(quality(x), top) for x in mine],
                s=22,
                color=color,
                label=words,
                zorder=3,
            )
    front = sorted((x for x in lines if x["front"]), key=lambda x: float(x["size_bytes"]))
    axes.plot(
        [x["size_bytes"] / 1e6 for x in front],
        [min(quality(x), top) for x in front],
        color=_MUTED,
        linewidth=1,
        label="Pareto front",
        zorder=2,
    )
    for x in front:
        if quality(x) < top:
            axes.annotate(
                x["name"],
                (x["size_bytes"] / 1e6, quality(x)),
                xytext=(4, 4),
                textcoords="offset points",
                fontsize=7,
                color=_INK,
            )
    if reference:
        axes.axhline(quality(reference), color=_INK, linewidth=0.8, linestyle=":")
        axes.set_ylim(0.99 * quality(reference), 1.01 * top)
    axes.set_title(table["called"], loc="left", color=_INK)
    axes.set_xlabel("size of the file, MB", color=_INK)
    axes.set_ylabel("bits per byte of held-out text", color=_INK)
    axes.grid(color=_MUTED, alpha=0.25, linewidth=0.5)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=8, frameon=False)
    figure.savefig(path)
