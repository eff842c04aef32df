"""The tensors of a model: which there are, by their Hugging Face names, and of which shape.

The torch models, the engine and the verifier hold a file against the same list.

Shape letters: N rows (out features), K columns (in features).
"""

from collections.abc import Container, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from onebit.architecture import Architecture
from onebit.errors import OptionError, UnsupportedError
from onebit.scheme import FP, LinearScheme, Scheme

LOWER_BOUNDS = "model.lower_bounds"
"""Of a MatMul-free model's forget gates, (layers, width): a matrix that nothing multiplies with."""
_DERIVED = ("rotary_emb.inv_freq",)  # old checkpoints also hold what the config says


class Linear(NamedTuple):
    """One weight matrix of the architecture."""

    name: str
    N: int
    K: int
    bias: bool = False


def linears(a: Architecture) -> Iterator[Linear]:
    """Yield every weight matrix, by its Hugging Face name; a tied head is not one of its own."""
    q, kv = a.num_attention_heads * a.head_dim, a.num_key_value_heads * a.head_dim
    d, ff = a.hidden_size, a.intermediate_size
    yield Linear("model.embed_tokens", a.vocab_size, d)
    if a.recurrent:
        yield from _recurrent_linears(a)
    for layer in () if a.recurrent else range(a.num_hidden_layers):
        attention, mlp = f"model.layers.{layer}.self_attn", f"model.layers.{layer}.mlp"
        yield Linear(f"{attention}.q_proj", q, d, a.qkv_bias)
        yield Linear(f"{attention}.k_proj", kv, d, a.qkv_bias)
        yield Linear(f"{attention}.v_proj", kv, d, a.qkv_bias)
        yield Linear(f"{attention}.o_proj", d, q, a.out_bias)
        yield Linear(f"{mlp}.gate_proj", ff, d, a.mlp_bias)
        yield Linear(f"{mlp}.up_proj", ff, d, a.mlp_bias)
        yield Linear(f"{mlp}.down_proj", d, ff, a.mlp_bias)
    if not a.tie_word_embeddings:
        yield Linear("lm_head", a.vocab_size, d)


def _recurrent_linears(a: Architecture) -> Iterator[Linear]:
    """Yield those of the layers of a MatMul-free model; gate and up are one matrix, in this order.

    Source: ridgerchu/matmulfreellm, `layers/hgrn_bit.py` and `modeling_hgrn_bit.py`.
    """
    d, ff = a.hidden_size, a.intermediate_size
    for layer in range(a.num_hidden_layers):
        block = f"model.layers.{layer}"
        for name in "ifgo":
            yield Linear(f"{block}.attn.{name}_proj", d, d)
        yield Linear(f"{block}.mlp.gate_proj", 2 * ff, d)
        yield Linear(f"{block}.mlp.down_proj", d, ff)


def norms(a: Architecture) -> Iterator[tuple[str, int]]:
    """Yield the name and width of every RMSNorm that stands on its own."""
    for layer in range(a.num_hidden_layers):
        block = f"model.layers.{layer}"
        if a.recurrent:
            yield f"{block}.attn_norm", a.hidden_size
            if a.mlgru == "code":
                yield f"{block}.attn.g_norm", a.hidden_size
            yield f"{block}.{mlp_norm(a)}", a.hidden_size
            continue
        if a.pre_norms:
            yield f"{block}.input_layernorm", a.hidden_size
            yield f"{block}.{mlp_norm(a)}", a.hidden_size
        if a.post_norms:
            yield f"{block}.post_attention_layernorm", a.hidden_size
            yield f"{block}.post_feedforward_layernorm", a.hidden_size
        if a.qk_norm:
            yield f"{block}.self_attn.q_norm", a.head_dim
            yield f"{block}.self_attn.k_norm", a.head_dim
        if a.sub_norms:
            yield f"{block}.self_attn.attn_sub_norm", a.num_attention_heads * a.head_dim
            yield f"{block}.mlp.ffn_sub_norm", a.intermediate_size
    yield "model.norm", a.hidden_size


