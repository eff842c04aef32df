"""`--bits` and `--budget`: what the layers of a model are measured for, and the plan that follows.

What cannot be is refused before anything is measured. The table of what was measured is kept as a
file: a run that was stopped, or one of other bits, goes on from it.
"""

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

from onebit.errors import OnebitError, OptionError
from onebit.io import open_checkpoint
from onebit.ptq import METHODS, budget, driver, guards, probe, sensitivity_table, size
from onebit.ptq.budget import WINDOWS, WORDS
from onebit.ptq.calibration import Calibration
from onebit.ptq.chain import chain
from onebit.ptq.options import Options
from onebit.ptq.plan import KEEP, Plan, uniform
from onebit.ptq.sensitivity import Sensitivity
from onebit.ptq.source import FileSource, layers_of


def plan(
    model: str,
    text: str,
    *,
    bits: float | None,
    size_bytes: int | None,
    method: str,
    options: Options,
    kept: str = "refuse",
    embed: str | None = None,
    table_file: Path | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> tuple[Plan, dict[str, str]]:
    """Return the plan of least cost under a mean of bits or a file's size, and its comments.

    Args:
        model: what `io.open_checkpoint` takes.
        text: calibration text, by name or file.
        bits: mean of the layers that are rounded, or None.
        size_bytes: of the file, where no bits are given.
        method, options: that will round in the end.
        kept: as `ptq.quantize`; kept layers are counted as they lie in the file.
        embed: format of embedding and head, if it was said.
        table_file: for what was measured, to be read again by a run of the same.
        progress: called with (what, done, of).

    Raises:
        OptionError: the method does not round to integers, no layer is left to choose for, or the
            budget holds not even the fewest bits.
        OnebitError: as `guards.settle` and `budget.measure`.
    """
    source = FileSource(open_checkpoint(model))
    methods = chain(method, METHODS)
    layers = layers_of(source)
    if kept == "force":
        guards.refuse_masters(source, layers)
    found = {} if kept == "force" else guards.rounded_before(source, layers)
    keeping = guards.settle(found, len(layers), kept, model, bool(methods.rotations))
    free = [name for name in layers if name not in keeping]
    if not free:
        raise OptionError(f"{model}: all layers are kept, and none is left to choose bits for.")
    _check_words(methods.rounding[0], options)
    least = sum(_least(*layers[name]) for name in free)
    weights = sum(layers[name][0] * layers[name][1] for name in free)
    if bits is not None:
        most = budget.bytes_of_bits(bits, weights)
    else:
        unties = bool(methods.rotations) and bool(source.config.get("tie_word_embeddings"))
        most = budget.left_for_layers(
            source.checkpoint,
            free,
            size_bytes or 0,
            embed=embed,
            unties=unties,
            as_floats=bool(methods.rotations),
        )
    if most < least:
        given = f"a mean of {bits:g} bits" if bits is not None else f"{size_bytes:,} bytes"
        more = "" if bits is not None else f", which leaves {max(most, 0):,} for the layers"
        need = f"{8 * least / weights:.3f} bits" if bits is not None else f"{least:,} bytes of them"
        raise OptionError(
            f"{given}{more}: too little; at the fewest bits that are chosen from, {WORDS[0]}, the "
            f"layers take {need}. Raise it, or take --scheme w1.58a16-g64 --method ternary."
        )
    table = _measured(source, text, methods.rounding[0], options, free, table_file, progress)
    made, chosen = budget.plan(table, most)
    lines = dict.fromkeys(sorted(keeping), KEEP) | dict(made.layers)
    return replace(made, layers=lines), budget.comments(table, chosen)


def _check_words(method: str, options: Options) -> None:
    for word in WORDS:
        try:
            probe.check(METHODS[method], uniform(word).held("up_proj"), options, True)
        except OnebitError as error:
            raise OptionError(
                f"bits are chosen from {', '.join(WORDS)}, and {method} does not round to them; "
                "take gptq, rtn or hqq, or write a plan yourself and give it by --plan."
            ) from error


def _least(N: int, K: int) -> int:
    fitting = []
    for word in WORDS:
        held = uniform(word).held("up_proj")
        if K % (held.scheme.group or 1) == 0:
            fitting.append(size.size_bytes(held, N, K))
    return min(fitting, default=0)  # where none fits, measuring says so


def _measured(
    source: FileSource,
    text: str,
    method: str,
    options: Options,
    layers: list[str],
    file: Path | None,
    progress: Callable[[str, int, int], None] | None,
) -> Sensitivity:
    tokens = budget.calibration_of(source.checkpoint, text, seed=options.seed)
    key = _key(source, tokens, method, options, layers)
    if file is not None and file.exists():
        table = sensitivity_table.read(file)
        if table.made.get("key") == key:
            return table
    table = budget.measure(
        source, tokens, method=method, options=options, layers=layers, progress=progress
    )
    table.made["key"] = key
    if file is not None:
        table.write(file)
    return table


def _key(
    source: FileSource, tokens: Calibration, method: str, options: Options, layers: list[str]
) -> str:
    """Return a word that differs where the table would."""
    told = {
        "model": driver.files_of(source),
        "tokens": hashlib.sha256(tokens.tokens_WT.tobytes()).hexdigest(),
        "windows": WINDOWS,
        "method": method,
        "options": asdict(options),
        "words": WORDS,
        "layers": layers,
    }
    return hashlib.sha256(json.dumps(told).encode()).hexdigest()
