"""A GGUF file of random ternary weights in a given shape, in seconds: for timing, not for talking.

Codes are -1, 0 and 1 in the ratio 1 : 2 : 1, as in trained ternary models, and the bytes are drawn
as they will stand in the file; nothing is quantized. Scales keep activations near 1 and the
residual stream near the embedding, so two engines that round differently stay comparable.

Shape letters: N rows, K columns, B blocks.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from onebit.architecture import Architecture
from onebit.errors import OptionError
from onebit.eval.shapes import ENDS, matrix_bytes
from onebit.io import gguf, gguf_names, packed
from onebit.io.gguf_config import config_to_metadata
from onebit.pack.format import Bytes
from onebit.pack.t1_6 import BYTE_OF
from onebit.scheme import SCHEMES
from onebit.tensors import Linear, linears, norms

SCHEME = "bitnet-b1.58"
LOGIT_SPREAD = 2.5
"""Standard deviation of the logits: a likeliest token stands out, none is certain."""

_OURS = ("t1_6", "t2")
Random = np.random.Generator


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
    declared, ours = [], {}
    for linear in linears(shape):
        form = embed if linear.name in ENDS else format
        name, size = _name(linear), matrix_bytes(linear, form)  # asks whether the widths fit
        if form in _OURS:
            ours[name] = packed.Packed(form, (linear.N, linear.K))
            declared.append(gguf.Declared(name, "i8", (linear.N, (size - 4) // linear.N)))
            declared.append(gguf.Declared(packed.scale_name(name), "f32", (1,)))
        else:
            declared.append(gguf.Declared(name, form, (linear.N, linear.K)))
    declared += [
        gguf.Declared(gguf_names.to_gguf(f"{name}.weight"), "f32", (size,))
        for name, size in norms(shape)
    ]
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


def _name(linear: Linear) -> str:
    return gguf_names.to_gguf(f"{linear.name}.weight")


def _scale(shape: Architecture, linear: Linear) -> float:
    """Return the scale that keeps the variance: half of the codes are not 0. What is added to the
    residual stream is smaller, so that all layers together add about 1."""
    added = linear.name.endswith(("o_proj", "down_proj"))
    return float((0.5 * linear.K * (2 * shape.num_hidden_layers if added else 1)) ** -0.5)


def _bytes(random: Random, size: int) -> Bytes:
    words = random.integers(0, 1 << 64, -(-size // 8), np.uint64)
    return words.view(np.uint8)[:size]


def _half(blocks_Bb: Bytes, at: int, value: float) -> None:
    blocks_Bb[:, at : at + 2] = np.array([value], "<f2").view(np.uint8)


def _pairs(random: Random, size: int) -> Bytes:
    """Return bytes of four codes, plus 1: the number of ones in two random bits."""
    byte = _bytes(random, size)
    return (byte & np.uint8(0x55)) + ((byte >> np.uint8(1)) & np.uint8(0x55))


def _trits_of_ten_bits(digits: int) -> Bytes:
    """Return the byte of five trits for each number of ten bits: a trit is the number of ones in
    its two bits. Only the first `digits` are drawn; those that are left are 0."""
    bits = np.arange(1024)[:, None] >> (2 * np.arange(digits)) & 3
    trits = np.array([0, 1, 1, 2])[bits]
    found: Bytes = BYTE_OF[trits @ 3 ** np.arange(4, 4 - digits, -1)]
    return found


def _trits(random: Random, size: int, digits: int = 5) -> Bytes:
    ten_bits = _bytes(random, 2 * size).view(np.uint16) & np.uint16(1023)
    return np.take(_trits_of_ten_bits(digits), ten_bits)


def _t2(random: Random, N: int, K: int, scale: float) -> Bytes:
    rows = _pairs(random, N * -(-K // 4)).reshape(N, -1)
    if K % 4:  # the row ends with codes 0
        used = np.uint8((1 << 2 * (K % 4)) - 1)
        rows[:, -1] = (rows[:, -1] & used) | (np.uint8(0x55) & ~used)
    return rows.reshape(-1)


def _t1_6(random: Random, N: int, K: int, scale: float) -> Bytes:
    rows = _trits(random, N * -(-K // 5)).reshape(N, -1)
    if K % 5:  # the row ends with codes 0
        zeros = sum(3**n for n in range(5 - K % 5))
        digits = np.take(_NUMBER_OF, _trits(random, N, K % 5))
        rows[:, -1] = BYTE_OF[digits + zeros]
    return rows.reshape(-1)


_NUMBER_OF = np.zeros(256, np.intp)
_NUMBER_OF[BYTE_OF] = np.arange(243)


def _tq2_0(random: Random, N: int, K: int, scale: float) -> Bytes:
    blocks_Bb = np.empty((N * K // 256, 66), np.uint8)
    blocks_Bb[:, :64] = _pairs(random, 64 * len(blocks_Bb)).reshape(-1, 64)
    _half(blocks_Bb, 64, scale)
    return blocks_Bb.reshape(-1)


def _tq1_0(random: Random, N: int, K: int, scale: float) -> Bytes:
    blocks_Bb = np.empty((N * K // 256, 54), np.uint8)
    blocks_Bb[:, :48] = _trits(random, 48 * len(blocks_Bb)).reshape(-1, 48)
    blocks_Bb[:, 48:52] = _trits(random, 4 * len(blocks_Bb), 4).reshape(-1, 4)
    _half(blocks_Bb, 52, scale)
    return blocks_Bb.reshape(-1)


def _i2_s(random: Random, N: int, K: int, scale: float) -> Bytes:
    data = np.zeros(N * K // 4 + 32, np.uint8)
    data[:-32] = _pairs(random, N * K // 4)
    data[-32:-28] = np.array([scale], "<f4").view(np.uint8)
    return data


def _uniform(count: int) -> float:
    """Return the standard deviation of `count` consecutive numbers, all as likely."""
    return float(((count**2 - 1) / 12) ** 0.5)


def _q8_0(random: Random, N: int, K: int, spread: float) -> Bytes:
    blocks_Bb = _bytes(random, N * K // 32 * 34).reshape(-1, 34)
    _half(blocks_Bb, 0, spread / _uniform(256))
    return blocks_Bb.reshape(-1)


def _q4_0(random: Random, N: int, K: int, spread: float) -> Bytes:
    blocks_Bb = _bytes(random, N * K // 32 * 18).reshape(-1, 18)
    _half(blocks_Bb, 0, spread / _uniform(16))
    return blocks_Bb.reshape(-1)


def _q4_k(random: Random, N: int, K: int, spread: float) -> Bytes:
    """Scale 32 in all groups, and minimum 30 with a factor that centres the codes: 30 x 8 is 32 x
    7.5. How both are packed: pack/ggml/k_quants.py."""
    blocks_Bb = _bytes(random, N * K // 256 * 144).reshape(-1, 144)
    factor = spread / _uniform(16) / 32
    _half(blocks_Bb, 0, factor)
    _half(blocks_Bb, 2, 8 * factor)
    blocks_Bb[:, 4:8] = 32 | 32 >> 4 << 6
    blocks_Bb[:, 8:12] = 30 | 30 >> 4 << 6
    blocks_Bb[:, 12:16] = (30 & 15) << 4 | 32 & 15
    return blocks_Bb.reshape(-1)


def _q6_k(random: Random, N: int, K: int, spread: float) -> Bytes:
    blocks_Bb = _bytes(random, N * K // 256 * 210).reshape(-1, 210)
    blocks_Bb[:, 192:208] = 32
    _half(blocks_Bb, 208, spread / _uniform(64) / 32)
    return blocks_Bb.reshape(-1)


def _f16(random: Random, N: int, K: int, spread: float) -> Bytes:
    values = ((np.arange(256) - 127.5) * (spread / _uniform(256))).astype("<f2")
    return np.take(values, _bytes(random, N * K)).view(np.uint8)


Draw = Callable[[Random, int, int, float], Bytes]

BODY: dict[str, Draw] = {"tq2_0": _tq2_0, "tq1_0": _tq1_0, "t1_6": _t1_6, "t2": _t2, "i2_s": _i2_s}
"""Formats of the body -> bytes of N x K weights with a scale."""

EMBED: dict[str, Draw] = {
    "q6_k": _q6_k, "q4_k": _q4_k, "q8_0": _q8_0, "q4_0": _q4_0, "f16": _f16
}  # fmt: skip
"""Formats of embedding and head -> bytes of N x K weights with a standard deviation."""


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
