"""The block loop: one decoder layer after the other, its linears in the order in which data passes.

A stage is the linears that share an input: (q k v), (o), (gate up), (down). The inputs of a stage
come through what is already rounded, so each can make up for what went before ("true sequential" of
GPTQ); `flow.py` carries them. Only where a transform wants to see the float block first does the
block run twice.

In memory are one block, the Gram matrices of its stages and a few windows of hidden states; those
of all windows lie in files.

Shape letters: N out and K in features of a linear.
"""

import copy
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn

from onebit import quant
from onebit.io import StoredTensor
from onebit.models import FAMILIES, stored_weight
from onebit.models.layer import Layer
from onebit.nn import BitLinear, Rope, Rotation
from onebit.ptq import packing, probe
from onebit.ptq.flow import Flow
from onebit.ptq.method import Block, Method, Rounding, Stage, Transform
from onebit.ptq.options import Options
from onebit.ptq.plan import FLOAT, KEEP, Held
from onebit.ptq.report import Row
from onebit.ptq.rows import Rows
from onebit.ptq.source import Source, finite
from onebit.ptq.stages import linears, stages
from onebit.ptq.stats import Stats
from onebit.quant import Codes
from onebit.quant.activation import Static
from onebit.scheme import FP, LinearScheme, Scheme


@dataclass(frozen=True)
class Task:
    """What is to be done with each linear, the same for all blocks."""

    source: Source
    scheme: Scheme
    """That the model will carry."""
    held: Mapping[str, Held]
    """Name of a linear of the model -> how it will be held."""
    transforms: Sequence[tuple[str, Method]]
    rounding: tuple[str, Method]
    block_rounding: tuple[str, Method] | None
    """For linears that go into block formats of ggml."""
    options: Options
    folder: Path | None
    """For scratch files."""


@dataclass(frozen=True)
class Done:
    """A block that is rounded: the tensors that the source does not have so, and their rows."""

    tensors: list[StoredTensor]
    rows: list[Row]


@dataclass(frozen=True)
class States:
    """Hidden states of all windows before a block."""

    rounded: Rows
    """As the blocks before give them now."""
    floats: Rows | None = None
    """As they were in the float model, if that goes along."""

    def close(self) -> None:
        """Close their files."""
        self.rounded.close()
        if self.floats is not None:
            self.floats.close()


def run(task: Task, index: int, states: States | None, after: States | None) -> Done:
    """Round one block.

    Args:
        task: what is to be done.
        index: of the block.
        states: what it is given; None without calibration.
        after: takes what it gives, the next block's.

    Raises:
        OnebitError: a method refuses a layer; the message names it.
    """
    block, rotation = load(task, index, 0 if states is None else states.rounded.shape[1])
    if states is None:
        return _rounded(task, block, lambda stage: {})
    notes: dict[str, list[str]] = {}
    if task.transforms:
        notes = _transform(task, block, Flow(block, rotation, states.rounded, task.folder))
    flow, beside = Flow(block, rotation, states.rounded, task.folder), None
    if states.floats is not None:
        untouched = replace(block, layer=copy.deepcopy(block.layer))
        beside = Flow(untouched, rotation, states.floats, task.folder, "float-")
    clip = task.options.input_clip
    done = _rounded(task, block, lambda stage: flow.stats(stage, block.targets, beside, clip))
    if after is not None:
        flow.finish(after.rounded)
        if beside is not None and after.floats is not None:
            beside.finish(after.floats)
    return Done(done.tensors, [_with_notes(row, notes.get(row.layer, [])) for row in done.rows])


def _transform(task: Task, block: Block, flow: Flow) -> dict[str, list[str]]:
    """Let the transforms change a float block, each stage by what it is given in float.

    All stages are looked at before any is changed: what passes between them is computed once. What
    a transform scales it scales in the statistics too, for the transform after it.

    Returns:
        What they say of each linear.
    """
    seen = []
    for stage in stages(block.layer):
        stats = flow.stats(stage, dict.fromkeys(stage.linears, FP))
        touched = (f"{block.name}.{own}" for own in (*stage.linears, stage.before))
        if all(own not in task.held or task.held[own].format != KEEP for own in touched):
            seen.append((stage, stats[stage.linears[0]]))  # codes that are kept cannot be scaled
    for name, method in task.transforms:
        for stage, stage_stats in seen:
            with stored_weight.named(f"{name}: {block.name}"):
                cast(Transform, method.run)(block, stage, stage_stats, task.options)
    return {f"{block.name}.{own}": stats.notes for stage, stats in seen for own in stage.linears}


def _with_notes(row: Row, notes: Sequence[str]) -> Row:
    return replace(row, note="; ".join([*notes, *filter(None, [row.note])]))


def load(task: Task, index: int, tokens: int) -> tuple[Block, Rotation]:
    """Return a block in float, and the turns of a window's positions in it."""
    a = task.source.architecture
    with torch.device("meta"):
        layer = FAMILIES[a.model_type](a, index)
    assert isinstance(layer, Layer)  # a source is of a model with attention
    name = f"model.layers.{index}"
    for own, _ in list(layer.named_parameters()):
        module, _, leaf = own.rpartition(".")
        values = finite(task.source, f"{name}.{own}")
        setattr(layer.get_submodule(module), leaf, nn.Parameter(values, requires_grad=False))
    layer.self_attn.kv_bits, layer.self_attn.q_bits = task.scheme.kv_bits, task.scheme.q_bits
    targets = {own: task.held[f"{name}.{own}"].scheme for own in linears(layer)}
    rope = Rope(a.inv_freq(local=a.is_local(index)))
    return Block(index, name, layer.eval(), targets), rope(tokens)


