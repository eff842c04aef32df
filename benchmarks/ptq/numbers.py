"""All that was found, as one table of plain data: what the page and its figures are made of."""

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeAlias

from benchmarks.ptq import store
from benchmarks.ptq.rows import MODELS, ROWS, Row, Setup

Line: TypeAlias = dict[str, Any]
"""Of one row and model."""


def collect(out: Path, setup: Setup) -> dict[str, Any]:
    """Return what is finished: model -> row -> line, and the peers beside them."""
    models: dict[str, Any] = {}
    for model in setup.models:
        lines = {}
        for name in setup.rows:
            found = store.result(out, model, ROWS[name], setup)
            if found is not None:
                lines[name] = line(ROWS[name], found)
        mark_front(list(lines.values()))
        models[model] = {"called": MODELS[model], "rows": lines}
        models[model]["peers"] = {
            name: x
            for name, x in (store.read(out / model / "peers.json") or {}).items()
            if x["made_of"]["limit_chars"] == setup.limit_chars
        }
    return {"setup": {"items": setup.items, "limit_chars": setup.limit_chars}, "models": models}


def line(row: Row, found: dict[str, Any]) -> Line:
    """Return one line of the table."""
    report = found.get("report", {})
    layers = found.get("layer_bits_per_weight")
    made = {
        "name": row.name,
        "group": row.group,
        "words": row.words,
        "method": row.method,
        "size_bytes": found["size_bytes"],
        "bits_per_weight": found["bits_per_weight"],
        "layer_bits_per_weight": layers,
        "time_s": found.get("time_s"),
        "peak_memory_bytes": report.get("peak_memory_bytes"),
        "machine": found["machine"],
    }
    for kind in ("weight", "output"):
        made[f"{kind}_error"] = found.get("errors", {}).get(kind)
    for name, text in found["texts"].items():
        made[f"{name}_perplexity"] = text["perplexity"]
        made[f"{name}_bits_per_byte"] = text["bits_per_byte"]
    for name, task in found["tasks"].items():
        made |= {f"{name}_{key}": task[key] for key in _OF_TASKS}
    for name, text in found.get("torch", {}).items():
        made[f"{name}_torch_perplexity"] = text["perplexity"]
    if "torch_nudged" in found:
        made["wiki_torch_nudged"] = found["torch_nudged"]
    return made


_OF_TASKS = ("accuracy", "accuracy_per_byte", "error", "error_per_byte", "questions", "right")


def mark_front(lines: Sequence[Line]) -> None:
    """Say of each line whether no other is both smaller and better, "front".

    What was only measured, and never written, takes no part.
    """
    files = [x for x in lines if x["name"] != "float"]
    for x in lines:
        x["front"] = x in files and not any(beats(other, x) for other in files)


def beats(a: Line, b: Line) -> bool:
    """Whether a is no larger and no worse than b, and one of the two truly."""
    size, loss = a["size_bytes"] - b["size_bytes"], quality(a) - quality(b)
    return size <= 0 and loss <= 0 and (size < 0 or loss < 0)


def quality(x: Line) -> float:
    """Return what is compared: bits per byte over both texts; less is better."""
    return statistics.fmean(x[f"{name}_bits_per_byte"] for name in ("wiki", "sotu"))
