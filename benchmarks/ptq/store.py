"""The folder that the results live in, and what is finished there.

runs/results-ptq/MODEL/
  sensitivity.json         of every layer, for mixed precision
  ROW/result.json          it is finished; the row as it was then is in it
  ROW/model.gguf           what was written, with model.report.json and .html
  ROW/quantized.json       what that took, and its sizes and errors
  ROW/work/                of `ptq.quantize`, until it is finished: a killed run goes on from there

A folder whose row has changed since makes way.
"""

import json
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.ptq.rows import Row, Setup

from onebit.io.atomic import write_bytes

INPUT_BITS = 16
"""Of the engine's inputs where a scheme leaves them floats."""


def folder(out: Path, model: str, row: Row) -> Path:
    """Return the folder of a row."""
    return out / model / row.name


def result(out: Path, model: str, row: Row, setup: Setup) -> dict[str, Any] | None:
    """Return what a row found; None if it is not finished, or was another row or measurement."""
    found = read(folder(out, model, row) / "result.json")
    return found if found is not None and found["made_of"] == made_of(row, setup) else None


def claim(out: Path, model: str, row: Row, setup: Setup) -> Path:
    """Return a row's folder, emptied if it is of another one."""
    place = folder(out, model, row)
    stamp = made_of(row, setup)
    if place.exists() and (read(place / "row.json") or {}).get("row") != stamp["row"]:
        shutil.rmtree(place)
    place.mkdir(parents=True, exist_ok=True)
    write(place / "row.json", stamp)
    return place


def made_of(row: Row, setup: Setup) -> dict[str, Any]:
    """Return all that a result depends on, as JSON gives it back."""
    made = {"row": asdict(row), "items": setup.items, "limit_chars": setup.limit_chars}
    made["input_bits"] = INPUT_BITS
    plain: dict[str, Any] = json.loads(json.dumps(made))
    for said in ("words", "group", "models"):  # of the page, and not of what is done
        del plain["row"][said]
    return plain


def read(path: Path) -> dict[str, Any] | None:
    """Return a JSON file as a dict; None if it is not there."""
    if not path.exists():
        return None
    found: dict[str, Any] = json.loads(path.read_text("utf-8"))
    return found


def write(path: Path, values: Any) -> None:
    """Write a JSON file, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(path, (json.dumps(values, indent=1) + "\n").encode())
