"""HBitLinear: the BitLinear of BitNet v2, which turns its input before it rounds it."""

import torch

from onebit.nn.bitlinear import BitLinear
from onebit.scheme import LinearScheme

V2 = LinearScheme("ternary", activation="int8_absmax", norm="rms", hadamard="input")
"""The first stage of BitNet v2; the second has activation "int4_absmean"."""


class HBitLinear(BitLinear):
    """y = Q(W) Q(Hadamard(norm(x))), in the place of the attention output and down projections.

    A BitLinear, with another scheme where none is named. Large values of the input are spread over
    all columns by an orthonormal Hadamard matrix, so that 4 bits hold them.

    Source: BitNet v2, section 2, https://arxiv.org/abs/2504.18415
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = False,
        scheme: LinearScheme = V2,
        eps: float = 1e-5,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        """Build the layer; arguments and errors as `BitLinear`."""
        super().__init__(in_features, out_features, bias, scheme, eps, device, dtype)
