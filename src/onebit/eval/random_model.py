"""A GGUF file of random weights in a given shape and scheme, in seconds: for timing, not for
talking.

Nothing is quantized: the bytes are drawn as they stand in the file. Scales keep activations near 1,
and what the layers add to the residual stream small, so two engines that round differently stay
comparable.
"""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from onebit import pack
from onebit import scheme as schemes
from onebit.architecture import Architecture
from onebit.errors import OptionError
from onebit.eval import shapes
from onebit.eval.random_bytes import BODY, EMBED, of_weight, spread_of_codes
from onebit.eval.shapes import ENDS, matrix_bytes
from onebit.io import Checkpoint, gguf, gguf_names, open_checkpoint, packed
from onebit.io.gguf_config import config_to_metadata
from onebit.scheme import LinearScheme, Scheme
from onebit.tensors import LOWER_BOUNDS, Linear, linears, norms, scale_shape

LOGIT_SPREAD = 2.5
"""Standard deviation of the logits: a likeliest token stands out, none is certain."""


class _Drawn(NamedTuple):
    """A matrix, and how it is drawn."""

    linear: Linear
    how: LinearScheme
    format: str
    name: str
    """In the file."""


def model_of_shape(
    path: Path,
    name: str,
    format: str | None = None,
    embed: str | None = None,
    llama: bool = False,
    begin: Callable[[str], None] = lambda label: None,
    scheme: str | None = None,
) -> str:
    """Write a random model in a named shape, unless the file is there, and return what to call it.

    Args:
        path: of the file.
        name: a key of `shapes.SHAPES`.
        format, embed: as for `random_model`; None takes what the shape's widths allow.
        llama: whether llama.cpp must be able to run it, and to the same end: with a tokenizer, and
            without what its own models do not have.
        begin: called with the model's name before it is written.
        scheme: a key of `scheme.SCHEMES`; None takes the shape's.

    Raises:
        OptionError: a name is unknown, or the file is there and is another model; or llama.cpp is
            to run a scheme that it does not know.
        ShapeError, FileError: as `random_model`.
    """
    shape = shapes.find(name)
    published = shapes.usual_scheme(shape)
    scheme = scheme or published
    found = schemes.find(scheme)
    if llama and scheme != "bitnet-b1.58":
        raise OptionError(f"llama.cpp runs none of scheme {scheme}. Time it without --against.")
    shape = shapes.under(shape, found)
    usual = shapes.default_formats(shape)
    format, embed = format or usual[0], embed or usual[1]
    forms = ", ".join(sorted({d.format for d in _drawn(shape, found, format, embed, body=True)}))
    label = " ".join([name, *([scheme] if scheme != published else []), forms, embed])
    if llama and shape != shapes.as_llama(shape):
        shape, label = shapes.as_llama(shape), f"{name} as llama, {format} {embed}"
    if not path.exists():
        begin(label)
        random_model(path, shape, format, embed, vocabulary=llama, scheme=found)
    elif not _is(open_checkpoint(path), shape, found, format, embed, llama):
        raise OptionError(f"{path} is another model than {label}. Name another file, or remove it.")
    return label


def _is(
    kept: Checkpoint,
    shape: Architecture,
    scheme: Scheme,
    format: str,
    embed: str,
    vocabulary: bool,
) -> bool:
    return (
        replace(Architecture.from_config(kept.config), bos_token_id=None, eos_token_id=()) == shape
        and schemes.of_config(kept.config) == scheme
        and all(
            kept.tensor(f"{drawn.linear.name}.weight").format == drawn.format
            for drawn in _drawn(shape, scheme, format, embed)
        )
        and (kept.tokenizer is not None or not vocabulary)
    )