def mlp_norm(a: Architecture) -> str:
    """Return the name, in a layer, of the norm before the MLP. Llama's is called after where it
    stands; where attention has a norm behind it (Gemma 3), that one is."""
    if a.recurrent:
        return "mlp_norm"
    return "pre_feedforward_layernorm" if a.post_norms else "post_attention_layernorm"


def check(a: Architecture, scheme: Scheme) -> None:
    """Hold a scheme against the model whose layers it describes.

    Raises:
        OptionError: it rounds a head that the model does not have, or keys, values or queries of a
            model without any.
    """
    if a.tie_word_embeddings and scheme.linear("lm_head") != FP:
        raise OptionError(
            f"scheme {scheme.name}: the head shares the embedding's weights, which stay float. "
            'Take "head" out of the scheme, or untie the embeddings; a file that should have a '
            "head of its own lacks it."
        )
    if a.recurrent and (scheme.kv_bits < 16 or scheme.q_bits < 16):
        raise OptionError(
            f"scheme {scheme.name}: kv_bits is {scheme.kv_bits} and q_bits {scheme.q_bits}; a "
            f"{a.model_type} model has no keys, values or queries. Leave both at 16."
        )


def shapes(a: Architecture, scheme: Scheme) -> dict[str, tuple[int, ...]]:
    """Return the shape of every tensor that a model has, by its Hugging Face name.

    Raises:
        OptionError: the scheme is not one of such a model: see `check`.
    """
    check(a, scheme)
    found: dict[str, tuple[int, ...]] = {f"{name}.weight": (size,) for name, size in norms(a)}
    for linear in linears(a):
        found[f"{linear.name}.weight"] = (linear.N, linear.K)
        if linear.bias:
            found[f"{linear.name}.bias"] = (linear.N,)
        how = scheme.linear(linear.name)
        if how.norm == "rms":
            found[f"{linear.name}.rms_norm.weight"] = (linear.K,)
        if how.static:
            found[f"{linear.name}.input_scale"] = (1,)
        if how.static_zero:
            found[f"{linear.name}.input_zero"] = (1,)
        if how.learned:
            found[f"{linear.name}.step"] = step_shape(how, linear.N, linear.K)
    if a.recurrent and a.lower_bounds:
        found[LOWER_BOUNDS] = (a.num_hidden_layers, a.hidden_size)
    if a.learned_temperature:
        for layer in range(a.num_hidden_layers):
            name = f"model.layers.{layer}.self_attn.temperature"
            found[name] = (a.num_attention_heads,)
    return found


def step_shape(how: LinearScheme, N: int, K: int) -> tuple[int, ...]:
    """Return the shape of a learned step: (1,) for the matrix, (N,), or (N, G)."""
    if how.weight_scale == "tensor":
        return (1,)
    return (N, K // how.group) if how.group else (N,)


def scale_shape(how: LinearScheme, N: int, K: int) -> tuple[int, ...]:
    """Return the shape of a scale beside packed codes: (1,), (N,), (N, G), or (1, G) for parts."""
    if how.split.startswith("in:"):
        return (1, how.parts)
    if how.planes > 1:
        rows = 1 if how.weight_scale == "tensor" else N
        return (rows, how.planes * (K // how.group if how.group else 1))
    return (N,) if how.parts > 1 else step_shape(how, N, K)


def codes_shape(how: LinearScheme, N: int, K: int) -> tuple[int, int]:
    """Return the shape of packed codes; planes stand side by side."""
    return N, how.planes * K


def spare(names: Iterable[str], known: Container[str]) -> list[str]:
    """Return the names of tensors that a model has no use for, though its output may need them."""
    return sorted(
        name
        for name in names
        if name not in known
        and name != "lm_head.weight"  # where it is tied, a copy of the embedding
        and not name.endswith(_DERIVED)
    )


def check_spare(path: Path, model_type: str, names: Iterable[str], known: Container[str]) -> None:
    """Refuse a file with a tensor that would silently not be used: its output would be wrong.

    Raises:
        UnsupportedError: there is one.
    """
    if found := spare(names, known):
        raise UnsupportedError(
            f"{path}: {found[0]!r:.100} has no place in a {model_type} model"
            f"{f', nor have {len(found) - 1} others' if found[1:] else ''}. "
            "It is a variant that onebit does not build; its output would be wrong without them."
        )
