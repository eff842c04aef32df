"""Kernels are named by what they do: `gemv_t2_i8` multiplies ternary weights with int8 inputs.

The grammar is <op>_<weights>_<activations>; the instruction set is the file, not the name.
"""

import re
from pathlib import Path

CSRC = Path(__file__).parents[2] / "csrc"
PRODUCT = re.compile(r"(gemv|gemm)_(t2|t1_6|b1|i4|i6|i8|f32|f16|bf16)_(i8|f32)")
ISAS = (
    "scalar",
    "avx2",
    "avx_vnni",
    "avx512_vnni",
    "avx512_vbmi",
    "neon_dotprod",
    "neon_i8mm",
)


def table():
    """The names in `struct Ops`: (products, other operations)."""
    ops = (CSRC / "ops.h").read_text("utf-8")
    body = re.sub(r"//.*", "", ops[ops.index("struct Ops {") : ops.index("extern const Ops")])
    products = [n for line in re.findall(r"ProductFn ([^;]+);", body) for n in line.split(", ")]
    return products, re.findall(r"\(\*(\w+)\)", body)


def test_products_follow_the_grammar():
    products, _ = table()
    assert [name for name in products if not PRODUCT.fullmatch(name)] == []
    assert len(products) == len(set(products)) > 5
    by_op = {op: {n[5:] for n in products if n.startswith(op)} for op in ("gemv", "gemm")}
    assert by_op["gemv"] == by_op["gemm"]  # one token and many, for each pair of types


def test_the_instruction_set_is_the_file_and_not_the_name():
    products, others = table()
    assert all((CSRC / f"{isa}.cpp").is_file() for isa in ISAS)
    assert [n for n in products + others if re.search(r"scalar|avx|vnni|sse|neon", n)] == []
    assert len(others) > 10
