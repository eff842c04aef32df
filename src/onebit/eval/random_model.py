"""A GGUF file of random ternary weights in a given shape, in seconds: for timing, not for talking.

Nothing is quantized: the bytes are drawn as they stand in the file. Scales keep activations near 1,
and what the layers add to the residual stream small, so two engines that round differently stay
comparable.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from onebit.architecture import Architecture
from onebit.errors import OptionError
from onebit.eval import shapes
from onebit.eval.random_bytes import BODY, EMBED
from onebit.eval.shapes import ENDS, matrix_bytes
from onebit.io import Checkpoint, gguf, gguf_names, open_checkpoint, packed
from onebit.io.gguf_config import config_to_metadata
from onebit.scheme import SCHEMES
from onebit.tensors import Linear, linears, norms

SCHEME = "bitnet-b1.58"
LOGIT_SPREAD = 2.5
"""Standard deviation of the logits: a likeliest token stands out, none is certain."""

_OURS = ("t1_6", "t2")


def model_of_shape(
    path: Path,
    name: str,
    format: str | None = None,
    embed: str | None = None,
    llama: bool = False,
    begin: Callable[[str], None] = lambda label: None,
) -> str:
    """Write a random model in a named shape, unless the file is there, and return what to call it.

    Args:
        path: of the file.
        name: a key of `shapes.SHAPES`.
        format, embed: as for `random_model`; None takes what the shape's widths allow.
        llama: whether llama.cpp must be able to run it, and to the same end: with a tokenizer, and
            without what its own models do not have.
        begin: called with the model's name before it is written.

    Raises:
        OptionError: a name is unknown, or the file is there and is another model.
        ShapeError, FileError: as `random_model`.
    """
    shape = shapes.find(name)
    usual = shapes.default_formats(shape)
    format, embed = format or usual[0], embed or usual[1]
    label = f"{name} {format} {embed}"
    if llama and shape != shapes.as_llama(shape):
        shape, label = shapes.as_llama(shape), f"{name} as llama, {format} {embed}"
    if not path.exists():
        begin(label)
        random_model(path, shape, format, embed, vocabulary=llama)
    elif not _is(open_checkpoint(path), shape, format, embed, llama):
        raise OptionError(f"{path} is another model than {label}. Name another file, or remove it.")
    return label


def _is(kept: Checkpoint, shape: Architecture, format: str, embed: str, vocabulary: bool) -> bool:
    first = next(shapes.body(shape)).name
    return (
        replace(Architecture.from_config(kept.config), bos_token_id=None, eos_token_id=()) == shape
        and kept.tensor(f"{first}.weight").format == format
        and kept.tensor("model.embed_tokens.weight").format == embed
        and (kept.tokenizer is not None or not vocabulary)
    )


def random_model(
    path: str | Path,
    shape: Architecture,
    format: str = "tq2_0",
    embed: str = "q6_k",
    seed: int = 0,
    vocabulary: bool = False,
) -> None:
    """Write a model of random weights. The same arguments give the same bytes.

    Args:
        path: of the file.
        shape: of the model; of type "llama" if llama.cpp is to compute the same function.
        format: of the body, a key of `BODY`.
        embed: of embedding and head, a key of `EMBED`.
        seed: of the weights.
        vocabulary: whether to add a tokenizer of made-up tokens; llama.cpp asks for one.

    Raises:
        OptionError: a format is not one that can be drawn.
        ShapeError: a format cannot hold a width of the shape.
        FileError: the system refused.
    """
    for option, name, table in (("format", format, BODY), ("embed", embed, EMBED)):
        if name not in table:
            raise OptionError(f"{option} is {name!r:.80}; accepted: {', '.join(table)}.")
    random = np.random.Generator(np.random.SFC64(seed))
    metadata = config_to_metadata(
        shape.to_config() | {"onebit_scheme": SCHEMES[SCHEME].to_dict()}
    ) | (_vocabulary(shape.vocab_size) if vocabulary else {})
    declared, ours = _tensors(shape, format, embed)
    if ours:
        metadata[packed.TENSORS_KEY] = packed.to_json(ours)
    with gguf.Writer(path, metadata, declared) as file:
        for linear in linears(shape):
            name = _name(linear)
            if linear.name in ENDS:
                spread = LOGIT_SPREAD / linear.K**0.5
                file.write(name, EMBED[embed](random, linear.N, linear.K, spread))
                continue
            scale = _scale(shape, linear)
            file.write(name, BODY[format](random, linear.N, linear.K, scale))
            if format in _OURS:
                file.write(packed.scale_name(name), np.array([scale], np.float32))
        for name, size in norms(shape):
            file.write(gguf_names.to_gguf(f"{name}.weight"), np.ones(size, np.float32))


def _tensors(
    shape: Architecture, format: str, embed: str
) -> tuple[list[gguf.Declared], dict[str, packed.Packed]]:
    """Return all tensors, and those of onebit's own formats by name."""
    declared, ours = [], {}
    for linear in linears(shape):
        form = embed if linear.name in ENDS else format
        name, size = _name(linear), matrix_bytes(linear, form)  # says whether the widths fit
        if form in _OURS:
            ours[name] = packed.Packed(form, (linear.N, linear.K))
            declared.append(gguf.Declared(name, "i8", (linear.N, (size - 4) // linear.N)))
            declared.append(gguf.Declared(packed.scale_name(name), "f32", (1,)))
        else:
            declared.append(gguf.Declared(name, form, (linear.N, linear.K)))
    for name, width in norms(shape):
        declared.append(gguf.Declared(gguf_names.to_gguf(f"{name}.weight"), "f32", (width,)))
    return declared, ours


def _name(linear: Linear) -> str:
    return gguf_names.to_gguf(f"{linear.name}.weight")


def _scale(shape: Architecture, linear: Linear) -> float:
    """Return the scale that keeps the variance: half of the codes are not 0. What is added to the
    residual stream is smaller, so that all layers together add about 1."""
    added = linear.name.endswith(("o_proj", "down_proj"))
    return float((0.5 * linear.K * (2 * shape.num_hidden_layers if added else 1)) ** -0.5)


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
