"""What is measured on a trained model, beyond the held-out bits per byte that `train` leaves.

Each kind is a function from a `Subject` to plain data, kept in the run's folder as
measures/KIND.json. A kind whose VERSION has changed is measured anew.

Shape letters: B windows, T tokens of a window.
"""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from benchmarks.bitnet import store
from benchmarks.bitnet.arms import Run, Setup
from torch import Tensor, nn

import onebit
from onebit import models
from onebit.analyze import flatness, layer_inputs
from onebit.data.windows import windows
from onebit.errors import OnebitError
from onebit.eval import perplexity
from onebit.models import LanguageModel
from onebit.nn import Attention, convert, mean_bits, record, score_ranges
from onebit.scheme import LinearScheme, Scheme, role_of
from onebit.train import held_out, trainer
from onebit.train.text import Text

VERSION = 1
WINDOWS = 64
"""Of the held-out text, evenly spread, for measurements that are many."""
ENGINE_WINDOWS = 8
KV_BITS = (16, 8, 4, 3, 2)
Q_AND_KV_BITS = ((4, 4), (4, 3))
ENGINE_KV_BITS = (32, 8, 4, 3)
"""32: torch does not round float keys and values, the engine has them in half precision at 16."""
SIZES = (0.0, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5)
DIRECTIONS = 2
RATIOS = (2.5, 3.0, 3.5, 4.0, 5.0, 6.0)
"""Of "dynamic:R", tried on trained models."""
ROUNDINGS = ("int8", "int6", "int4", "int3", "int2", "ternary", "binary")
"""Weights that a float model is rounded to, without training."""
EDGE = 8.0
"""Of the histograms, in root mean squares of a token."""
BINS = 64

KV_ARMS = ("float", "b1.58-sub", "a4.8", "v2-a8", "v2-a4")
FLAT_ARMS = ("float", "int4-lsq", "int2-lsq", "b1.58-sub", "ternary-seq")
A8_ARMS = ("b1.58-sub", "v2-a8")
DYNAMIC_ARMS = ("b1.58-sub", "b1.58-dynamic")


