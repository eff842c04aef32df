"""The native extension: csrc/module.cpp, which checks its arguments and frees the GIL.

Wrong arguments raise ValueError; kernels/ops.py and runtime/ turn what a user can cause into
OnebitError before it gets here.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

def isas() -> list[str]:
    """Instruction sets that run on this CPU and OS, best first; ends with "scalar"."""

def active_isa() -> str:
    """The one in use: ONEBIT_ISA, read at every call, or the best.

    ValueError if ONEBIT_ISA names one that does not run here.
    """

def set_threads(n: int) -> None: ...
def threads() -> int: ...
def default_threads(root: str = "") -> int:
    """The CPUs that this process may use: its affinity mask, and its control groups' quotas.

    `root` stands before the names of the system's files in /proc and /sys, for tests.
    """

def available_memory(root: str = "") -> int:
    """Bytes left on the machine and in the control groups of this process."""

def measure_read_bandwidth(threads: int, bytes: int, time_s: float) -> float:
    """Bytes per second that the threads read together, each a sequential stream of its own."""

def measure_int8_peak(threads: int, time_s: float) -> float:
    """Multiplications and additions of int8 per second, operands in registers; 0 for "scalar"."""

class Matrix:
    """Weights repacked once for the kernels: 16 rows in lanes, padded with zeros to whole tiles."""

    @staticmethod
    def from_codes(
        layout: str,  # "t2", "t1_6" (-1..1), "b1" (-1, 1), "i4", "i6" (16 or 64 in a row), "i8"
        codes_NK: NDArray[np.int8],
        # G divides K; G == 1, or K // G a multiple of 16 (b1: 32; t1_6: G == 1)
        scale_NG: NDArray[np.float32],
        minimum_NG: NDArray[np.float32] | None = None,
    ) -> Matrix: ...
    @staticmethod
    def from_stored(
        format: str,  # a key of pack.FORMATS
        data: NDArray[np.uint8],
        rows: int,
        columns: int,
        scale_NG: NDArray[np.float32] | None = None,  # where the format holds none
        ternary: str = "t2",  # or "t1_6", for codes -1..1 with one scale a row
        minimum_NG: NDArray[np.float32] | None = None,  # as there are scales
        zero_NG: NDArray[np.int8] | None = None,  # where the minimum is -zero * scale
    ) -> Matrix | None:
        """In the narrowest layout that holds the codes; None where the bytes are damaged."""

    @staticmethod
    def from_floats(values_NK: NDArray[Any]) -> Matrix:
        """float32 or float16 as they are; bfloat16 as uint16 bits."""

    @property
    def layout(self) -> str: ...
    @property
    def shape(self) -> tuple[int, int]: ...
    @property
    def size_bytes(self) -> int: ...
    def rows(self, index_T: NDArray[np.int32]) -> NDArray[np.float32]:
        """Dequantized rows, (T, K): the embedding lookup."""

def settle_weights(delay_s: float) -> None:
    """Move all matrices so far to large pages, in a background thread that begins after a delay."""

def faster_ternary(data: NDArray[np.uint8]) -> str:
    """ "t2" or "t1_6", whichever multiplies faster here with the threads that are set: some
    milliseconds on 64 MB of any bytes, taken for weights. With fewer, "t2"."""

def quantize_i8(
    x_TK: NDArray[np.float32], block: int
) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Absmax int8: codes (T, K) and scale (T, B).

    block 0: a scale per row (B = 1); else a scale for each `block` columns, the last perhaps fewer.
    scale = m / 127 is what multiplies, with m = max(absmax, 1e-5);
    codes = round_half_even(x * (127 / m)).
    """

def quantize(
    x_TK: NDArray[np.float32],
    activation: str,
    parts: int = 1,
    input_scale: float = 0.0,
    input_zero: int = 0,
) -> tuple[NDArray[np.int8], NDArray[np.float32], NDArray[np.float32] | None]:
    """Codes (T, K) by any rule but "fp"; scale and, for some rules, minimum (T, parts). The last
    two are of the static rules."""

def layer_norm(x_TK: NDArray[np.float32], eps: float, parts: int = 1) -> NDArray[np.float32]:
    """LayerNorm without weights, of each of the parts of a row."""

def int_sums(w: Matrix, x_TK: NDArray[np.int8]) -> NDArray[np.int32]:
    """(T, N): sum over k of code * x, exact. For layouts of codes only; scales are not applied."""

def linear(
    w: Matrix,
    x_TK: NDArray[np.float32],
    activation: str,
    parts: int = 1,
    input_scale: float = 0.0,
    input_zero: int = 0,
    planes: int = 1,
) -> NDArray[np.float32]:
    """(T, N). activation: a rule of csrc/activation.cpp; "fp" is float for float layouts, and for
    codes two terms of int8 in blocks of 32, "fp_int8" one of them. parts: see csrc/linear.h; each a
    multiple of 32 columns."""

