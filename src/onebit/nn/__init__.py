"""Layers: what a model is built from, in torch."""

from onebit.nn.attention import Attention
from onebit.nn.bitlinear import BitLinear
from onebit.nn.convert import attentions, bit_linears, convert, pack_linears, unfreeze
from onebit.nn.glu import GLU, FusedGLU
from onebit.nn.hbitlinear import HBitLinear
from onebit.nn.layer_norm import LayerNorm
from onebit.nn.mlgru import MLGRU
from onebit.nn.notes import notes
from onebit.nn.packed_linear import PackedLinear
from onebit.nn.recording import mean_bits, record, score_ranges, zero_share
from onebit.nn.rms_norm import RMSNorm
from onebit.nn.rope import Rope, Rotation, rotate

__all__ = [
    "GLU",
    "MLGRU",
    "Attention",
    "BitLinear",
    "FusedGLU",
    "HBitLinear",
    "LayerNorm",
    "PackedLinear",
    "RMSNorm",
    "Rope",
    "Rotation",
    "attentions",
    "bit_linears",
    "convert",
    "mean_bits",
    "notes",
    "pack_linears",
    "record",
    "rotate",
    "score_ranges",
    "unfreeze",
    "zero_share",
]
