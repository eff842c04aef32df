"""From a budget to a plan: the bits of every layer under a size or a mean of bits.

    table = budget.measure("smollm2", "wiki", method="gptq")        # once; minutes
    made, chosen = budget.plan(table, budget.bytes_of_bits(3.2, table))
    made, chosen = budget.plan(table, budget.left_for_layers("smollm2", table, 60_000_000))
    made.write("plan.toml", budget.comments(table, chosen))
    ptq.quantize("smollm2", "out.gguf", method="gptq", scheme=made, calibration="wiki")

A mean of bits is that of the layers in the table, as they lie in the file: scales and zero-points
counted, embedding and head not. A size is that of the whole file.
"""

import math
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path

import torch

from onebit import pack, ptq
from onebit.data import Tokenizer
from onebit.errors import MissingError, OptionError
from onebit.io import Checkpoint, StoredTensor, open_checkpoint
from onebit.models.export_plan import DEFAULT_EMBED
from onebit.models.export_weights import BLOCKS
from onebit.pack import plain
from onebit.ptq import calibration, packing, sensitivity, streamed
from onebit.ptq.calibration import WINDOW, Calibration
from onebit.ptq.chain import chain
from onebit.ptq.checks import BLOCK_METHOD
from onebit.ptq.float_model import float_model
from onebit.ptq.mixed import Choice, Chosen, choose
from onebit.ptq.options import Options
from onebit.ptq.plan import Plan
from onebit.ptq.sensitivity import Entry, Sensitivity
from onebit.ptq.source import FileSource, Source
from onebit.scheme import role_of

WORDS = ("w2a16-g64", "w3a16-g64", "w4a16-g64", "w5a16-g64", "w6a16-g64", "w8a16-g64")
"""What is offered to every layer if nothing is said."""
WINDOWS = 16
"""Of calibration text, for measuring; more move the choice little."""
_ENTRY_BYTES = 700
"""Of a layer in a file's head: up to three tensors, its formats, its line in the scheme."""
UNITS = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9}
UNITS |= {"kib": 2**10, "mib": 2**20, "gib": 2**30}