def time_products(matrices: Sequence[Matrix], x_TK: NDArray[np.float32], activation: str) -> float:
    """Seconds of one pass over matrices, each times x_TK: the products alone, without rounding x.

    Many large matrices are read from memory, one small one in turn from a cache.
    """

def exp(x_N: NDArray[np.float32]) -> NDArray[np.float32]:
    """The exponential that attention and SiLU use; the same bits on every instruction set."""

def hadamard(
    x_TK: NDArray[np.float32],
    signs: NDArray[np.float32] | None = None,  # [K] of 1 and -1
    transpose: bool = False,
) -> NDArray[np.float32]:
    """The orthonormal Hadamard transform of each row, H diag(signs) x; csrc/hadamard.h says which H
    for which K. transpose: diag(signs) H^T x, which undoes it."""

def f32_to_f16(x_N: NDArray[np.float32]) -> NDArray[np.uint16]:
    """Bits of IEEE half precision, rounded to nearest even."""

def f16_to_f32(x_N: NDArray[np.uint16]) -> NDArray[np.float32]: ...

class TokenCodes:
    """The int8 codes of an input of a training step, in the order in which products read them.

    Floats are float32, or the bits of bfloat16 as uint16. At most `threads` threads are used, and
    never more than `set_threads` has given the kernels.
    """

    @staticmethod
    def quantize(
        x_TK: NDArray[Any], codes_TK: NDArray[np.int8], scale_T: NDArray[np.float32], threads: int
    ) -> TokenCodes:
        """By "int8_absmax", to the integers of `quantize_i8`; codes and scale are written as well.

        A token with a NaN or an infinity has a NaN for a scale.
        """

    @staticmethod
    def of_codes(
        codes_TK: NDArray[np.int8], scale_T: NDArray[np.float32], threads: int
    ) -> TokenCodes: ...
    def product(self, w: Matrix, y_TN: NDArray[Any], threads: int) -> None:
        """y = sums of codes * (scale of the token * scale of the row), rounded once to y's dtype.

        The matrix has codes, not in layout "t1_6", one scale a row, and no minimum.
        """

def ternarize(
    w_NK: NDArray[np.float32],
    scale: NDArray[np.float32],  # one number, or N
    codes_NK: NDArray[np.int8],  # written: round(w * (1 / scale)) within -1..1
    threads: int,
) -> Matrix: ...
def dequantize_rows(
    codes: NDArray[np.int8],
    scale: NDArray[np.float32],  # one number, or one for each row
    y: NDArray[Any],  # written: codes * scale, float32 or the bits of bfloat16 as uint16
    threads: int,
) -> None: ...
def rms_norm(
    x_TK: NDArray[Any],
    w_K: NDArray[np.float32],
    eps: float,
    y_TK: NDArray[Any],  # written: x * r * w, of x's dtype
    r_T: NDArray[np.float32],  # written: 1 / sqrt(mean(x^2) + eps)
    threads: int,
) -> None: ...
def rms_norm_backward(
    x_TK: NDArray[Any],
    w_K: NDArray[np.float32],
    r_T: NDArray[np.float32],
    dy_TK: NDArray[Any],  # of x's dtype
    dx_TK: NDArray[Any],  # written, of x's dtype
    dw_K: NDArray[np.float32],  # written
    threads: int,
) -> None: ...
def recurrence(
    f_BTD: NDArray[np.float32],
    i_BTD: NDArray[np.float32],
    h0_BD: NDArray[np.float32] | None,  # zeros
    h_BTD: NDArray[np.float32],  # written
    last_BD: NDArray[np.float32],  # written
    threads: int,
) -> None: ...
def recurrence_backward(
    f_BTD: NDArray[np.float32],
    h_BTD: NDArray[np.float32],
    h0_BD: NDArray[np.float32] | None,  # zeros
    dh_BTD: NDArray[np.float32] | None,  # zeros
    dlast_BD: NDArray[np.float32] | None,  # zeros
    df_BTD: NDArray[np.float32],  # written
    di_BTD: NDArray[np.float32],  # written
    dh0_BD: NDArray[np.float32] | None,  # written, where it is given
    threads: int,
) -> None: ...
def round_to_blocks(
    format: str,  # a key of quant.blockwise.FORMATS or TERNARY
    w_NK: NDArray[np.float32],
    h_K: NDArray[np.float32] | None,  # importance of columns, above 0
    codes_NK: NDArray[np.int8],  # written
    scale_NG: NDArray[np.float32],  # written
    minimum_NG: NDArray[np.float32] | None,  # written, where the format has one
    threads: int,
) -> None: ...
def round_columns(
    w_bN: NDArray[np.float32],  # at most 256 columns
    U_bb: NDArray[np.float32],
    scale_GN: NDArray[np.float32],
    zero_GN: NDArray[np.float32],
    group_b: NDArray[np.int32],
    low: float,
    high: float,
    codes_bN: NDArray[np.float32],  # written
    error_bN: NDArray[np.float32],  # written
    threads: int,
) -> None: ...
def sweep_columns(
    value_bN: NDArray[np.float32],  # at most 256 columns; changed
    pull_bN: NDArray[np.float32],
    A_bb: NDArray[np.float32],
    inverse_diagonal_b: NDArray[np.float32],
    scale_GN: NDArray[np.float32],
    inverse_GN: NDArray[np.float32],
    zero_GN: NDArray[np.float32],
    group_b: NDArray[np.int32],
    low: float,
    high: float,
    change_bN: NDArray[np.float32],  # written
    threads: int,
) -> None: ...

