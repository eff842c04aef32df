"""Codes <-> bytes, in NumPy, for every format we read or write.

A format turns integer codes into bytes and back; nothing here rounds a weight. Whatever the bytes
look like, they unpack to the same three arrays, and the weights are

    value = code * scale          (+ minimum, for the formats that have one)

    FORMATS["t1_6"].pack(Unpacked(codes_NK, scale_NG))      -> bytes
    FORMATS["t1_6"].unpack(data, (N, K), scale)             -> Unpacked
    decode("q4_k", data, (N, K))                            -> float32 weights

Shape letters: N rows (out features), K columns (in features), G groups of a row that share a scale.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from onebit.errors import InputError, OptionError
from onebit.pack import plain
from onebit.pack.b1 import B1
from onebit.pack.format import CHUNK, Bytes, Format, slices
from onebit.pack.ggml.few_bits import Q1_0, Q2_0, Q2_0_G128
from onebit.pack.ggml.k_quants import Q2_K, Q3_K, Q4_K, Q5_K, Q6_K
from onebit.pack.ggml.simple import Q4_0, Q4_1, Q5_0, Q5_1, Q8_0
from onebit.pack.ggml.ternary import TQ1_0, TQ2_0
from onebit.pack.hf_2bit import HF_2BIT
from onebit.pack.i2 import I2
from onebit.pack.i2_s import I2_S
from onebit.pack.i3 import I3
from onebit.pack.i4 import I4
from onebit.pack.i5 import I5
from onebit.pack.i6 import I6
from onebit.pack.i7 import I7
from onebit.pack.i8 import I8
from onebit.pack.t1_6 import T1_6
from onebit.pack.t2 import T2
from onebit.pack.unpacked import Unpacked

__all__ = ["FORMATS", "INTEGERS", "USUAL", "Format", "Unpacked", "decode", "find"]

FORMATS: dict[str, Format] = {
    # ours: the scale is stored apart, any width
    "t2": T2(),
    "t1_6": T1_6(),
    "b1": B1(),
    "i2": I2(),
    "i3": I3(),
    "i4": I4(),
    "i5": I5(),
    "i6": I6(),
    "i7": I7(),
    "i8": I8(),
    # ggml, in GGUF files
    "tq1_0": TQ1_0(),
    "tq2_0": TQ2_0(),
    "q1_0": Q1_0(),
    "q2_0": Q2_0(),
    "q2_0_g128": Q2_0_G128(),
    "q4_0": Q4_0(),
    "q4_1": Q4_1(),
    "q5_0": Q5_0(),
    "q5_1": Q5_1(),
    "q8_0": Q8_0(),
    "q2_k": Q2_K(),
    "q3_k": Q3_K(),
    "q4_k": Q4_K(),
    "q5_k": Q5_K(),
    "q6_k": Q6_K(),
    # Microsoft's bitnet.cpp, in GGUF files
    "i2_s": I2_S(),
    # Hugging Face transformers, in safetensors files
    "hf_2bit": HF_2BIT(),
}
USUAL = {
    **{"ternary": "t1_6", "ternary2": "t1_6", "binary": "b1"},
    **{f"int{bits}": f"i{bits}" for bits in range(2, 9)},
}
"""Weights of a scheme -> the format that holds their codes in the fewest bits."""
INTEGERS = tuple(f"i{bits}" for bits in range(2, 9))
"""The formats of integers, narrowest first: each holds what those before it hold."""


def find(name: str) -> Format:
    """Return the format called `name`.

    Raises:
        OptionError: there is none.
    """
    if name not in FORMATS:
        raise OptionError(f"{name!r} is not a format of codes. Known: {', '.join(FORMATS)}.")
    return FORMATS[name]


def decode(
    format: str,
    data: Bytes,
    shape: tuple[int, ...],
    scale: ArrayLike | None = None,
    minimum: ArrayLike | None = None,
    zero: Bytes | None = None,
) -> NDArray[np.float32]:
    """Return the float32 weights that the bytes of a format, or plain floats, stand for.

    Args:
        format: a key of `FORMATS`, or "f32", "f16", "bf16", "f64".
        data: the bytes, uint8, 1-D.
        shape: (N, K); any shape for the floats.
        scale, minimum, zero: as for `Format.unpack`; not for the floats.

    Raises:
        OptionError: the format is unknown.
        ShapeError, FormatError, InputError: as `Format.unpack`.
    """
    if format in plain.SIZE_BYTES:
        if scale is not None or minimum is not None or zero is not None:
            raise InputError(f"{format}: floats take no scale, and one was given. Pass None.")
        return plain.decode(format, data, shape)
    codes_NK, scale_NG, minimum_NG = find(format).unpack(data, shape, scale, minimum, zero)
    w_NK = np.empty(codes_NK.shape, np.float32)
    for rows in slices(len(w_NK), max(1, CHUNK // codes_NK.shape[1])):  # few temporaries
        low = None if minimum_NG is None else minimum_NG[rows]
        w_NK[rows] = Unpacked(codes_NK[rows], scale_NG[rows], low).values()
    return w_NK
