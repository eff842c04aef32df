"""The numbers that GGUF files use for types, of metadata values and of tensors.

Sources: the GGUF specification, https://github.com/ggml-org/ggml/blob/master/docs/gguf.md, and the
type tables of ggml, of Microsoft's BitNet fork and of ik_llama.cpp. The forks number their types on
their own, so a number alone does not always say what a tensor holds: 36 to 38 were once types of
ggml and are the fork's now, and 39 is in use by both.
"""

from typing import NamedTuple


class ValueType(NamedTuple):
    """A type of metadata value."""

    name: str
    code: str
    """For `struct` and NumPy, little-endian; empty for strings and arrays."""
    size_bytes: int


VALUE_TYPES = {
    0: ValueType("uint8", "B", 1),
    1: ValueType("int8", "b", 1),
    2: ValueType("uint16", "H", 2),
    3: ValueType("int16", "h", 2),
    4: ValueType("uint32", "I", 4),
    5: ValueType("int32", "i", 4),
    6: ValueType("float32", "f", 4),
    7: ValueType("bool", "?", 1),
    8: ValueType("string", "", 8),  # at least its length
    9: ValueType("array", "", 12),  # at least its type and count
    10: ValueType("uint64", "Q", 8),
    11: ValueType("int64", "q", 8),
    12: ValueType("float64", "d", 8),
}
VALUE_IDS = {kind.name: number for number, kind in VALUE_TYPES.items()}


class TensorType(NamedTuple):
    """A type of tensor: `block` values of a row take `block_bytes` bytes."""

    name: str
    block: int = 0
    """0 where the bytes are no function of the shape that we know; such a tensor is not read."""
    block_bytes: int = 0
    tail_bytes: int = 0
    """After the last block of the tensor."""

    def size_bytes(self, shape: tuple[int, ...]) -> int:
        """Return what a tensor of `shape` takes; its last width must be a multiple of `block`."""
        count = 1
        for width in shape:
            count *= width
        return count // self.block * self.block_bytes + self.tail_bytes


TENSOR_TYPES = {
    0: TensorType("f32", 1, 4),
    1: TensorType("f16", 1, 2),
    2: TensorType("q4_0", 32, 18),
    3: TensorType("q4_1", 32, 20),
    6: TensorType("q5_0", 32, 22),
    7: TensorType("q5_1", 32, 24),
    8: TensorType("q8_0", 32, 34),
    9: TensorType("q8_1", 32, 40),  # gguf 0.19: float32 scale and sum, then 32 codes
    10: TensorType("q2_k", 256, 84),
    11: TensorType("q3_k", 256, 110),
    12: TensorType("q4_k", 256, 144),
    13: TensorType("q5_k", 256, 176),
    14: TensorType("q6_k", 256, 210),
    15: TensorType("q8_k", 256, 292),
    16: TensorType("iq2_xxs", 256, 66),
    17: TensorType("iq2_xs", 256, 74),
    18: TensorType("iq3_xxs", 256, 98),
    19: TensorType("iq1_s", 256, 50),
    20: TensorType("iq4_nl", 32, 18),
    21: TensorType("iq3_s", 256, 110),
    22: TensorType("iq2_s", 256, 82),
    23: TensorType("iq4_xs", 256, 136),
    24: TensorType("i8", 1, 1),
    25: TensorType("i16", 1, 2),
    26: TensorType("i32", 1, 4),
    27: TensorType("i64", 1, 8),
    28: TensorType("f64", 1, 8),
    29: TensorType("iq1_m", 256, 56),
    30: TensorType("bf16", 1, 2),
    34: TensorType("tq1_0", 256, 54),
    35: TensorType("tq2_0", 256, 66),
    36: TensorType("i2_s", 4, 1, tail_bytes=32),  # Microsoft; ggml's old 36 is told by its size
    37: TensorType("i8_s or an old ggml type"),
    38: TensorType("tl1 or an old ggml type"),
    39: TensorType("mxfp4 or tl2"),  # ggml's and Microsoft's, of different size
    40: TensorType("nvfp4", 64, 36),
    41: TensorType("q1_0", 128, 18),
    42: TensorType("q2_0", 64, 18),  # or one of SHARED[42]
    43: TensorType("stq1_0", 256, 42),
    134: TensorType("iq1_bn"),  # ik_llama.cpp
    135: TensorType("iq2_bn"),
}
SHARED = {
    42: (
        TENSOR_TYPES[42],
        TensorType("q2_0_g128", 128, 34),  # a fork of llama.cpp
        TensorType("stq1_0", 256, 42),  # before it had a number of its own
    )
}
"""Numbers that programs gave to types of different size: the tensors' room tells which it is."""
TENSOR_IDS = {kind.name: number for number, kind in TENSOR_TYPES.items() if kind.block} | {
    "q2_0_g128": 42
}
NAMED = {kind.name: kind for kind in (*TENSOR_TYPES.values(), *SHARED[42]) if kind.block}

ALIGNMENTS = [1 << power for power in range(17)]
"""What a file may say that every tensor's offset is a multiple of."""

PLAIN = ("f32", "f16", "bf16", "f64", "i8", "i16", "i32", "i64")
READABLE = (
    *PLAIN,
    *("q4_0", "q4_1", "q5_0", "q5_1", "q8_0", "q2_k", "q3_k", "q4_k", "q5_k", "q6_k"),
    *("tq1_0", "tq2_0", "q1_0", "q2_0", "q2_0_g128", "i2_s"),
)
"""The types whose values onebit can read."""
