"""Rotations folded into the weights of a model: the same function, other numbers.

RMSNorm divides a token by its length, which no rotation changes. So the residual stream may be
turned by any orthogonal Q, if all that writes into it turns too and all that reads it turns back;
and each head's values by an R, which the output projection undoes. What is rounded afterwards lies
in a basis without the outliers of the trained one.

    embedding                E Q                        each token x of the stream becomes x Q
    q, k, v, gate, up, head  W diag(norm) Q             the norm's weights become 1
    o, down                  Q^T W, bias Q^T b
    v, for each kv head      R^T W, bias R^T b          each head's values v become v R
    o, for each head         W R

A tied head would need the last norm's weights, which the embedding must not have: it is untied.

Sources: SliceGPT, section 3, https://arxiv.org/abs/2401.15024 (norms fused, invariance); QuaRot,
section 4, https://arxiv.org/abs/2404.00456; SpinQuant, section 3.1,
https://arxiv.org/abs/2405.16406.

Shape letters: V vocabulary, C model width, N out and K in features of a linear, D numbers of a
head.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from onebit.architecture import Architecture
from onebit.errors import ShapeError, UnsupportedError
from onebit.io import StoredTensor
from onebit.ptq.source import Source

EMBED, NORM, HEAD = "model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"

V_PROJ, O_PROJ, DOWN_PROJ = "self_attn.v_proj", "self_attn.o_proj", "mlp.down_proj"
# linears of a layer that read the stream -> the norm in front of them
_READERS = {
    "self_attn.q_proj": "input_layernorm",
    "self_attn.k_proj": "input_layernorm",
    V_PROJ: "input_layernorm",
    "mlp.gate_proj": "post_attention_layernorm",
    "mlp.up_proj": "post_attention_layernorm",
}
_WRITERS = (O_PROJ, DOWN_PROJ)
_NORMS = set(_READERS.values())
_FAMILIES = ("llama", "qwen2", "qwen3")
"""Their layers are x + f(norm(x)): no weights stand between a writer and the stream."""


@dataclass(frozen=True)
class Turns:
    """What a model is turned by; by default nothing."""

    residual_CC: Tensor | None = None
    """Q, orthogonal; the identity fuses the norms and turns nothing."""
    values_DD: Sequence[Tensor] = ()
    """R of each layer, orthogonal; empty for none."""


class Rotated(Source):
    """A source of the same function, its norms fused and its weights turned."""

    def __init__(self, source: Source, turns: Turns) -> None:
        """Check names and shapes; tensors are read and turned when they are asked for.

        Raises:
            UnsupportedError: norms of this family stand where no rotation passes.
            ShapeError: a matrix is not of the model's width, or there is not one for each layer.
        """
        a = source.architecture
        _check(a, turns)
        self._source, self._turns = source, turns
        self._unties = (
            a.tie_word_embeddings
            and turns.residual_CC is not None
            and not bool((source.tensor(NORM) == 1).all())
        )
        tied = a.tie_word_embeddings and not self._unties
        self.checkpoint = source.checkpoint
        self.config = {**source.config, "tie_word_embeddings": tied}

    def names(self) -> list[str]:
        there = [name for name in self._source.names() if name != HEAD]
        return there if self.architecture.tie_word_embeddings else [*there, HEAD]

    def tensor(self, name: str) -> Tensor:
        Q_CC = self._turns.residual_CC
        w = self._source.tensor(EMBED if self._unties and name == HEAD else name)
        if Q_CC is not None and (name == NORM or split(name)[1] in _NORMS):
            return torch.ones_like(w)
        if Q_CC is not None and name in (EMBED, HEAD):
            return (w * self._source.tensor(NORM) if name == HEAD else w) @ Q_CC
        layer, part, leaf = split(name)
        if Q_CC is not None and part in _READERS and leaf == "weight":
            w = w * self._source.tensor(f"model.layers.{layer}.{_READERS[part]}.weight")
        values = self._turns.values_DD
        return turned(part, w, Q_CC, values[layer] if values and layer >= 0 else None)

    def stored(self, name: str) -> StoredTensor | None:
        _, part, _ = split(name)
        values = self._turns.values_DD and part in (V_PROJ, O_PROJ)
        stream = self._turns.residual_CC is not None and (
            name in (EMBED, HEAD, NORM) or part in (*_READERS, *_WRITERS, *_NORMS)
        )
        return None if values or stream else self._source.stored(name)


def turned(part: str, w: Tensor, Q_CC: Tensor | None, R_DD: Tensor | None) -> Tensor:
    """Return the weight (N, K) or bias (N,) of a layer's linear, turned. Autograd goes through.

    Args:
        part: "self_attn.q_proj", ...; what is no linear of a layer comes back as it is.
        w: its weight, the norm in front of it fused; or its bias.
        Q_CC: of the stream, `R_DD` of the heads' values; None does not turn.
    """
    matrix = w.ndim == 2
    if R_DD is not None and part == V_PROJ:
        heads = w.reshape(-1, len(R_DD), w.shape[1] if matrix else 1)
        w = (R_DD.T @ heads).reshape(w.shape)
    if R_DD is not None and part == O_PROJ and matrix:
        w = (w.reshape(len(w), -1, len(R_DD)) @ R_DD).reshape(w.shape)
    if Q_CC is not None and part in _WRITERS:
        w = Q_CC.T @ w
    if Q_CC is not None and part in _READERS and matrix:
        w = w @ Q_CC
    return w


def split(name: str) -> tuple[int, str, str]:
    """Return (3, "mlp.up_proj", "weight") of "model.layers.3.mlp.up_proj.weight"; else layer -1."""
    found = re.fullmatch(r"model\.layers\.(\d+)\.(.+)\.(\w+)", name)
    return (int(found[1]), found[2], found[3]) if found else (-1, name, "")


def turns_stream(a: Architecture) -> bool:
    """Whether the stream of this family can be turned, with nothing left to compute online.

    Not where norms with weights stand behind linears (Gemma 3, BitNet 2B4T) or inside them.
    """
    return a.model_type in _FAMILIES and a.pre_norms


def _check(a: Architecture, turns: Turns) -> None:
    if turns.residual_CC is not None and not turns_stream(a):
        raise UnsupportedError(
            f"rotate: a {a.model_type} model has norms behind its linears or inside them, whose "
            "weights no rotation of the stream passes. Turn the inputs of its linears while it "
            'runs (hadamard "both"), and the values.'
        )
    if turns.values_DD and a.sub_norms:
        raise UnsupportedError(
            "rotate: the norm in front of o_proj has weights, which no rotation of values passes."
        )
    wanted = [("the stream", turns.residual_CC, a.hidden_size)]
    wanted += [(f"layer {i}'s values", R, a.head_dim) for i, R in enumerate(turns.values_DD)]
    for what, matrix, size in wanted:
        if matrix is not None and tuple(matrix.shape) != (size, size):
            raise ShapeError(
                f"rotate: the matrix of {what} is {tuple(matrix.shape)}; this model needs "
                f"({size}, {size})."
            )
    if turns.values_DD and len(turns.values_DD) != a.num_hidden_layers:
        raise ShapeError(
            f"rotate: {len(turns.values_DD)} matrices for values, and the model has "
            f"{a.num_hidden_layers} layers. Give one for each, or none."
        )
