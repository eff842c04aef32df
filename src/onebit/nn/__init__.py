"""Layers: what a model is built from, in torch."""

from onebit.nn.attention import Attention
from onebit.nn.bitlinear import BitLinear
from onebit.nn.convert import bit_linears, convert, pack_linears, unfreeze
from onebit.nn.glu import GLU
from onebit.nn.packed_linear import PackedLinear
from onebit.nn.rms_norm import RMSNorm
from onebit.nn.rope import Rope, Rotation, rotate

__all__ = [
    "GLU",
    "Attention",
    "BitLinear",
    "PackedLinear",
    "RMSNorm",
    "Rope",
    "Rotation",
    "bit_linears",
    "convert",
    "pack_linears",
    "rotate",
    "unfreeze",
]
