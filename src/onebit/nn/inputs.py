"""What a BitLinear does to its input before it multiplies: norm, Hadamard turn, rounding.

Shape letters: T tokens (any leading shape), K features, G parts of the features.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from onebit.nn import hadamard
from onebit.nn.layer_norm import LayerNorm
from onebit.nn.rms_norm import RMSNorm
from onebit.quant import activation, straight_through
from onebit.quant.activation import Activations, Static
from onebit.scheme import LinearScheme


@dataclass
class BitCount:
    """How wide a layer with an activation "dynamic:R" rounded its inputs."""

    inputs: int = 0
    """Tokens so far; the parts of one count each."""
    wide: int = 0
    """Those of them that took 8 bits."""

    @property
    def mean_bits(self) -> float:
        """4 where all took 4 bits, 8 where all took 8; nan before the first."""
        return 4 + 4 * self.wide / self.inputs if self.inputs else float("nan")

    def add(self, x_TK: Tensor, scheme: LinearScheme) -> None:
        """Count the tokens of one input."""
        wide_TG = activation.takes_8_bits(x_TK, scheme.activation, parts_of(scheme))
        self.inputs += wide_TG.numel()
        self.wide += int(wide_TG.sum())


def parts_of(scheme: LinearScheme) -> int:
    """Return the parts into which the scheme cuts the input; a cut by rows leaves it whole."""
    return scheme.parts if scheme.split.startswith("in") else 1


def turned(x_TK: Tensor, norm: RMSNorm | LayerNorm | None, scheme: LinearScheme) -> Tensor:
    """Return the input behind the norm inside the layer and the Hadamard turn, as it is rounded."""
    x_TK = normalized(x_TK, norm, parts_of(scheme))
    return x_TK if scheme.hadamard == "none" else hadamard.turn(x_TK, scheme.signs)


def normalized(x_TK: Tensor, norm: RMSNorm | LayerNorm | None, parts: int) -> Tensor:
    """Return the input after the norm; each part of a token by itself."""
    if norm is None:
        return x_TK
    if isinstance(norm, LayerNorm) or parts == 1:
        y: Tensor = norm(x_TK)
        return y
    x_TGk = x_TK.float().reshape(*x_TK.shape[:-1], parts, -1)
    y_TGk = F.rms_norm(x_TGk, x_TGk.shape[-1:], eps=norm.eps)
    return (y_TGk.view(x_TK.shape) * norm.weight.float()).to(x_TK.dtype)


def rounded(
    x_TK: Tensor, scheme: LinearScheme, training: bool, static: Static | None = None
) -> Activations:
    """Return codes and scale of a turned input, the codes in float32.

    The rules of BitNet b1 and "int8_absmax_tensor" share one scale among all tokens while training,
    and give each its own afterwards, so that what a token gets does not depend on what comes later.
    `static` are the layer's own factors, where its activation is static.
    """
    parts = parts_of(scheme)
    return activation.rounded(x_TK, scheme.activation, parts, not training, static)


def values(x_TK: Tensor, a: Activations, blend: float) -> Tensor:
    """Return x + blend (x_hat - x), with the gradient of x; x_hat has the values of the codes."""
    x_hat_TK = straight_through(x_TK, activation.dequantize(a).to(x_TK.dtype))
    return x_hat_TK if blend == 1 else torch.lerp(x_TK, x_hat_TK, blend)
