"""The figures of the page, drawn from the numbers alone. PNG, some 40 KB each."""

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.bitnet import measure
from benchmarks.bitnet.claims import flat_cost, mean_of, measured
from benchmarks.bitnet.numbers import Numbers

_INK, _MUTED = "#1f2328", "#8b949e"
_COLORS = ("#1f2328", "#4c78a8", "#d1495b", "#2a9d8f", "#e9a23b", "#7b5ea7", "#8b949e", "#b07aa1")
CURVES = ("float", "b1", "b1.58-sub", "a4.8", "v2-a8", "v2-a4", "a4-direct", "v2-a4-direct")


def draw(numbers: Numbers, folder: Path) -> list[str]:
    """Draw every figure that there are numbers for; return the files' names."""
    folder.mkdir(parents=True, exist_ok=True)
    return [
        name
        for name, figure in (
            ("loss.png", losses),
            ("activations.png", activations),
            ("key_values.png", key_values),
            ("flatness.png", flatness),
            ("dynamic.png", dynamic),
        )
        if figure(numbers, folder / name)
    ]


def losses(numbers: Numbers, path: Path, names: Sequence[str] = CURVES) -> bool:
    """Training loss against tokens, of these arms: the whole run, and its last quarter."""
    arms = [arm for arm in names if numbers["arms"].get(arm, {}).get("curve")]
    if not arms:
        return False
    figure, (left, right) = _figure(2)
    for arm, color in zip(arms, _COLORS, strict=False):
        curve = numbers["arms"][arm]["curve"]
        late = [point for point in curve if point[0] > 0.75 * curve[-1][0]]
        left.plot(*zip(*curve, strict=True), color=color, linewidth=1, label=arm)
        right.plot(*zip(*late, strict=True), color=color, linewidth=1.2)
    left.set_ylim(top=8)  # a vocabulary of 1,024 is 6.9; the first steps would flatten the rest
    left.set_ylabel("training loss, nats per token", color=_INK)
    left.set_title("training", color=_INK, loc="left")
    right.set_title("its last quarter", color=_INK, loc="left")
    for axes in (left, right):
        axes.set_xlabel("tokens, millions", color=_INK)
    left.legend(frameon=False, fontsize=7)
    return _save(figure, path)


def activations(numbers: Numbers, path: Path) -> bool:
    """Histograms of the inputs of o and down, before and after the Hadamard."""
    found = measured(numbers, "v2-a8", "inputs")
    if not found:
        return False
    figure, panels = _figure(2)
    width = 2 * measure.EDGE / measure.BINS
    middles = [-measure.EDGE + width * (i + 0.5) for i in range(measure.BINS)]
    for axes, role in zip(panels, ("o", "down"), strict=True):
        for when, color in (("before", _COLORS[2]), ("after", _COLORS[1])):
            kurtosis = mean_of(found, "kurtosis", role, when)
            axes.step(
                middles,
                found[0]["histogram"][role][when],
                where="mid",
                color=color,
                label=f"{when}: kurtosis {kurtosis:.1f}",
            )
        axes.set_yscale("log")
        axes.set_xlabel("value / root mean square of its token", color=_INK)
        axes.set_title(f"v2-a8, input of {role}", color=_INK, loc="left")
        axes.legend(frameon=False, fontsize=7)
    panels[0].set_ylabel("share of values", color=_INK)
    return _save(figure, path)


def key_values(numbers: Numbers, path: Path) -> bool:
    """Cost of few bits for keys and values, by our rule and by the papers'."""
    arms = [arm for arm in measure.KV_ARMS if measured(numbers, arm, "key_values")]
    if not arms:
        return False
    figure, panels = _figure(2)
    for axes, rule in zip(panels, ("ours", "papers"), strict=True):
        for arm, color in zip(arms, _COLORS, strict=False):
            found = measured(numbers, arm, "key_values")
            base = mean_of(found, "ours", "16")
            bits = [b for b in ("8", "4", "3", "2") if b in found[0][rule]]
            costs = [max(mean_of(found, rule, b) - base, 1e-6) for b in bits]
            axes.plot(bits, costs, color=color, marker="o", markersize=3, linewidth=1, label=arm)
        axes.set_yscale("log")
        axes.set_xlabel("bits of a key or value", color=_INK)
        title = {"ours": "our rule", "papers": "the papers' absmax"}[rule]
        axes.set_title(title, color=_INK, loc="left")
    _same_limits(panels)
    panels[0].set_ylabel("more bits per byte than with 16", color=_INK)
    panels[0].legend(frameon=False, fontsize=7)
    return _save(figure, path)