def measure(
    model: str | Path | Source,
    text: str | Calibration,
    words: Sequence[str] = WORDS,
    *,
    method: str = "gptq",
    options: Options = Options(),  # noqa: B008  frozen
    windows: int = WINDOWS,
    window: int = WINDOW,
    losses: int = 0,
    layers: Collection[str] | None = None,
    folder: Path | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> Sensitivity:
    """Return what every layer costs in every way of holding it.

    The whole float model is in memory meanwhile, and the Gram matrices of all its layers. With a
    `folder` it is one block at a time, without gradients: then only the measures "weight" and
    "output" are taken.

    Args:
        model: what `io.open_checkpoint` takes, or an open source.
        text: calibration text, by name or file.
        words: schemes and block formats that layers may be held in.
        method: that will round in the end; of a chain "awq+rtn" what rounds counts.
        options: of the method.
        windows, window: how much of the text.
        losses: windows over which the loss of each row is measured as well; see `sensitivity`.
        layers: which; None for all linears of attention and MLP.
        folder: for hidden states, to measure one block at a time; of all layers.
        progress: called with (what, done, of).

    Raises:
        MissingError, FileError: the model or the text is not there.
        OptionError, ShapeError, InputError: as `sensitivity.measure`.
    """
    source = model if isinstance(model, Source) else FileSource(model)
    name, known = chain(method, ptq.METHODS).rounding
    if isinstance(text, str):
        text = calibration_of(source.checkpoint, text, windows, window, options.seed)
    rounding = (known, ptq.METHODS.get(BLOCK_METHOD), options)
    if folder is not None:
        table = streamed.measure(source, text, words, *rounding, folder, progress)
    else:
        tokens_WT = torch.from_numpy(text.tokens_WT)
        table = sensitivity.measure(
            float_model(source),
            tokens_WT,
            words,
            *rounding,
            layers=layers,
            losses=losses,
            progress=progress,
        )
    table.made |= {"model": str(source.checkpoint.path.name), "method": name}
    table.made |= {"calibration": text.description}
    return table


def left_for_layers(
    model: str | Path | Checkpoint,
    table: Sensitivity | Collection[str],
    size_bytes: int,
    *,
    embed: str | None = None,
    unties: bool = False,
    as_floats: bool = False,
) -> int:
    """Return the bytes of a file of this size that are left for the layers of a table.

    Embedding and head are counted as an export writes them: as `embed`, or if nothing is said,
    blocks that are there already, else q8_0 (f16 where it does not fit); norms as float32; the head
    of the file as in the source, and each layer's entries in it. Layers that are not in the table
    are counted as they lie there.

    Args:
        model: what `io.open_checkpoint` takes, or an open checkpoint.
        table: or the names of its layers.
        size_bytes: of the file.
        embed: format of embedding and head.
        unties: whether a rotation will give a tied head a matrix of its own.
        as_floats: whether a rotation makes floats of an embedding in blocks.

    Raises:
        OptionError: nothing is left.
    """
    checkpoint = model if isinstance(model, Checkpoint) else open_checkpoint(model)
    layers = table.of_layers() if isinstance(table, Sensitivity) else set(table)
    rest, stored = _ENTRY_BYTES * len(layers), 0
    tied = bool(checkpoint.config.get("tie_word_embeddings"))
    for name in checkpoint.names():
        tensor = checkpoint.tensor(name)
        stored += tensor.data.nbytes
        module = name.removesuffix(".weight")
        if module in layers or (tied and name == "lm_head.weight"):
            continue
        role = role_of(module)
        if role in ("embed", "head"):
            rest += (2 if unties else 1) * _embed_bytes(tensor, embed, as_floats)
        elif role and tensor.format in pack.FORMATS:
            rest += packing.size_bytes(tensor) + _ENTRY_BYTES
        else:
            rest += 4 * math.prod(tensor.shape)
    rest += _head_bytes(checkpoint, stored)
    if rest >= size_bytes:
        raise OptionError(
            f"budget: {size_bytes:,} bytes, and embedding, head, norms and tokenizer take "
            f"{rest:,} of them. Raise the budget, or store the embedding in fewer bits."
        )
    return size_bytes - rest


def _embed_bytes(tensor: StoredTensor, embed: str | None, as_floats: bool) -> int:
    """Return what an export takes for embedding or head."""
    N, K = tensor.shape
    if embed is None and tensor.format in BLOCKS and not as_floats:
        return tensor.data.nbytes
    form = embed or ("f16" if K % pack.FORMATS[DEFAULT_EMBED].columns else DEFAULT_EMBED)
    if form in pack.FORMATS:
        return pack.FORMATS[form].size_bytes(N, K)
    return plain.SIZE_BYTES[form] * N * K


def _head_bytes(checkpoint: Checkpoint, stored: int) -> int:
    """Return what a file holds beside its tensors, most of it the tokenizer."""
    if checkpoint.path.is_file() and checkpoint.path.suffix == ".gguf":
        return max(0, checkpoint.path.stat().st_size - stored)
    folder = checkpoint.path if checkpoint.path.is_dir() else checkpoint.path.parent
    texts = [*folder.glob("*.json"), *folder.glob("*.model"), *folder.glob("*.txt")]
    return sum(file.stat().st_size for file in texts)


def calibration_of(
    checkpoint: Checkpoint,
    text: str,
    windows: int = WINDOWS,
    window: int = WINDOW,
    seed: int = 0,
) -> Calibration:
    """Return the windows of a text that a model is measured on.

    Raises:
        MissingError: the model has no tokenizer.
        OnebitError: as `calibration.read`.
    """
    if checkpoint.tokenizer is None:
        raise MissingError(
            f"{checkpoint.path}: has no tokenizer, and a calibration text needs one. Put the "
            "model's tokenizer files beside it."
        )
    tokenizer = Tokenizer.load(checkpoint.tokenizer.source)
    longest = int(checkpoint.config.get("max_position_embeddings", window))
    bos = tokenizer.bos_id if tokenizer.add_bos else None
    length = min(window, longest)
    return calibration.read(text, tokenizer, windows=windows, length=length, seed=seed, bos=bos)


def plan(
    table: Sensitivity,
    budget_bytes: int,
    *,
    by: str = "fisher",
    name: str = "",
    kv_bits: int = 16,
) -> tuple[Plan, Chosen]:
    """Return the plan of least cost whose layers take no more than the budget, and the choice.

    Args:
        table: measured; its layers are those of the plan.
        budget_bytes: of these layers together; subtract what the rest of the file takes first.
        by: the measure whose sum is made least.
        name: of the plan; "" says the bits.
        kv_bits: of keys and values; the plan only says so.

    Raises:
        OptionError: the measure was not taken, or the smallest choices exceed the budget.
    """
    items = {
        layer: [Choice(entry.word, entry.size_bytes, entry.cost(by)) for entry in entries]
        for layer, entries in table.of_layers().items()
    }
    found = choose(items, budget_bytes)
    bits = 8 * found.size_bytes / weights_of(table)
    made: dict[str, str | int | float] = {
        "budget_bytes": budget_bytes,
        "size_bytes": found.size_bytes,
        "bits": float(f"{bits:.4f}"),
        "cost": f"{found.cost:.6g}, the sum of {by}",
        "least_cost_possible": f"{found.lower_bound:.6g}, were layers divisible",
    }
    words = {layer: choice.name for layer, choice in found.choices.items()}
    return Plan(name or f"mixed-{bits:.2f}", words, kv_bits, made), found


def comments(table: Sensitivity, found: Chosen) -> dict[str, str]:
    """Return, for the lines of a plan, what each choice takes and costs beside its neighbours."""
    entries = table.of_layers()
    return {layer: _comment(choice, entries[layer]) for layer, choice in found.choices.items()}


def weights_of(table: Sensitivity) -> int:
    """Return the weights of all layers in the table."""
    return sum(entries[0].shape[0] * entries[0].shape[1] for entries in table.of_layers().values())


def bytes_of_bits(bits: float, table: Sensitivity | int) -> int:
    """Return the bytes that a mean of `bits` allows the layers of a table, or so many weights.

    Raises:
        OptionError: bits is not above 0 and at most 32.
    """
    if not 0 < bits <= 32:
        raise OptionError(f"bits: a mean of {bits!r:.20}; accepted: above 0, at most 32.")
    return int(bits * (table if isinstance(table, int) else weights_of(table)) / 8)


def read_size(text: str) -> int:
    """Return the bytes that "60MB", "57.5 MiB" or "60000000" means.

    Raises:
        OptionError: it means none.
    """
    found = re.fullmatch(r"\s*([0-9]{1,15}(?:\.[0-9]{1,6})?)\s*([a-z]{0,3})\s*", text.lower())
    unit = UNITS.get(found[2]) if found else None
    if found is None or unit is None:
        raise OptionError(
            f"budget: {text!r:.40} is no size; accepted: a number and one of B, KB, MB, GB (of "
            "1000) or KiB, MiB, GiB (of 1024), for instance 60MB."
        )
    return int(float(found[1]) * unit)


def shares(found: Chosen) -> Mapping[str, int]:
    """Return word -> how many layers got it."""
    counts: dict[str, int] = {}
    for choice in found.choices.values():
        counts[choice.name] = counts.get(choice.name, 0) + 1
    return dict(sorted(counts.items()))


def _comment(choice: Choice, entries: list[Entry]) -> str:
    entry = next(entry for entry in entries if entry.word == choice.name)
    bits = 8 * entry.size_bytes / (entry.shape[0] * entry.shape[1])
    return f"{bits:.3f} bits, {entry.size_bytes:,} bytes, cost {choice.cost:.3g}"
