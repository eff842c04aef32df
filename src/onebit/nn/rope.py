"""Rotary position embedding: each pair of a head's values is turned by an angle that grows with
the position.

Value i is paired with value i + D/2 ("rotate half", the order of Hugging Face and of GPT-NeoX).

Shape letters: B batch, T tokens, H heads, D values of a head, P = D/2 pairs.
"""

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn


class Rotation(NamedTuple):
    """The turns of T positions, to be applied to any number of heads."""

    cos_TP: Tensor
    sin_TP: Tensor


class Rope(nn.Module):
    """Makes the `Rotation` of positions 0 ... T-1 from the frequencies of an `Architecture`.

    Source: RoFormer, equation 34, https://arxiv.org/abs/2104.09864
    """

    inv_freq_P: Tensor

    def __init__(self, inv_freq: NDArray[np.float32]) -> None:
        super().__init__()
        self.register_buffer("inv_freq_P", torch.from_numpy(inv_freq), persistent=False)

    def forward(self, tokens: int) -> Rotation:
        # float32 to the end: a bf16 angle is off by whole turns at position 1000
        inv_freq_P = self.inv_freq_P.float()
        position_T = torch.arange(tokens, device=inv_freq_P.device, dtype=torch.float32)
        angle_TP = position_T[:, None] * inv_freq_P
        return Rotation(angle_TP.cos(), angle_TP.sin())


def rotate(x_BTHD: Tensor, by: Rotation) -> Tensor:
    """Turn every head's pairs by their position's angles."""
    cos_T1P, sin_T1P = by.cos_TP[:, None], by.sin_TP[:, None]
    first, second = x_BTHD.chunk(2, dim=-1)
    turned = (first * cos_T1P - second * sin_T1P, second * cos_T1P + first * sin_T1P)
    return torch.cat(turned, dim=-1).to(x_BTHD.dtype)
