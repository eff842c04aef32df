"""ggml's own quantizers (the package libgguf is their C code) beside ours, layer by layer.

Both get the same float weights and, in half of the runs, the same importance: the mean square of
what enters each column of the float model, as llama.cpp's imatrix holds it, over the table's
calibration tokens. Both round on one thread, by turns. Each writes a file, with the same format for
each layer, and the native engine measures both files.

Shape letters: N rows, K columns.
"""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from benchmarks.ptq import store
from benchmarks.ptq.job import on_texts
from benchmarks.ptq.rows import ROWS, Setup
from numpy.typing import NDArray
from torch import Tensor

from onebit import models, pack
from onebit.eval import engines
from onebit.io import Checkpoint, StoredTensor
from onebit.models import stored_weight
from onebit.ptq import kquants, packing
from onebit.ptq.plan import Held
from onebit.ptq.source import FileSource, layers_of
from onebit.scheme import FP

FORMATS = ("q2_k", "q3_k", "q4_k", "q5_k", "q6_k", "tq2_0")
WAYS = tuple((name, weighed) for weighed in (False, True) for name in FORMATS)
PACKAGE = "libgguf"


def name(format: str, weighed: bool) -> str:
    """Return how a way is called among the peers."""
    return f"ggml-{format}" + ("-importance" if weighed else "")


@dataclass
class Side:
    """What one of the two has made so far."""

    tensors: dict[str, StoredTensor] = field(default_factory=dict)
    time_s: float = 0.0
    lost: float = 0.0
    """Sum of squares, weighed by the importance where there is one."""


class Rounded(Checkpoint):
    """A model with other tensors in the place of some of its own."""

    def __init__(self, base: Checkpoint, tensors: Mapping[str, StoredTensor]) -> None:
        self.path, self.config, self.metadata = base.path, base.config, base.metadata
        self.tokenizer = base.tokenizer
        self._base, self._tensors = base, tensors

    def names(self) -> list[str]:
        return self._base.names()

    def tensor(self, name: str) -> StoredTensor:
        return self._tensors.get(name) or self._base.tensor(name)


def beside(
    inputs: tuple[Path, Path], model: str, format: str, weighed: bool, setup: Setup
) -> dict[str, Any]:
    """Return what both make of a model in a format: errors, seconds, perplexities.

    Args:
        inputs: a folder beside which the importance is kept, and the calibration tokens.
        model: its name.
        format: of the layers whose width it divides; the others have the row's fallback.
        weighed: whether columns have their importance.
        setup: of the measurement.
    """
    source = FileSource(model)
    weights = importance(model, inputs, setup) if weighed else {}
    theirs, ours, whole = Side(), Side(), 0.0
    formats = {}
    with _one_thread():
        for layer, (_, K) in layers_of(source).items():
            fitting = next(f for f in ROWS[format].blocks if not K % pack.FORMATS[f].columns)
            formats[layer] = fitting
            full = f"{layer}.weight"
            w_NK, h_K = source.tensor(full), weights.get(layer)
            _round(theirs, _theirs, full, w_NK, h_K, fitting)
            _round(ours, _ours, full, w_NK, h_K, fitting)
            whole += _squares(w_NK, h_K)
    found = {}
    for who, side in (("theirs", theirs), ("ours", ours)):
        file = inputs[0].parent / f"{name(format, weighed)}-{who}.gguf"
        models.export(Rounded(source.checkpoint, side.tensors), file, formats=formats, force=True)
        opened = engines.open_model(file, "native", setup.threads)
        found[who] = {
            "time_s": side.time_s,
            "weight_error": (side.lost / whole) ** 0.5,
            "size_bytes": file.stat().st_size,
            "texts": on_texts(*opened, setup),
        }
        file.unlink()
    words = "with importance" if weighed else "all columns alike"
    return {
        "project": "ggml",
        "version": f"of {PACKAGE} {version(PACKAGE)}",
        "words": f"{ROWS[format].words}, {words}",
        **found["theirs"],
        "ours": found["ours"],
    }


def _round(side: Side, by: Any, full: str, w_NK: Tensor, h_K: Tensor | None, format: str) -> None:
    """Let one of the two round a layer; only the rounding is timed."""
    started = time.perf_counter()
    stored = by(full, w_NK, h_K, format)
    side.time_s += time.perf_counter() - started
    side.lost += _squares(torch.from_numpy(stored_weight.values(stored)) - w_NK, h_K)
    side.tensors[full] = stored


def _theirs(full: str, w_NK: Tensor, h_K: Tensor | None, format: str) -> StoredTensor:
    import libgguf

    kind = libgguf.GGMLQuantizationType[format.upper()]
    weights = None if h_K is None else h_K.numpy()
    data: NDArray[np.uint8] = np.asarray(libgguf.quantize_rows(w_NK.numpy(), kind, weights))
    return StoredTensor(full, format, tuple(w_NK.shape), data.view(np.uint8).reshape(-1))


def _ours(full: str, w_NK: Tensor, h_K: Tensor | None, format: str) -> StoredTensor:
    return packing.stored(full, kquants.FORMATS[format](w_NK, h_K), Held(FP, format))


def _squares(w_NK: Tensor, h_K: Tensor | None) -> float:
    squares_NK = w_NK.double().square()
    return float((squares_NK if h_K is None else squares_NK * h_K.double()).sum())


def importance(model: str, inputs: tuple[Path, Path], setup: Setup) -> dict[str, Tensor]:
    """Return the mean square (K,) of what enters each layer of the float model, kept in a file."""
    path = inputs[0].with_name("importance.json")
    found = store.read(path)
    if found is None:
        opened, _ = engines.open_model(model, "torch", setup.threads)
        assert isinstance(opened, torch.nn.Module)
        found = mean_squares(opened, list(layers_of(FileSource(model))), np.load(inputs[1]))
        store.write(path, found)
    return {layer: torch.tensor(values) for layer, values in found.items()}


def mean_squares(
    model: torch.nn.Module, layers: list[str], tokens_WT: NDArray[np.int64]
) -> dict[str, list[float]]:
    """Return the mean square of each column of the inputs of some layers."""
    sums: dict[str, Tensor] = {}

    def hook(layer: str) -> Any:
        def add(module: Any, given: tuple[Tensor, ...]) -> None:
            x_TK = given[0].float().reshape(-1, given[0].shape[-1])
            sums[layer] = sums.get(layer, 0) + x_TK.square().sum(dim=0).double()

        return add

    handles = [model.get_submodule(n).register_forward_pre_hook(hook(n)) for n in layers]
    with torch.no_grad():
        for ids_T in torch.from_numpy(tokens_WT):
            model(ids_T[None])
    for handle in handles:
        handle.remove()
    return {layer: (total / tokens_WT.size).tolist() for layer, total in sums.items()}


@contextmanager
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