class Memory:
    """What a decoder remembers of one sequence."""

    length: int  # tokens taken in; may be set lower, to forget the newest
    @property
    def capacity(self) -> int: ...
    @property
    def size_bytes(self) -> int: ...
    def copy_prefix(self, from_cache: Memory, n: int) -> None:
        """Hold the first n tokens of another memory of the same decoder and kind, only."""

class Cache(Memory):
    """Keys and values."""

    @property
    def kv_bits(self) -> int: ...

class State(Memory):
    """A vector per layer, of a size that does not depend on the tokens.

    Its length can be set to 0 and to what it is; it is copied whole or not at all.
    """

class Attention:
    """One layer's attention by itself, on one thread, for tests and measurements."""

    def __init__(
        self,
        heads: int,
        kv_heads: int,
        head_dim: int,
        capacity: int,
        kv_bits: int,
        window: int = 0,  # newest positions that a query sees; 0 for all
    ) -> None: ...
    @property
    def size_bytes(self) -> int: ...
    def write(self, k_THD: NDArray[np.float32], v_THD: NDArray[np.float32]) -> None:
        """Append T positions, of kv_heads heads."""

    def attend(self, q_THD: NDArray[np.float32]) -> NDArray[np.float32]:
        """The T newest positions in `heads` heads, each seeing itself and all before it."""

class Decoder:
    """The forward pass of the llama, bitnet and gemma families, and of the MatMul-free LM."""

    def __init__(self, architecture: Mapping[str, Any]) -> None:
        """Fields as in onebit.Architecture, with `inv_freq` and, where there is a window,
        `local_inv_freq`, float32 [head_dim / 2], in place of the rope ones; `embedding_scale`; and
        `q_bits`: 16, or 8, 4 or 3 to which a head's query is rounded. `Architecture.native` has
        all but the last. Where `recurrent` is true, `mlgru` and `lower_bounds` are read and none of
        those of attention."""

    def set_matrix(
        self,
        name: str,  # "model.embed_tokens", "lm_head", "model.layers.3.self_attn.q_proj", ...
        matrix: Matrix,
        activation: str = "fp",  # "int8_absmax_tensor" is taken per token here, as "int8_absmax"
        norm: NDArray[np.float32] | None = None,  # [K], RMSNorm inside the layer
        bias: NDArray[np.float32] | None = None,  # [N]
        # [K], 1 and -1: turn the input by H diag(hadamard), after its norm
        hadamard: NDArray[np.float32] | None = None,
        layer_norm: bool = False,  # LayerNorm without weights inside the layer
        parts: int = 1,  # of the columns, each with its own norm and activation scale
        input_scale: float = 0.0,  # of a static activation
        input_zero: int = 0,
        planes: int = 1,  # of trits side by side: the matrix has so many times the columns
    ) -> None: ...
    def set_norm(self, name: str, weight: NDArray[np.float32]) -> None:
        """`name`: "model.norm", "model.layers.3.input_layernorm", "...post_attention_layernorm",
        "...pre_feedforward_layernorm", "...post_feedforward_layernorm",
        "...self_attn.q_norm", "...k_norm", "...attn_sub_norm", "...mlp.ffn_sub_norm";
        "...self_attn.temperature", one for each head. Of a recurrent model: "...attn_norm",
        "...attn.g_norm", "...mlp_norm"; "...attn.lower_bound", of its forget gate, ready to use."""

    def finish(self) -> None:
        """Check that every part is there with the right shape. ValueError names the missing one."""

    def new_cache(self, capacity: int, kv_bits: int) -> Memory:
        """A Cache of kv_bits 32, 16, 8, 4 or 3; a State of a recurrent model, whatever is asked."""

    def forward(
        self, tokens_T: NDArray[np.int32], cache: Memory, logits: str
    ) -> NDArray[np.float32]:
        """Append the tokens to the cache. logits: "last" (1, V), "all" (T, V) or "none" (0, V).

        `step` with one sequence.
        """

    def step(
        self, caches: Sequence[Memory], tokens: Sequence[NDArray[np.int32]], logits: Sequence[str]
    ) -> NDArray[np.float32]:
        """Every sequence appends its tokens, one or many, to its own cache, in one pass over the
        weights. Returns the rows of logits that are wanted, sequence after sequence, (R, V): "last"
        one row, "all" one per token, "none" none. Bits do not depend on the other sequences.

        ValueError for a token id out of range, a full cache, another decoder's cache or a cache
        given twice; all caches then hold what they held. Threads may share a decoder: their calls
        take turns.
        """