def flatness(numbers: Numbers, path: Path) -> bool:
    """Cost of a move of the weights against its size; rounding the float model as one such move."""
    arms = [arm for arm in measure.FLAT_ARMS if measured(numbers, arm, "flatness")]
    if not arms:
        return False
    figure, panels = _figure(2)
    for axes, what in zip(panels, ("effective", "masters"), strict=True):
        for arm, color in zip(arms, _COLORS, strict=False):
            found = measured(numbers, arm, "flatness")
            which = what if what in found[0] else "effective"
            sizes = [point["size"] for point in found[0][which] if point["size"]]
            costs = [max(flat_cost(numbers, arm, which, size), 1e-5) for size in sizes]
            axes.plot(sizes, costs, color=color, marker="o", markersize=3, linewidth=1, label=arm)
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_xlabel("move of each row / its length", color=_INK)
    _roundings(numbers, panels[0])
    _same_limits(panels)
    panels[0].set_ylabel("more bits per byte", color=_INK)
    panels[0].set_title("the weights that are computed with", color=_INK, loc="left")
    panels[1].set_title("the float masters, then rounded", color=_INK, loc="left")
    panels[0].legend(frameon=False, fontsize=7)
    return _save(figure, path)


def dynamic(numbers: Numbers, path: Path) -> bool:
    """Bits per byte against mean bits of the inputs, over the ratio of "dynamic:R"."""
    arms = [arm for arm in measure.DYNAMIC_ARMS if measured(numbers, arm, "dynamic")]
    if not arms:
        return False
    figure, (axes,) = _figure(1)
    for arm, color in zip(arms, _COLORS[1:], strict=False):
        found = measured(numbers, arm, "dynamic")
        points = sorted(
            (mean_of(found, rule, "mean_bits"), mean_of(found, rule, "bits_per_byte"), rule)
            for rule in found[0]
        )
        axes.plot(
            [bits for bits, _, _ in points],
            [score for _, score, _ in points],
            color=color,
            marker="o",
            markersize=3,
            linewidth=1,
            label=arm,
        )
        for bits, score, rule in points:
            words = rule.removeprefix("dynamic:").removesuffix("_absmax").removesuffix("_absmean")
            axes.annotate(words, (bits, score), fontsize=6, color=_MUTED)
    axes.set_xlabel("mean bits of an input", color=_INK)
    axes.set_ylabel("bits per byte", color=_INK)
    axes.legend(frameon=False, fontsize=7)
    return _save(figure, path)


def _roundings(numbers: Numbers, axes: Any) -> None:
    """Mark what rounding the float model costs, at the size of the move that it is."""
    found = measured(numbers, "float", "flatness")
    if not found:
        return
    base = statistics.fmean(entry["effective"][0]["mean"] for entry in found)
    for weight in found[0]["rounded"]:
        size = mean_of(found, "rounded", weight, "size")
        cost = max(mean_of(found, "rounded", weight, "bits_per_byte") - base, 1e-5)
        axes.plot([size], [cost], color=_INK, marker="x", markersize=5)
        axes.annotate(f" {weight}", (size, cost), fontsize=6, color=_INK)


def _same_limits(panels: Sequence[Any]) -> None:
    """Give panels side by side the same axes."""
    x, y = ([axes.get_xlim() for axes in panels], [axes.get_ylim() for axes in panels])
    for axes in panels:
        axes.set_xlim(min(low for low, _ in x), max(high for _, high in x))
        axes.set_ylim(min(low for low, _ in y), max(high for _, high in y))


def _figure(panels: int) -> tuple[Any, Sequence[Any]]:
    from matplotlib.figure import Figure  # no pyplot: nothing global, no display

    figure = Figure(figsize=(4.2 * panels, 3.4), dpi=110, layout="constrained")
    return figure, figure.subplots(1, panels, squeeze=False)[0]


def _save(figure: Any, path: Path) -> bool:
    for axes in figure.axes:
        axes.grid(color=_MUTED, alpha=0.25, linewidth=0.5)
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, metadata={"Software": None})
    return True
