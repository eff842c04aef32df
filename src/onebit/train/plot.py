"""The loss curve of a run, as a PNG."""

from pathlib import Path
from typing import Any

_INK, _MUTED, _TRAIN, _HELD_OUT = "#1f2328", "#8b949e", "#4c78a8", "#d1495b"


def loss_curve(lines: list[dict[str, Any]], title: str, path: Path) -> None:
    """Draw training loss and held-out bits per byte against tokens, and where the scheme changes.

    Args:
        lines: what `metrics.read` returns.
        title: written above.
        path: of the PNG.
    """
    from matplotlib.figure import Figure  # no pyplot: nothing global, no display

    train = [(line["tokens"] / 1e6, line["loss"]) for line in lines if "loss" in line]
    held_out = [
        (line["tokens"] / 1e6, line["held_out_bits_per_byte"])
        for line in lines
        if "held_out_bits_per_byte" in line
    ]
    figure = Figure(figsize=(8, 4.5), dpi=120, layout="constrained")
    left = figure.subplots()
    left.plot(*zip(*train, strict=True), color=_TRAIN, linewidth=1)
    left.set_xlabel("tokens trained on, millions", color=_INK)
    left.set_ylabel("training loss, nats per token", color=_TRAIN)
    left.set_title(title, color=_INK, loc="left")
    left.grid(color=_MUTED, alpha=0.25, linewidth=0.5)
    for line in lines:
        if "scheme" in line and line["tokens"]:
            left.axvline(line["tokens"] / 1e6, color=_MUTED, linestyle=":", linewidth=1)
    right = left.twinx()
    right.plot(*zip(*held_out, strict=True), color=_HELD_OUT, marker="o", markersize=4)
    right.set_ylabel("held-out text, bits per byte", color=_HELD_OUT)
    for axes in (left, right):
        axes.spines[["top"]].set_visible(False)
    figure.savefig(path)
