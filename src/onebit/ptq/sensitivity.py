"""Which layers suffer, and how much: every linear layer, rounded in every way that is offered.

    table = sensitivity.measure(model, tokens_WT, ["w2a16-g64", "w3a16-g64", "w4a16-g64"])
    table.write("sensitivity.json")

The float model is run once, and layers are rounded one at a time from it, so that a row tells what
one layer does alone. Five measures, from cheap to dear:

    weight    (|D| / |W|)²                            D = W - Ŵ; no text needed
    output    E|D x|² / E|W x|²                       x: what the layer is given
    trace     1/2 tr(H) / (N K) |D|²                  H: Hessian of the loss in the layer's weights
    fisher    1/2 sum_n c_n (D B Dᵀ)_nn               B, c: inputs weighted by the loss's gradients
    loss      loss(Ŵ) - loss(W), measured             one run of the rest of the model per row

The last three are in nats per token and so comparable between layers; `fisher.py` derives them.

Shape letters: W windows, T tokens of a window, N rows, K columns.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

import torch
from torch import Tensor, nn

from onebit import quant
from onebit.errors import OptionError, ShapeError
from onebit.models import LanguageModel
from onebit.nn import native_blocks
from onebit.ptq import fisher, rtn
from onebit.ptq.layer_name import ATTENTION, MLP
from onebit.ptq.loss import Prefix
from onebit.ptq.method import Method, Rounding
from onebit.ptq.options import Options
from onebit.ptq.plan import FLOAT, KEEP, Held, uniform
from onebit.ptq.sensitivity_table import MEASURES, Entry, Sensitivity, read
from onebit.ptq.size import size_bytes
from onebit.ptq.stats import Recorder, Stats
from onebit.scheme import role_of

__all__ = ["MEASURES", "Entry", "Sensitivity", "body", "measure", "read", "record", "rounded"]


def body(model: nn.Module) -> list[str]:
    """Return the names of the linears of attention and MLP, in the order of the model."""
    return [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and role_of(name) in (*ATTENTION, *MLP)
    ]


def measure(
    model: LanguageModel,
    tokens_WT: Tensor,
    words: Sequence[str],
    method: Method = rtn.METHOD,
    blocks: Method | None = None,
    options: Options = Options(),  # noqa: B008  frozen
    *,
    layers: Iterable[str] | None = None,
    losses: int = 0,
    progress: Callable[[str, int, int], None] | None = None,
) -> Sensitivity:
    """Round every layer in every way, alone, and measure what it costs.

    Args:
        model: float, in evaluation mode. It is left as it was.
        tokens_WT: int64 ids; calibration text, not what the result will be judged by.
        words: schemes and block formats, as a plan names them. One that does not fit a layer's
            width is left out for that layer.
        method: what rounds to a scheme. Its errors are those that the plan will meet, so choose the
            one that will round in the end.
        blocks: what rounds to block formats; None for the plain search of `quant.blockwise`.
        options: of these methods.
        layers: which; None for all linears of attention and MLP.
        losses: windows over which each row's loss is measured, too; 0 for none, as it takes a run
            of half the model for each row.
        progress: called with (what, done, of).

    Raises:
        OptionError, ShapeError: a word is unknown, or a layer fits none of them.
        InputError: no text, or numbers that are not finite.
    """
    began = time.monotonic()
    chosen = body(model) if layers is None else list(layers)
    check_words(words)
    _check_float(model, chosen)
    tell = progress or (lambda _, __, ___: None)
    stats = record(model, tokens_WT, chosen, lambda *at: tell("inputs", *at))
    curves = fisher.curvatures(
        model, tokens_WT, chosen, options.seed, lambda *at: tell("gradients", *at)
    )
    prefix = Prefix(model, tokens_WT[:losses]) if losses else None
    entries = []
    for done, layer in enumerate(chosen, 1):
        w_NK = _weight(model, layer)
        there = stats[layer], curves[layer]
        for entry, w_hat_NK in ways(layer, w_NK, *there, words, method, blocks, options):
            if prefix is not None:
                entry = replace(entry, loss=prefix.with_weights({layer: w_hat_NK}) - prefix.base)
            entries.append(entry)
        tell("layers", done, len(chosen))
    made = {
        "words": list(words),
        "tokens": tokens_WT.numel(),
        "loss_windows": losses,
        "time_s": time.monotonic() - began,
    }
    return Sensitivity(entries, made | ({"base_loss": prefix.base} if prefix else {}))


def rounded(
    w_NK: Tensor,
    held: Held,
    stats: Stats | None,
    method: Method = rtn.METHOD,
    blocks: Method | None = None,
    options: Options = Options(),  # noqa: B008  frozen
) -> Tensor:
    """Return the weights as a plan's word leaves them, float32 (N, K).

    Raises:
        OptionError, ShapeError: as the method; or the layer is to be kept, which rounds nothing.
    """
    if held.format == KEEP:
        raise OptionError('sensitivity: "keep" rounds nothing. Name schemes and block formats.')
    if held.format == FLOAT or (not held.format and held.scheme.weight == "fp"):
        return w_NK.half().float()
    if held.format and blocks is None:
        return quant.dequantize(native_blocks.FORMATS[held.format](w_NK))
    chosen = blocks if held.format and blocks else method
    if chosen.kind != "rounding":
        raise OptionError(f"sensitivity: a {chosen.kind} rounds nothing. Name what rounds, as rtn.")
    rounding = cast(Rounding, chosen.run)
    return quant.dequantize(
        rounding(w_NK, held.scheme, stats, replace(options, format=held.format))
    )


@torch.no_grad()
def record(
    model: LanguageModel,
    tokens_WT: Tensor,
    layers: Sequence[str],
    progress: Callable[[int, int], None] | None = None,
) -> Mapping[str, Stats]:
    """Return what each of these layers is given, with Gram matrices.

    Layers that are called with one and the same tensor share their statistics.

    Raises:
        InputError: no text, or inputs that are not finite.
    """
    recorders: dict[str, Recorder] = {}
    first: dict[str, str] = {}  # layer -> the one whose input it shares
    last: list[Any] = [None, ""]

    def see(layer: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def add(_: nn.Module, args: tuple[Tensor, ...]) -> None:
            x = args[0]
            if layer not in first:
                first[layer] = last[1] if x is last[0] else layer
            if first[layer] == layer:
                if layer not in recorders:
                    recorders[layer] = Recorder(x.shape[-1], tokens_WT.numel(), gram=True)
                recorders[layer].add(x)
                last[:] = x, layer

        return add

    hooks = [model.get_submodule(layer).register_forward_pre_hook(see(layer)) for layer in layers]
    try:
        for done, tokens_T in enumerate(tokens_WT, 1):
            model.model(tokens_T[None])
            if progress:
                progress(done, len(tokens_WT))
    finally:
        for hook in hooks:
            hook.remove()
    found = {layer: recorder.stats() for layer, recorder in recorders.items()}
    return {layer: found[first[layer]] for layer in layers if layer in first}


def ways(
    layer: str,
    w_NK: Tensor,
    stats: Stats,
    curve: fisher.Curvature | None,
    words: Sequence[str],
    method: Method,
    blocks: Method | None,
    options: Options,
) -> Iterator[tuple[Entry, Tensor]]:
    """Yield a layer in every way that fits it, and the weights as that leaves them.

    Raises:
        ShapeError: no way fits.
    """
    gram_KK, fits = stats.gram(), False
    N, K = w_NK.shape
    size, output = float(w_NK.square().sum()), float((w_NK @ gram_KK).mul_(w_NK).sum())
    for word in words:
        held, started = uniform(word).held(layer), time.monotonic()
        try:
            bytes_there = size_bytes(held, N, K)
            w_hat_NK = rounded(w_NK, held, stats, method, blocks, options)
        except ShapeError as error:
            misfit = error
            continue
        d_NK, fits = w_NK - w_hat_NK, True
        d_square = float(d_NK.square().sum())
        error_N = square(d_NK, gram_KK)
        yield (
            Entry(
                layer,
                word,
                (N, K),
                bytes_there,
                weight=d_square / max(size, 1e-30),
                output=float(error_N.sum()) / max(output, 1e-30),
                trace=0.5 * curve.trace / (N * K) * d_square if curve else None,
                fisher=0.5 * float(curve.share_N @ square(d_NK, curve.gram_KK)) if curve else None,
                time_s=time.monotonic() - started,
            ),
            w_hat_NK,
        )
    if not fits:
        raise ShapeError(f"{layer} fits none of {', '.join(words)}: {misfit}")


def square(d_NK: Tensor, gram_KK: Tensor) -> Tensor:
    """Return E (D x)_n^2 for each row n, (N), of inputs with this Gram matrix."""
    return (d_NK @ gram_KK).mul_(d_NK).sum(dim=1).clamp_(min=0)


def check_words(words: Sequence[str]) -> None:
    """Refuse words that name nothing to round to.

    Raises:
        OptionError: there is one, or none at all.
    """
    if not words:
        raise OptionError("sensitivity: no scheme was named. Name some, for instance w3a16-g64.")
    for word in words:
        if uniform(word).held("body").format == KEEP:
            raise OptionError('sensitivity: "keep" rounds nothing. Name schemes and block formats.')


def _check_float(model: nn.Module, layers: Iterable[str]) -> None:
    for layer in layers:
        if type(model.get_submodule(layer)) is not nn.Linear:
            raise OptionError(
                f"sensitivity: {layer} is no float linear layer. Load the model with the weights "
                "dequantized, as `float_model` does."
            )


def _weight(model: nn.Module, layer: str) -> Tensor:
    module = model.get_submodule(layer)
    assert isinstance(module, nn.Linear)
    return module.weight.detach().float()
