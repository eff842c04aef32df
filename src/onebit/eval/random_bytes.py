"""Random weights in the bytes of a format, drawn as they stand in a file.

Ternary codes are -1, 0 and 1 in the ratio 1 : 2 : 1, as in trained models.

Shape letters: N rows, K columns, B blocks.
"""

from collections.abc import Callable

import numpy as np

from onebit import pack
from onebit.pack.format import Bytes
from onebit.pack.t1_6 import BYTE_OF

Random = np.random.Generator


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


def _q5_0(random: Random, N: int, K: int, spread: float) -> Bytes:
    blocks_Bb = _bytes(random, N * K // 32 * 22).reshape(-1, 22)
    _half(blocks_Bb, 0, spread / _uniform(32))
    return blocks_Bb.reshape(-1)


def _q4_k(random: Random, N: int, K: int, spread: float) -> Bytes:
    blocks_Bb = _bytes(random, N * K // 256 * 144).reshape(-1, 144)
    _centred(blocks_Bb, spread / _uniform(16) / 32, 8, 30)  # 8 x 30 is 32 x 7.5
    return blocks_Bb.reshape(-1)


def _q5_k(random: Random, N: int, K: int, spread: float) -> Bytes:
    blocks_Bb = _bytes(random, N * K // 256 * 176).reshape(-1, 176)
    _centred(blocks_Bb, spread / _uniform(32) / 32, 16, 31)  # 16 x 31 is 32 x 15.5
    return blocks_Bb.reshape(-1)


def _centred(blocks_Bb: Bytes, factor: float, times: int, minimum: int) -> None:
    """Write the head of q4_k and q5_k blocks: scale 32 in all groups, and a minimum that takes the
    mean away, with so many times the scale's factor. How they are packed: pack/ggml/k_quants.py."""
    _half(blocks_Bb, 0, factor)
    _half(blocks_Bb, 2, times * factor)
    blocks_Bb[:, 4:8] = 32 | 32 >> 4 << 6
    blocks_Bb[:, 8:12] = minimum | minimum >> 4 << 6
    blocks_Bb[:, 12:16] = (minimum & 15) << 4 | 32 & 15


def _q6_k(random: Random, N: int, K: int, spread: float) -> Bytes:
    blocks_Bb = _bytes(random, N * K // 256 * 210).reshape(-1, 210)
    blocks_Bb[:, 192:208] = 32
    _half(blocks_Bb, 208, spread / _uniform(64) / 32)
    return blocks_Bb.reshape(-1)


def _f16(random: Random, N: int, K: int, spread: float) -> Bytes:
    values = ((np.arange(256) - 127.5) * (spread / _uniform(256))).astype("<f2")
    return np.take(values, _bytes(random, N * K)).view(np.uint8)


Draw = Callable[[Random, int, int, float], Bytes]


def spread_of_codes(weight: str) -> float:
    """Return the standard deviation of the codes drawn for a scheme's kind of weights."""
    if weight in ("ternary", "binary"):
        return float({"ternary": 0.5, "binary": 1.0}[weight] ** 0.5)
    return _uniform(2 ** int(weight.removeprefix("int")))


def of_weight(random: Random, weight: str, N: int, K: int) -> Bytes:
    """Return codes of binary or integer weights in their usual format, all codes as likely."""
    if weight == "binary":
        rows = _bytes(random, N * -(-K // 8)).reshape(N, -1)
        if K % 8:
            rows[:, -1] &= np.uint8((1 << K % 8) - 1)
        return rows.reshape(-1)
    bits = int(weight.removeprefix("int"))
    numbers = (_bytes(random, N * K) & np.uint8((1 << bits) - 1)).astype(np.int16)
    codes_NK = (numbers - (1 << (bits - 1))).astype(np.int8).reshape(N, K)
    form = pack.FORMATS[pack.USUAL[weight]]
    return form.pack(pack.Unpacked(codes_NK, np.ones((N, 1), np.float32)))


BODY: dict[str, Draw] = {"tq2_0": _tq2_0, "tq1_0": _tq1_0, "t1_6": _t1_6, "t2": _t2, "i2_s": _i2_s}
"""Formats of the body -> bytes of N x K weights with a scale."""

EMBED: dict[str, Draw] = {
    "q6_k": _q6_k,
    "q5_k": _q5_k,
    "q4_k": _q4_k,
    "q8_0": _q8_0,
    "q5_0": _q5_0,
    "q4_0": _q4_0,
    "f16": _f16,
}
"""Formats of embedding and head -> bytes of N x K weights with a standard deviation."""
