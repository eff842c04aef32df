"""One line of the table: quantize, then measure, in a process of its own.

    python -m benchmarks.ptq.job '{"out": ..., "model": ..., "row": ..., "setup": ...}'

A process that is killed loses at most a block: `ptq.quantize` goes on in the row's work folder.
"""

import json
import shutil
import statistics
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from benchmarks.ptq import store
from benchmarks.ptq.rows import CALIBRATION, ROWS, TASKS, TEXTS, WINDOW, WINDOWS, WORDS, Row, Setup

from onebit import pack, ptq
from onebit.errors import OnebitError
from onebit.eval import choices, engines, perplexity, questions, texts
from onebit.eval.machine import Machine
from onebit.ptq import budget, plan, sensitivity
from onebit.ptq.source import FileSource
from onebit.runtime.options import thread_count
from onebit.scheme import role_of
from onebit.tensors import linears

SENSITIVITY = "sensitivity.json"
FILE = "model.gguf"
NUDGES, NUDGE = 4, 1e-6
QUANTIZED = "quantized.json"
"""What quantizing found: a row that is only measured anew takes it, and the file beside it."""


def do(out: Path, model: str, row: Row, setup: Setup) -> None:
    """Do a row that is not finished.

    Raises:
        OnebitError: what `ptq.quantize` or the measurements raise. An error that is the row's own
            (no method fits) is a result too: its text is kept, and the page says it.
    """
    folder = store.claim(out, model, row, setup)
    torch.set_num_threads(thread_count(setup.threads))
    found: dict[str, Any] = {
        "made_of": store.made_of(row, setup),
        "machine": asdict(Machine.here()),
    }
    if row.method:
        quantized = store.read(folder / QUANTIZED)
        if quantized is None:
            quantized = _quantized(out, model, row, folder, setup)
            store.write(folder / QUANTIZED, quantized)
        found |= quantized
        subject: str | Path = folder / FILE
    else:
        subject = model
        source = FileSource(model)
        found["size_bytes"] = source.checkpoint.path.stat().st_size
        weights = sum(linear.N * linear.K for linear in linears(source.architecture))
        found["bits_per_weight"] = 8 * found["size_bytes"] / weights
    engine = "torch" if row.name == "float" else "native"
    found |= measured(subject, engine, setup)
    if row.torch:
        opened, tokenizer = engines.open_model(subject, "torch", setup.threads)
        found["torch"] = on_texts(opened, tokenizer, setup)
        if "a4" in row.scheme:
            found["torch_nudged"] = nudged(opened, tokenizer, setup)
    store.write(folder / "result.json", found)
    shutil.rmtree(folder / "work", ignore_errors=True)


def _quantized(out: Path, model: str, row: Row, folder: Path, setup: Setup) -> dict[str, Any]:
    """Quantize; return times, sizes and errors."""
    started = time.perf_counter()
    report = _quantize(out, model, row, folder, setup)
    return {
        "report": {key: value for key, value in report.items() if key != "rows"},
        "errors": _errors(report["rows"]),
        "time_s": time.perf_counter() - started,
        "size_bytes": (folder / FILE).stat().st_size,
        "bits_per_weight": report["bits_per_weight"],
        "layer_bits_per_weight": report["linear_bits_per_weight"],
    }


def measured(subject: str | Path, engine: str, setup: Setup) -> dict[str, Any]:
    """Return perplexities and accuracies of a model."""
    bits = store.INPUT_BITS if engine == "native" else None
    opened, tokenizer = engines.open_model(subject, engine, setup.threads, input_bits=bits)
    found: dict[str, Any] = {"texts": on_texts(opened, tokenizer, setup), "tasks": {}}
    for name in TASKS:
        task = questions.read(name, setup.items)
        found["tasks"][name] = choices.accuracy(opened, task, tokenizer=tokenizer).to_dict()
    return found