def random_model(
    path: str | Path,
    shape: Architecture,
    format: str = "tq2_0",
    embed: str = "q6_k",
    seed: int = 0,
    vocabulary: bool = False,
    scheme: Scheme = schemes.SCHEMES["bitnet-b1.58"],
) -> None:
    """Write a model of random weights. The same arguments give the same bytes.

    Args:
        path: of the file.
        shape: of the model; of type "llama" if llama.cpp is to compute the same function.
        format: of ternary layers, a key of `BODY`; other codes have the format of `pack.USUAL`.
        embed: of embedding and head, a key of `EMBED`.
        seed: of the weights.
        vocabulary: whether to add a tokenizer of made-up tokens; llama.cpp asks for one.
        scheme: of the layers; those that it leaves float are f16.

    Raises:
        OptionError: a format is not one that can be drawn, or the scheme quantizes nothing.
        ShapeError: a format cannot hold a width of the shape.
        FileError: the system refused.
    """
    for option, name, table in (("format", format, BODY), ("embed", embed, EMBED)):
        if name not in table:
            raise OptionError(f"{option} is {name!r:.80}; accepted: {', '.join(table)}.")
    if not scheme.quantized:
        raise OptionError(f"scheme {scheme.name} quantizes nothing. Name one that does.")
    random = np.random.Generator(np.random.SFC64(seed))
    metadata = config_to_metadata(shape.to_config() | {"onebit_scheme": scheme.to_dict()}) | (
        _vocabulary(shape.vocab_size) if vocabulary else {}
    )
    drawn = _drawn(shape, scheme, format, embed)
    vectors = _vectors(shape, scheme)
    ours = {d.name: packed.Packed(d.format, d.linear[1:3]) for d in drawn if _apart(d)}
    if ours:
        metadata[packed.TENSORS_KEY] = packed.to_json(ours)
    declared = [tensor for entry in drawn for tensor in _declared(entry)]
    declared += [gguf.Declared(name, "f32", value.shape) for name, value in vectors.items()]
    with gguf.Writer(path, metadata, declared) as file:
        for entry in drawn:
            for name, data in _bytes_of(random, shape, entry).items():
                file.write(name, data)
        for name, value in vectors.items():
            file.write(name, value)


def _drawn(
    shape: Architecture, scheme: Scheme, format: str, embed: str, body: bool = False
) -> list[_Drawn]:
    """Return how each matrix is drawn; `body` leaves embedding and head out."""
    found = []
    for linear in linears(shape):
        how = scheme.linear(linear.name)
        end = linear.name in ENDS
        floats = embed if end else "f16"
        form = {"ternary": format, "fp": floats}.get(how.weight) or pack.USUAL[how.weight]
        if not (body and end):
            name = gguf_names.to_gguf(f"{linear.name}.weight", shape.model_type)
            found.append(_Drawn(linear, how, form, name))
    return found


def _apart(drawn: _Drawn) -> bool:
    """Whether the matrix is in a format of onebit's own, with its scale beside it."""
    return drawn.format in pack.FORMATS and not pack.FORMATS[drawn.format].scale_inside


def _declared(drawn: _Drawn) -> list[gguf.Declared]:
    """Return a matrix with its factors as the file's head says them."""
    linear, name = drawn.linear, drawn.name
    size = matrix_bytes(linear, drawn.format)  # says whether the widths fit
    if not _apart(drawn):
        return [gguf.Declared(name, drawn.format, (linear.N, linear.K))]
    row_bytes = (size - 4) // linear.N
    factor_shape = scale_shape(drawn.how, linear.N, linear.K)
    found = [
        gguf.Declared(name, "i8", (linear.N, row_bytes)),
        gguf.Declared(packed.scale_name(name), "f32", factor_shape),
    ]
    if drawn.how.weight_rule == "zero_point":
        zero = _zero(drawn.format, factor_shape)
        found.append(gguf.Declared(packed.zero_name(name), "i8", zero.shape))
    return found


