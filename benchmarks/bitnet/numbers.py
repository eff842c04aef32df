"""Everything that the runs have given, as one table of plain data: docs/results/bitnet.json."""

import math
import statistics
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.bitnet import measure, plan, store
from benchmarks.bitnet.arms import Run, Setup

from onebit.train import metrics

Numbers = dict[str, Any]
POINTS = 60
"""Of each loss curve."""


def collect(out: Path, setup: Setup) -> Numbers:
    """Return all numbers of the runs that are finished."""
    text = store.text(out, setup)
    scores = store.scores(out, setup)
    finals = [run for run in plan.final_runs(setup, scores) if run.name in scores]
    held_out = text.held_out
    return {
        "setup": {
            "model": asdict(setup.model),
            "tokens": setup.tokens,
            "seeds": list(setup.seeds),
            "text": setup.data.source,
            "held_out": setup.data.held_out,
            "vocab_size": text.tokenizer.vocab_size,
            "context": setup.data.context,
            "batch": setup.optim.batch * setup.optim.accumulate,
            "train_tokens": len(text.train),
            "held_out_tokens": len(held_out),
            "held_out_bytes": held_out.size_bytes,
            "bytes_per_token": held_out.size_bytes / len(held_out),
        },
        "groups": dict(setup.groups),
        "tuning": {family: _tuned(family, setup, scores) for family in plan.families(setup)},
        "arms": {
            name: _arm(out, setup, [run for run in finals if run.arm.name == name], scores)
            for name in setup.arms
            if any(run.arm.name == name for run in finals)
        },
    }


def _tuned(family: str, setup: Setup, scores: plan.Scores) -> dict[str, Any]:
    runs, best = plan.tuning(family, setup, scores)
    tried = {f"{run.lr:g}": _finite(scores[run.name]) for run in runs if run.name in scores}
    return {"arm": setup.families[family], "tried": tried, "best": best}


def _arm(out: Path, setup: Setup, runs: list[Run], scores: plan.Scores) -> dict[str, Any]:
    arm = runs[0].arm
    bits = {str(run.seed): _finite(scores[run.name]) for run in runs}
    there = [value for value in bits.values() if value is not None]
    results = [out / run.name / "result.json" for run in runs]
    sizes = [store.read(path)["parameters"] for path in results if path.exists()]
    return {
        "group": arm.group,
        "family": arm.family,
        "words": arm.words,
        "scheme": arm.scheme.to_dict(),
        "lr": runs[0].lr,
        "parameters": sizes[0] if sizes else None,
        "bits_per_byte": bits,
        "diverged": sum(value is None for value in bits.values()),
        "mean": statistics.fmean(there) if there else None,
        "spread": max(there) - min(there) if there else None,
        "curve": _curve(out / runs[0].name),
        "measures": {
            kind: {str(run.seed): found for run in runs if (found := _measure(out, run, kind))}
            for kind in setup.kinds()
        },
    }


def _measure(out: Path, run: Run, kind: str) -> dict[str, Any] | None:
    path = out / run.name / "measures" / f"{kind}.json"
    if not path.exists():
        return None
    found = store.read(path)
    return None if found.pop("version") != measure.VERSION else found


def _curve(folder: Path) -> list[list[float]]:
    """Return POINTS points (million tokens, mean loss around there) of a run's training loss."""
    path = folder / "metrics.jsonl"
    if not path.exists():
        return []
    lines = [line for line in metrics.read(path) if "loss" in line]
    size = max(1, math.ceil(len(lines) / POINTS))
    parts = [lines[i : i + size] for i in range(0, len(lines), size)]
    return [
        [
            round(statistics.fmean(line["tokens"] for line in part) / 1e6, 4),
            round(statistics.fmean(line["loss"] for line in part), 4),
        ]
        for part in parts
    ]


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
