"""RMSNorm: divide each token by its root mean square.

Shape letters: T tokens (any leading shape), K features.
"""

import torch
from torch import Tensor, nn


class RMSNorm(nn.Module):
    """y = (x * (1 / sqrt(mean(x^2) + eps))) * weight, in float32 whatever the input is.

    Source: Zhang and Sennrich, equation 4, https://arxiv.org/abs/1910.07467
    """

    def __init__(self, features: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(features))

    def forward(self, x_TK: Tensor) -> Tensor:
        x = x_TK.float()
        y = x * (x.square().mean(dim=-1, keepdim=True) + self.eps).rsqrt() * self.weight
        return y.to(x_TK.dtype)

    def extra_repr(self) -> str:
        return f"{self.weight.numel()}, eps={self.eps}"