def _rounded(task: Task, block: Block, stats_of: Callable[[Stage], Mapping[str, Stats]]) -> Done:
    """Round the linears of a block in their order, each in its place before the next."""
    done = Done([], [])
    for stage in stages(block.layer):
        stats = stats_of(stage)
        for name in stage.linears:
            _round(task, block, name, stats.get(name), done)
    rounded = {tensor.name for tensor in done.tensors}
    if task.transforms:  # which change norms and biases too
        for own, parameter in block.layer.named_parameters():
            name, is_linear = f"{block.name}.{own}", own.removesuffix(".weight") in block.targets
            if name not in rounded and not is_linear:
                done.tensors.append(packing.floats(name, parameter))
    return done


def _round(task: Task, block: Block, name: str, stats: Stats | None, done: Done) -> None:
    full, linear = f"{block.name}.{name}", block.linear(name)
    held, w_NK, started = task.held[full], linear.weight.detach(), time.perf_counter()
    shape = (linear.out_features, linear.in_features)
    if held.format == KEEP:
        _keep(task, block, name, stats, done)
        return
    if held.format == FLOAT:
        stored = packing.floats(f"{full}.weight", w_NK, half=True)
        held_NK = torch.from_numpy(stored_weight.values(stored))
        errors, size = _errors(w_NK, held_NK.view(shape), stats), packing.size_bytes(stored)
        done.tensors.append(stored)
        done.rows.append(Row(full, "float", stored.format, shape, size, *errors))
        return
    word, method = (task.block_rounding if held.format else None) or task.rounding
    said = len(stats.notes) if stats else 0
    with stored_weight.named(full):
        q = cast(Rounding, method.run)(
            w_NK, held.scheme, stats, replace(task.options, format=held.format)
        )
        probe.check_shape(q, held.scheme, *w_NK.shape)
        tensor = packing.stored(f"{full}.weight", q, held)
    time_s = time.perf_counter() - started
    turned_NK = quant.hadamard.turned(w_NK, held.scheme)
    errors = _errors(turned_NK, quant.values(q, held.scheme), stats)
    note = "; ".join(dict.fromkeys(stats.notes[said:])) if stats else ""
    words = "+".join([name for name, _ in task.transforms] + [word])
    in_words = held.format or packing.in_words(held.scheme)
    size = packing.size_bytes(tensor)
    done.rows.append(Row(full, words, in_words, shape, size, *errors, time_s, note))
    done.tensors.append(tensor)
    factors = None if stats is None else stats.static
    if factors is not None:
        done.tensors.append(packing.floats(f"{full}.input_scale", factors.scale))
        if factors.zero is not None:
            done.tensors.append(packing.floats(f"{full}.input_zero", factors.zero))
    block.layer.set_submodule(name, _in_place(linear, held.scheme, q, factors))


def _keep(task: Task, block: Block, name: str, stats: Stats | None, done: Done) -> None:
    """Leave a layer as the file has it; under the scheme that the file says it computes."""
    full, linear = f"{block.name}.{name}", block.linear(name)
    scheme, w_NK = task.held[full].scheme, linear.weight.detach()
    stored = task.source.stored(f"{full}.weight")
    assert stored is not None  # what is kept no rotation turns
    shape = (linear.out_features, linear.in_features)
    errors: tuple[float, float | None] = (0.0, None)
    if scheme != FP:
        found = stored_weight.codes(stored, scheme)
        q = quant.quantize_weight(w_NK, scheme) if found is None else found  # of masters
        errors = _errors(w_NK, quant.values(q, scheme), stats)
        factors = None
        if scheme.static:
            zero = task.source.tensor(f"{full}.input_zero") if scheme.static_zero else None
            factors = Static(task.source.tensor(f"{full}.input_scale"), zero)
        block.layer.set_submodule(name, _in_place(linear, scheme, q, factors))
    done.rows.append(Row(full, "kept", stored.format, shape, packing.size_bytes(stored), *errors))


def _in_place(
    linear: nn.Linear, scheme: LinearScheme, q: Codes, factors: Static | None
) -> nn.Linear:
    """Return the layer that computes with these codes."""
    if scheme.activation == "fp" and scheme.hadamard == "none":
        linear.weight = nn.Parameter(quant.values(q, scheme), requires_grad=False)
        return linear
    shape, bias = (linear.in_features, linear.out_features), linear.bias is not None
    layer = BitLinear(*shape, bias, scheme, device="meta")
    layer.weight, layer.bias = linear.weight, linear.bias
    layer.freeze(q)
    if factors is not None:
        layer.set_static(factors)
    return layer.eval()


def _errors(w_NK: Tensor, w_hat_NK: Tensor, stats: Stats | None) -> tuple[float, float | None]:
    """Return |W - W_hat| / |W|, and the same of the outputs."""
    miss_NK, size = w_hat_NK - w_NK, float(w_NK.norm())
    of_weights = float(miss_NK.norm()) / size if size else 0.0
    if stats is None or stats.gram_KK is None:
        return of_weights, None
    lost, whole = (float(((v @ stats.gram_KK) * v).sum()) for v in (miss_NK, w_NK))
    return of_weights, math.sqrt(max(lost, 0.0) / whole) if whole > 0 else 0.0
