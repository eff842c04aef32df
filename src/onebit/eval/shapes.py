"""Shapes of models by name: what speed and memory depend on, without any model's weights."""

import math
from collections.abc import Iterator
from dataclasses import replace

from onebit import pack, tensors
from onebit.architecture import RECURRENT, Architecture
from onebit.errors import OptionError, ShapeError
from onebit.scheme import SCHEMES, Scheme
from onebit.tensors import Linear, linears


def _shape(
    hidden: int, ffn: int, layers: int, heads: int, kv_heads: int, vocab: int, tied: bool = True
) -> Architecture:
    return Architecture(
        vocab_size=vocab,
        hidden_size=hidden,
        intermediate_size=ffn,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        head_dim=hidden // heads,
        rope_theta=500000.0,
        max_position_embeddings=4096,
        tie_word_embeddings=tied,
    )


def _matmulfree(hidden: int, layers: int, vocab: int = 32000) -> Architecture:
    """Return a MatMul-free model's shape; its MLP's width follows from `hidden`."""
    return Architecture.from_config(
        {
            "model_type": RECURRENT,
            "vocab_size": vocab,
            "hidden_size": hidden,
            "num_hidden_layers": layers,
        }
    )


SHAPES = {
    "tiny": _shape(256, 512, 2, 4, 2, 512),
    "0.7b": _shape(1536, 4096, 24, 16, 16, 32000),
    "2b4t": replace(
        _shape(2560, 6912, 30, 20, 5, 128256),
        model_type="bitnet",
        hidden_act="relu2",
        sub_norms=True,
    ),
    "3b": _shape(3200, 8640, 26, 32, 32, 32000),
    "8b": _shape(4096, 14336, 32, 32, 8, 128256, tied=False),
    "matmulfree-tiny": _matmulfree(256, 2, 512),
    "matmulfree-370m": _matmulfree(1024, 24),
    "matmulfree-1.3b": _matmulfree(2048, 24),
    "matmulfree-2.7b": _matmulfree(2560, 32),
}
"""`2b4t` is BitNet b1.58 2B4T's, with the squared ReLU and the norms inside its layers. `0.7b` and
`3b` are those of the b1.58 paper; no block of 256 divides the widths of `3b`. `8b` is Llama 3 8B's,
those of MatMul-free models are the published ones, and the tiny ones are for trying things out."""


def find(name: str) -> Architecture:
    """Return the shape called `name`.

    Raises:
        OptionError: there is none.
    """
    if name not in SHAPES:
        raise OptionError(f"{name!r:.80} is no shape; accepted: {', '.join(SHAPES)}.")
    return SHAPES[name]


def usual_scheme(shape: Architecture) -> str:
    """Return the scheme that models of the shape are published with."""
    return "matmulfree" if shape.recurrent else "bitnet-b1.58"


def as_llama(shape: Architecture) -> Architecture:
    """Return the shape with SiLU and without inner norms: a function that all engines compute.

    Raises:
        OptionError: it has no attention, which the others need.
    """
    if shape.recurrent:
        raise OptionError("llama.cpp runs no MatMul-free model. Time it without --against.")
    return replace(shape, model_type="llama", hidden_act="silu", sub_norms=False)


def transformer_twin(shape: Architecture, head_dim: int = 64) -> Architecture:
    """Return a transformer with as many weights as a MatMul-free shape, matrix by matrix: its q, k,
    v and o are as wide as i, f, g and o.

    Raises:
        OptionError: heads of this width do not divide its own.
    """
    if shape.hidden_size % head_dim:
        raise OptionError(f"Heads of {head_dim} do not divide a width of {shape.hidden_size}.")
    heads = shape.hidden_size // head_dim
    return replace(
        shape,
        model_type="llama",
        num_attention_heads=heads,
        num_key_value_heads=heads,
        head_dim=head_dim,
    )


def under(shape: Architecture, scheme: Scheme) -> Architecture:
    """Return the shape as a model of the scheme is built: a head that is rounded is not the
    embedding, and norms stand once.

    Where the scheme gives the two output projections norms inside, those of the shape before them
    go; where it gives the other five theirs, those before attention and MLP go. MatMul-free models
    keep both.
    """
    if scheme.linear("lm_head").weight != "fp":
        shape = replace(shape, tie_word_embeddings=False)
    if shape.recurrent:
        return shape
    has = {role: scheme.linear(f"{role}_proj").norm != "none" for role in _ROLES}
    if shape.sub_norms and has["o"] and has["down"]:
        shape = replace(shape, model_type="llama", sub_norms=False)
    if all(has[role] for role in ("q", "k", "v", "gate", "up")):
        shape = replace(shape, pre_norms=False)
    return shape


def body(shape: Architecture) -> Iterator[Linear]:
    """Yield the linear layers but embedding and head."""
    return (linear for linear in linears(shape) if linear.name not in ENDS)


def body_weights(shape: Architecture) -> int:
    """Return the number of weights of the body: each is multiplied once for every token."""
    return sum(linear.N * linear.K for linear in body(shape))


_ROLES = ("q", "k", "v", "o", "gate", "up", "down")
ENDS = ("model.embed_tokens", "lm_head")


def default_formats(shape: Architecture) -> tuple[str, str]:
    """Return formats of body and of embedding and head that hold the shape's widths."""
    widths = {linear.K for linear in body(shape)}
    return (
        "tq2_0" if not any(K % 256 for K in widths) else "t1_6",
        "q6_k" if shape.hidden_size % 256 == 0 else "q8_0",
    )


def tensor_bytes(
    shape: Architecture, format: str, embed: str, scheme: Scheme = SCHEMES["bitnet-b1.58"]
) -> int:
    """Return what a file's tensors take, all of them.

    Args:
        shape: of the model.
        format: of what the scheme rounds, a key of `pack.FORMATS`.
        embed: of embedding and of a head that it does not, the same or "f16".
        scheme: of the layers; it rounds all of the body.

    Raises:
        OptionError: a format is unknown.
        ShapeError: a format cannot hold a width of the shape.
    """
    matrices = {f"{linear.name}.weight": linear for linear in linears(shape)}
    total = 0
    for name, size in tensors.shapes(shape, scheme).items():
        if name not in matrices:
            total += 4 * math.prod(size)
            continue
        linear = matrices[name]
        end = linear.name in ENDS and scheme.linear(linear.name).weight == "fp"
        total += matrix_bytes(linear, embed if end else format)
    return total


def matrix_bytes(linear: Linear, format: str) -> int:
    """Return what one matrix takes, with a scale that is stored apart.

    Raises:
        OptionError, ShapeError: as `tensor_bytes`.
    """
    if format == "f16":
        return 2 * linear.N * linear.K
    form = pack.find(format)
    try:
        return form.size_bytes(linear.N, linear.K) + (0 if form.scale_inside else 4)
    except ShapeError as error:
        raise ShapeError(f"{linear.name}: {error}") from None