def nudged(model: Any, tokenizer: Any, setup: Setup) -> list[float]:
    """Return perplexities of a torch model on the first text, every layer's inputs off by 1e-6.

    That is what another order of the same sums does. With inputs and keys of 4 bits it gives some
    numbers another code, and those others: it tells by how much two right programs may differ.
    """
    text = texts.read(TEXTS[0], setup.limit_chars).text
    layers = [module for name, module in model.named_modules() if name.endswith("_proj")]
    found = []
    for seed in range(NUDGES):
        random = torch.Generator().manual_seed(seed)

        def nudge(_, given, random=random):
            return (given[0] * (1 + NUDGE * torch.randn(given[0].shape, generator=random)),)

        hooks = [layer.register_forward_pre_hook(nudge) for layer in layers]
        found.append(perplexity(model, text, None, tokenizer).perplexity)
        for hook in hooks:
            hook.remove()
    return found


def on_texts(opened: Any, tokenizer: Any, setup: Setup) -> dict[str, Any]:
    """Return perplexities of an open model."""
    found = {}
    for name in TEXTS:
        text = texts.read(name, setup.limit_chars)
        found[name] = perplexity(opened, text.text, None, tokenizer).to_dict()
    return found


def _quantize(out: Path, model: str, row: Row, folder: Path, setup: Setup) -> dict[str, Any]:
    options = ptq.Options(**row.options)
    scheme: Any = row.scheme
    if row.mixed:
        scheme = _mixed(out, model, row, setup)
    elif row.blocks:
        scheme = _blocks(model, row)
    if isinstance(scheme, plan.Plan):
        scheme.write(folder / "plan.toml")
    report = ptq.quantize(
        model,
        folder / FILE,
        method=row.method,
        scheme=scheme,
        calibration=CALIBRATION if row.windows else None,
        windows=row.windows or WINDOWS,
        window=WINDOW,
        options=options,
        work=folder / "work",
        force=True,
        kept="force",
        progress=lambda status: _tell("block", status.done, status.blocks),
    )
    report.write(folder / "model.report.json")
    return report.to_dict()


def _errors(rows: list[dict[str, Any]]) -> dict[str, float | None]:
    """Return the layers' relative errors in the mean, by kind; None where a layer has none."""
    found = {}
    for kind in ("weight", "output"):
        values = [row[f"{kind}_error"] for row in rows]
        found[kind] = statistics.fmean(values) if values and None not in values else None
    return found


def _layers(model: str) -> list[Any]:
    found = linears(FileSource(model).architecture)
    return [linear for linear in found if role_of(linear.name) not in ("embed", "head")]


def _blocks(model: str, row: Row) -> plan.Plan:
    """Return the plan that gives each layer the first of the row's formats that fits its width."""
    words = {}
    for linear in _layers(model):
        fitting = [name for name in row.blocks if not linear.K % pack.FORMATS[name].columns]
        words[linear.name] = fitting[0]
    return plan.Plan(row.name, words)


def _mixed(out: Path, model: str, row: Row, setup: Setup) -> plan.Plan:
    """Return the plan of least cost for the row's bits."""
    path = out / model / SENSITIVITY
    table = sensitivity.read(path) if path.exists() else _sensitivity(model, path)
    bits = row.bits
    if row.bits_of:
        other = store.result(out, model, ROWS[row.bits_of], setup)
        if other is None:
            raise OnebitError(f"{row.name} has the size of {row.bits_of}; do that row first.")
        bits = other["layer_bits_per_weight"]
    assert bits is not None  # of a mixed row
    made, _ = budget.plan(table, budget.bytes_of_bits(bits, table), name=row.name)
    return made


def _sensitivity(model: str, path: Path) -> sensitivity.Sensitivity:
    table = budget.measure(model, CALIBRATION, WORDS, method="gptq", progress=_tell)
    table.write(path)
    return table


def _tell(what: str, done: int, of: int) -> None:
    print(f"{what} {done} of {of}", file=sys.stderr, flush=True)


def main() -> int:
    """Do the job on the command line; say on standard output what went wrong."""
    given = json.loads(sys.argv[1])
    setup = Setup(**{k: tuple(v) if isinstance(v, list) else v for k, v in given["setup"].items()})
    out, model, row = Path(given["out"]), given["model"], ROWS[given["row"]]
    try:
        do(out, model, row, setup)
    except OnebitError as error:
        print(error)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