@dataclass(frozen=True)
class Subject:
    """A trained model and the text to measure it on."""

    run: Run
    folder: Path
    setup: Setup
    text: Text
    first_seed: bool

    def model(self) -> LanguageModel:
        """Return the model, anew."""
        return models.load(self.folder / "model")

    def bits_per_byte(self, model: nn.Module) -> float:
        """Return the model's bits per byte over `WINDOWS` windows of the held-out text."""
        return held_out.bits_per_byte(model, self.text.held_out, self.setup.data.context, WINDOWS)

    def tokens_BT(self, count: int) -> Tensor:
        """Return whole windows of the held-out text, evenly spread."""
        file, context = self.text.held_out, self.setup.data.context
        documents = (file.document(i) for i in range(len(file.names)))
        whole = [w for ids in documents for w in windows(ids, context) if len(w) == context]
        chosen = [whole[i * len(whole) // count] for i in range(min(count, len(whole)))]
        return torch.from_numpy(np.stack(chosen))


def inputs(subject: Subject) -> dict[str, Any]:
    """Kurtosis and zeros of the layers' inputs, mean bits, the softmax's range."""
    model = subject.model()
    tokens_BT = subject.tokens_BT(16)
    record(model)
    given = layer_inputs.record(model, tokens_BT)
    bits, ranges = mean_bits(model), score_ranges(model)
    record(model, on=False)
    turned = {
        name: layer_inputs.before_and_after(layer, given[name])
        for name, layer in flatness.layer_linears(model)
    }
    return {
        "kurtosis": {
            role: {
                when: _mean(
                    layer_inputs.kurtosis(pair[i])
                    for name, pair in turned.items()
                    if role_of(name) == role
                )
                for i, when in enumerate(("before", "after"))
            }
            for role in ("q", "o", "gate", "down")
        },
        "histogram": {
            role: {
                when: _histogram([p[i] for name, p in turned.items() if role_of(name) == role])
                for i, when in enumerate(("before", "after"))
            }
            for role in ("o", "down")
        },
        "sparsity": layer_inputs.sparsity(model, given),
        "mean_bits": _mean(bits.values()) if bits else None,
        "softmax_range": [
            min(low for low, _ in ranges.values()),
            max(high for _, high in ranges.values()),
        ],
        "temperatures": {
            name: values.tolist()
            for name, values in model.named_parameters()
            if name.endswith(".temperature")
        },
    }


def key_values(subject: Subject) -> dict[str, Any]:
    """Bits per byte with keys and values of few bits, by our rule and by the papers'; and with
    queries of 4 bits, as table 3 of a4.8 has them."""
    model = subject.model()
    found: dict[str, Any] = {"ours": {}, "papers": {}, "queries": {}}
    for bits in KV_BITS:
        convert(model, replace(model.scheme, kv_bits=bits))
        found["ours"][str(bits)] = subject.bits_per_byte(model)
        if bits <= 8:
            _set_kv_rule(model, "papers")
            found["papers"][str(bits)] = subject.bits_per_byte(model)
            _set_kv_rule(model, "engine")
    for q_bits, kv_bits in Q_AND_KV_BITS:
        convert(model, replace(model.scheme, kv_bits=kv_bits, q_bits=q_bits))
        found["queries"][f"{q_bits}, {kv_bits}"] = subject.bits_per_byte(model)
    return found


def engine(subject: Subject) -> dict[str, Any]:
    """Loss of the engine and of torch on the same windows, nats per token, by bits of the cache."""
    ids = subject.tokens_BT(ENGINE_WINDOWS).flatten().tolist()
    context = subject.setup.data.context
    model = subject.model()
    found: dict[str, Any] = {}
    form = (
        None if model.scheme.quantized else "f32"
    )  # None: what holds the codes in the fewest bits
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.gguf"
        try:
            models.export(subject.folder / "model", file, form, embed="f32")
            for bits in ENGINE_KV_BITS if subject.run.arm.name in KV_ARMS else (32,):
                convert(model, replace(model.scheme, kv_bits=bits))
                with onebit.LLM(file, threads=1, kv_bits=bits) as llm:
                    native = perplexity(llm, ids, window=context).nll_per_token
                torch_nll = perplexity(model, ids, window=context).nll_per_token
                found[str(bits)] = {"engine": native, "torch": torch_nll}
        except OnebitError as error:  # the page says which schemes do not run
            found["refused"] = str(error)
    return found


def untrained_a4(subject: Subject) -> dict[str, Any]:
    """Bits per byte of a model trained with 8-bit inputs: as it is, and with 4 bits at once."""
    model = subject.model()
    found = {"int8": subject.bits_per_byte(model)}
    layers = {
        name: replace(how, activation="int4_absmean") for name, how in model.scheme.layers.items()
    }
    convert(model, replace(model.scheme, name="a4", layers=layers))
    return found | {"int4": subject.bits_per_byte(model)}


def flat(subject: Subject) -> dict[str, Any]:
    """Bits per byte against the size of random moves of the weights; and of rounding as a move."""
    model = subject.model()
    found: dict[str, Any] = {}
    with torch.no_grad():
        if subject.run.arm.scheme.layers:
            found["rounding_size"] = flatness.rounding_size(model)
            found["masters"] = _curve(subject, model)
            model = flatness.dequantized(model)
        found["effective"] = _curve(subject, model)
        if not subject.run.arm.scheme.layers:
            found["rounded"] = _rounded(subject)
    return found


def dynamic(subject: Subject) -> dict[str, Any]:
    """Mean bits and bits per byte of a model whose inputs take 4 or 8 bits by token, over R."""
    model = subject.model()
    found = {}
    rules = ("int8_absmax", *(f"dynamic:{ratio:g}" for ratio in RATIOS), "int4_absmean")
    for rule in rules:
        layers = {n: replace(how, activation=rule) for n, how in model.scheme.layers.items()}
        convert(model, replace(model.scheme, name=rule, layers=layers))
        record(model)
        score = subject.bits_per_byte(model)
        bits = mean_bits(model)
        record(model, on=False)
        fixed = 8.0 if rule == "int8_absmax" else 4.0
        found[rule] = {"bits_per_byte": score, "mean_bits": _mean(bits.values()) if bits else fixed}
    return found


KINDS: dict[str, tuple[Callable[[Subject], dict[str, Any]], Callable[[Subject], bool]]] = {
    "inputs": (inputs, lambda s: s.first_seed),
    "engine": (engine, lambda s: s.first_seed and s.run.arm.group != "progressive"),
    "key_values": (key_values, lambda s: s.run.arm.name in KV_ARMS),
    "untrained_a4": (untrained_a4, lambda s: s.run.arm.name in A8_ARMS),
    "flatness": (flat, lambda s: s.run.arm.name in FLAT_ARMS),
    "dynamic": (dynamic, lambda s: s.run.arm.name in DYNAMIC_ARMS),
}
"""Each kind, and which runs it is for."""


def all_of(out: Path, setup: Setup, run: Run) -> None:
    """Measure what is wanted of a finished run and not there yet; nothing of one that diverged."""
    folder = out / run.name
    if not (folder / "result.json").exists():
        return
    subject = Subject(run, folder, setup, store.text(out, setup), run.seed == setup.seeds[0])
    for kind, (measure, wanted) in setup.kinds().items():
        path = folder / "measures" / f"{kind}.json"
        if wanted(subject) and not (path.exists() and store.read(path)["version"] == VERSION):
            with trainer.threads(1):
                store.write(path, {"version": VERSION} | measure(subject))


def _set_kv_rule(model: LanguageModel, rule: str) -> None:
    for module in model.modules():
        if isinstance(module, Attention):
            module.kv_rule = rule


def _curve(subject: Subject, model: LanguageModel) -> list[dict[str, Any]]:
    points = flatness.curve(subject.bits_per_byte, model, SIZES, DIRECTIONS)
    return [point.to_dict() for point in points]


def _rounded(subject: Subject) -> dict[str, Any]:
    """Round a float model's weights without training; inputs stay floats."""
    found = {}
    for weight in ROUNDINGS:
        rule = "absmean" if weight in ("ternary", "binary") else "absmax"
        shared = "tensor" if weight == "binary" else "row"
        how = LinearScheme(weight, rule, weight_scale=shared)
        model = convert(subject.model(), Scheme(weight, {"body": how}))
        found[weight] = {
            "size": flatness.rounding_size(model),
            "bits_per_byte": subject.bits_per_byte(model),
        }
    return found


def _histogram(parts: list[Tensor]) -> list[float]:
    """Return the share of values in each of BINS bins from -EDGE to EDGE; the ends take the rest.

    Every token is divided by its root mean square.
    """
    counts = torch.zeros(BINS, dtype=torch.float64)
    for x_TK in parts:
        rms_T1 = x_TK.square().mean(dim=-1, keepdim=True).sqrt().clamp(min=1e-12)
        counts += torch.histc((x_TK / rms_T1).clamp(-EDGE, EDGE), BINS, -EDGE, EDGE).double()
    return [float(count) for count in counts / counts.sum()]


def _mean(values: Any) -> float:
    found = list(values)
    return sum(found) / len(found)
