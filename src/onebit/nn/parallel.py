"""Parts of a layer in different processes: tensor parallelism as BitNet b1 has it.

A split gives each part of a layer its own alpha, beta, norm and activation scale, so that no
process needs to know of another's. All that they exchange is what any such cut has to: the outputs
of layers cut by columns ("in:G") are summed, and so are the gradients of the inputs of layers cut
by rows ("out:G"). With q, k, v, gate and up cut by rows and o and down by columns, a process has
heads and hidden features of its own in between.

    torch.distributed.init_process_group("gloo")
    parallelize(model)     # in every process, with G a multiple of their number

Shape letters: T tokens (any leading shape), N out features, K in features.

Source: BitNet, section 2.3, https://arxiv.org/abs/2310.11453
"""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.autograd.function import once_differentiable

from onebit.errors import OptionError
from onebit.nn.bitlinear import BitLinear
from onebit.nn.convert import attentions, bit_linears
from onebit.scheme import LinearScheme


class ParallelLinear(nn.Module):
    """This process's part of a split BitLinear, with what it exchanges with the others'."""

    def __init__(self, layer: BitLinear, rank: int, size: int) -> None:
        """Keep part `rank` of `size` of the layer; the Parameters are new.

        Raises:
            OptionError: the layer is not split among so many, or has something inside that is not.
        """
        super().__init__()
        self.by_rows = layer.scheme.split.startswith("out")
        _check(layer, size)
        self.part = _part(layer, rank, size)
        # of a sum, added once; every process has all of it
        self.bias = None if self.by_rows else layer.bias

    def forward(self, x_TK: Tensor) -> Tensor:
        """Return this process's outputs of the whole input, or all outputs of its inputs."""
        if self.by_rows:
            y_TN: Tensor = self.part(_SumOfGradients.apply(x_TK))  # type: ignore[no-untyped-call]
            return y_TN
        y_TN = _Sum.apply(self.part(x_TK))  # type: ignore[no-untyped-call]
        return y_TN if self.bias is None else y_TN + self.bias.to(y_TN.dtype)


def parallelize(model: nn.Module) -> nn.Module:
    """Keep of every split layer the part of this process, in place; return `model`.

    What is not split stays whole in every process, and learns the same there.

    Raises:
        OptionError: a layer does not divide among the processes, or only some layers of an
            attention or feed-forward block are split.
    """
    rank, size = distributed.get_rank(), distributed.get_world_size()
    _check_attention(model, size)
    parts = [
        (name, ParallelLinear(layer, rank, size))
        for name, layer in bit_linears(model)
        if layer.scheme.parts > 1
    ]
    for name, part in parts:
        model.set_submodule(name, part)
    for _, attention in attentions(model):
        if attention.temperature is not None:
            heads = attention.temperature.detach().chunk(size)
            attention.temperature = nn.Parameter(heads[rank].clone())
    return model


class _Sum(torch.autograd.Function):
    """Sums over the processes; its gradient, which all of them have, goes on as it is."""

    @staticmethod
    def forward(ctx: Any, y_TN: Tensor) -> Tensor:
        y_TN = y_TN.clone()
        distributed.all_reduce(y_TN)
        return y_TN

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy_TN: Tensor) -> Tensor:
        return dy_TN


class _SumOfGradients(torch.autograd.Function):
    """The input as it is; every process has but the gradient that comes from its own outputs."""

    @staticmethod
    def forward(ctx: Any, x_TK: Tensor) -> Tensor:
        return x_TK.view_as(x_TK)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dx_TK: Tensor) -> Tensor:
        dx_TK = dx_TK.contiguous().clone()
        distributed.all_reduce(dx_TK)
        return dx_TK


def _part(layer: BitLinear, rank: int, size: int) -> BitLinear:
    """Return one of `size` parts of a layer as a layer of its own."""
    scheme = _of_part(layer.scheme, size)
    rows = layer.scheme.split.startswith("out")
    w_NK = layer.weight.detach().chunk(size, dim=0 if rows else 1)[rank].clone()
    bias = rows and layer.bias is not None
    norm = layer.layer_norm if layer.rms_norm is None else layer.rms_norm
    eps = 1e-5 if norm is None else norm.eps
    part = BitLinear(w_NK.shape[1], w_NK.shape[0], bias, scheme, eps, device="meta")
    part.weight = nn.Parameter(w_NK)
    if bias and layer.bias is not None:
        part.bias = nn.Parameter(layer.bias.detach().chunk(size)[rank].clone())
    if layer.rms_norm is not None and part.rms_norm is not None:
        norm_K = layer.rms_norm.weight.detach()
        part.rms_norm.weight = nn.Parameter(norm_K.chunk(size)[rank].clone())
    part.blend = layer.blend
    return part.train(layer.training)


def _of_part(scheme: LinearScheme, size: int) -> LinearScheme:
    """Return the scheme of one process's share of the parts."""
    kind, parts = scheme.split.partition(":")[0], scheme.parts // size
    return replace(scheme, split=f"{kind}:{parts}" if parts > 1 else "none")


def _check(layer: BitLinear, size: int) -> None:
    scheme = layer.scheme
    if scheme.parts % size:
        raise OptionError(
            f"parallel: split {scheme.split!r} among {size} processes; give each as many parts."
        )
    by_rows = scheme.split.startswith("out")
    if by_rows and scheme.norm == "rms":
        raise OptionError(
            f"parallel: split {scheme.split!r} with an RMSNorm inside, whose weights all parts "
            'share. Choose norm "layer" or "none".'
        )
    if not by_rows and scheme.hadamard != "none":
        raise OptionError(
            f"parallel: split {scheme.split!r} with a Hadamard matrix, which turns all columns "
            'together. Choose hadamard "none".'
        )
    if layer.frozen:
        raise OptionError("parallel: the layer is frozen. Call `unfreeze` first.")


_WANTED = {"q_proj": "out", "k_proj": "out", "v_proj": "out", "o_proj": "in"}


def _check_attention(model: nn.Module, size: int) -> None:
    """Refuse heads that would be in one process for one projection and not for another."""
    for name, attention in attentions(model):
        kinds = {
            leaf: layer.scheme.split.partition(":")[0]
            for leaf in _WANTED
            if isinstance(layer := getattr(attention, leaf), BitLinear)
        }
        if set(kinds.values()) <= {"none"}:
            continue
        if kinds != _WANTED:
            raise OptionError(
                f"parallel: {name} has splits {kinds}; its q, k and v must be split by rows "
                '("out:G") and its o by columns ("in:G"), or none of them.'
            )
        heads = attention.k_proj.out_features // attention.head_dim
        if heads % size or attention.attn_sub_norm is not None:
            raise OptionError(
                f"parallel: {name} has {heads} key/value heads"
                f"{' and a norm over all' if attention.attn_sub_norm is not None else ''}, and "
                f"there are {size} processes; each needs heads of its own and no norm over all."
            )