def _zero(format: str, factor_shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """Return zero-points of 0, (R, B), beside a scale of this shape."""
    codes_RG = np.zeros((factor_shape[0], math.prod(factor_shape[1:])), np.int8)
    data = pack.FORMATS[format].pack(pack.Unpacked(codes_RG, np.ones((len(codes_RG), 1), "f4")))
    return data.reshape(len(codes_RG), -1)


def _bytes_of(
    random: np.random.Generator, shape: Architecture, drawn: _Drawn
) -> dict[str, NDArray[Any]]:
    """Return the bytes of a matrix and of its factors, by their names in the file."""
    (_, N, K, _), how, name = drawn.linear, drawn.how, drawn.name
    end = drawn.linear.name in ENDS
    spread = LOGIT_SPREAD / K**0.5 if end else _spread(shape, drawn.linear)
    if how.weight == "fp":
        return {name: EMBED[drawn.format](random, N, K, spread)}
    scale = spread / spread_of_codes(how.weight)
    data = (
        BODY[drawn.format](random, N, K, scale)
        if how.weight == "ternary"
        else of_weight(random, how.weight, N, K)
    )
    if not _apart(drawn):
        return {name: data}
    factor = np.full(scale_shape(how, N, K), scale, np.float32)
    found: dict[str, NDArray[Any]] = {name: data, packed.scale_name(name): factor}
    if how.weight_rule == "zero_point":
        found[packed.zero_name(name)] = _zero(drawn.format, factor.shape)
    return found


def _vectors(shape: Architecture, scheme: Scheme) -> dict[str, NDArray[np.float32]]:
    """Return norms, of ones, temperatures and what bounds forget gates, by their names in the
    file."""
    found: dict[str, tuple[int, ...]] = {f"{name}.weight": (n,) for name, n in norms(shape)}
    for linear in linears(shape):
        if scheme.linear(linear.name).norm == "rms":
            found[f"{linear.name}.rms_norm.weight"] = (linear.K,)
    if shape.learned_temperature:
        for layer in range(shape.num_hidden_layers):
            found[f"model.layers.{layer}.self_attn.temperature"] = (shape.num_attention_heads,)
    if shape.recurrent and shape.lower_bounds:
        found[LOWER_BOUNDS] = (shape.num_hidden_layers, shape.hidden_size)
    return {
        gguf_names.to_gguf(name, shape.model_type): np.ones(size, np.float32)
        for name, size in found.items()
    }


def _spread(shape: Architecture, linear: Linear) -> float:
    """Return the standard deviation of weights that keeps the variance. What is added to the
    residual stream is smaller, so that all layers together add about 1."""
    added = linear.name.endswith(("o_proj", "down_proj"))
    return float((linear.K * (2 * shape.num_hidden_layers if added else 1)) ** -0.5)


def _vocabulary(size: int) -> dict[str, Any]:
    """Return a tokenizer of the bytes and of made-up words; the last token ends a text.

    Raises:
        OptionError: there is no room for the bytes.
    """
    if size < 258:
        raise OptionError(f"A vocabulary of {size} tokens has no room for all bytes; give 258.")
    words = (f"w{i}" for i in range(257, size - 1))
    tokens = [*_byte_letters(), "we", *words]  # and the one merge that there has to be
    types = np.ones(size, np.int32)
    types[-1] = 3  # control
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.tokens": [*tokens, "<|end|>"],
        "tokenizer.ggml.token_type": types,
        "tokenizer.ggml.merges": ["w e"],
        "tokenizer.ggml.add_bos_token": False,
        "tokenizer.ggml.bos_token_id": np.uint32(size - 1),
        "tokenizer.ggml.eos_token_id": np.uint32(size - 1),
    }


def _byte_letters() -> list[str]:
    """Return the letter that stands for each byte in byte-level BPE: itself where it is printable,
    else one from 256 on."""
    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [byte for byte in range(256) if byte not in shown]
    return [chr(byte if byte in shown else 256 + hidden.index(byte)) for byte in range(256)]
