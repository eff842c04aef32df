"""How the loss curves in the weights of each linear layer: second moments of sampled gradients.

The Gauss-Newton Hessian of the mean cross-entropy is the Fisher matrix: the mean square of the
gradient of log p(y), with each y drawn from what the model itself predicts (not from the text). Of
one layer y_N = W x_K, with g the gradient at its output,

    trace = E |sum_t g_t x_tᵀ|² / T            its Hessian's trace, per token; exact in the mean
    H ~ E[|g|² x xᵀ] ⊗ diag(c) = B ⊗ diag(c)   c_n = E[g_n²] / E[|g|²], its share of each row

so that rounding W to W - D raises the loss by about 1/2 sum_n c_n (D B Dᵀ)_nn nats per token, and,
with no more than the trace known, by 1/2 trace / (N K) |D|² (HAWQ-V2). Were g independent of x, B
would be E[|g|²] E[x xᵀ], and this K-FAC's E[x xᵀ] ⊗ E[g gᵀ]. But a token whose inputs are many
times as large as others' may be one whose outputs matter little, and B knows that. Of D it is
assumed that the errors of different rows, and of different tokens, have no sign in common.

Sources: Martens and Grosse, https://arxiv.org/abs/1503.05671 (K-FAC; sampled labels, section 5);
Dong et al., https://arxiv.org/abs/1911.03852 (HAWQ-V2: the mean trace); Kim et al., GuidedQuant,
https://arxiv.org/abs/2505.07004 (x xᵀ weighted by gradients).

Shape letters: W windows, T tokens of a window, V vocabulary, N out features, K in features.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from onebit.errors import InputError
from onebit.models import LanguageModel


class Curvature(NamedTuple):
    """Of one layer, of the loss in nats per token."""

    share_N: Tensor
    """float32: c above; its sum is 1."""
    gram_KK: Tensor
    """float32: B above."""
    trace: float
    """Of the Hessian in the layer's weights."""


def curvatures(
    model: LanguageModel,
    tokens_WT: Tensor,
    layers: Sequence[str],
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Curvature]:
    """Return the curvature of the loss in each layer.

    Args:
        model: in evaluation mode, its linears plain ones; one forward and backward per window.
        tokens_WT: int64 ids; the text under which the loss is taken.
        layers: names of linears.
        seed: of the labels that are drawn.
        progress: called with (windows done, windows).

    Raises:
        InputError: no windows, or gradients that are not finite.
    """
    if not len(tokens_WT):
        raise InputError("curvature: no windows of text. Give calibration text.")
    modules = {layer: model.get_submodule(layer) for layer in layers}
    square = {layer: torch.zeros(_weight(m).shape[0]) for layer, m in modules.items()}
    gram = {layer: np.zeros((_weight(m).shape[1],) * 2, np.float32) for layer, m in modules.items()}
    trace = dict.fromkeys(layers, 0.0)
    random = torch.Generator().manual_seed(seed)

    def watch(layer: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        def at_output(_: nn.Module, args: tuple[Tensor, ...], y: Tensor) -> None:
            x_TK = args[0].detach().float().reshape(-1, args[0].shape[-1])

            def add(g: Tensor) -> None:
                square_TN = g.detach().float().square().reshape(-1, g.shape[-1])
                square[layer] += square_TN.sum(dim=0)
                weighted = (x_TK * square_TN.sum(dim=1, keepdim=True).sqrt()).numpy()
                gram[layer] += weighted.T @ weighted  # NumPy knows the symmetric product

            y.register_hook(add)  # type: ignore[no-untyped-call]

        return at_output

    def take(layer: str) -> Callable[[Tensor], None]:
        def add(weight: Tensor) -> None:
            assert weight.grad is not None
            trace[layer] += float(weight.grad.float().square().sum())
            weight.grad = None  # one layer's gradient in memory at a time

        return add

    with _only_these_learn(model, modules):
        hooks = [module.register_forward_hook(watch(layer)) for layer, module in modules.items()]
        hooks += [
            _weight(module).register_post_accumulate_grad_hook(take(layer))  # type: ignore[no-untyped-call]
            for layer, module in modules.items()
        ]
        try:
            for done, tokens_T in enumerate(tokens_WT, 1):
                with torch.enable_grad():
                    logp_TV = torch.log_softmax(model(tokens_T[None])[0], dim=-1)
                    drawn_T1 = torch.multinomial(logp_TV.detach().exp(), 1, generator=random)
                    logp_TV.gather(1, drawn_T1).sum().backward()  # type: ignore[no-untyped-call]
                if progress:
                    progress(done, len(tokens_WT))
        finally:
            for hook in hooks:
                hook.remove()
    tokens, found = tokens_WT.numel(), {}
    for layer in layers:
        whole = float(square[layer].sum())
        if not math.isfinite(whole) or not math.isfinite(trace[layer]):
            raise InputError(
                f"{layer}: the loss has gradients that are not finite. The model overflows, or "
                "its weights are not finite; `onebit verify` names them."
            )
        found[layer] = Curvature(
            square[layer] / (whole or 1.0),
            torch.from_numpy(gram.pop(layer) / np.float32(tokens)),
            trace[layer] / tokens,
        )
    return found


@contextmanager
def _only_these_learn(model: nn.Module, modules: dict[str, nn.Module]) -> Iterator[None]:
    """Ask for the gradients of these weights alone, and have it as before at the end."""
    before = {parameter: parameter.requires_grad for parameter in model.parameters()}
    try:
        for parameter in before:
            parameter.requires_grad_(False)
        for module in modules.values():
            _weight(module).requires_grad_(True)
        yield
    finally:
        for parameter, flag in before.items():
            parameter.requires_grad_(flag)


def _weight(module: nn.Module) -> Tensor:
    assert isinstance(module, nn.Linear)
    return module.weight
