"""LayerNorm without weights: the norm inside a BitLinear of BitNet b1.

Shape letters: T tokens (any leading shape), K features, G parts of the features.
"""

import torch.nn.functional as F
from torch import Tensor, nn


class LayerNorm(nn.Module):
    """y = (x - mean(x)) / sqrt(var(x) + eps), in float32 whatever the input is.

    Source: BitNet, section 2.1, and section 2.3 for the parts, https://arxiv.org/abs/2310.11453
    """

    def __init__(self, eps: float, parts: int = 1) -> None:
        """Build the norm; each of the `parts` of a token has its own mean and variance."""
        super().__init__()
        self.eps = eps
        self.parts = parts

    def forward(self, x_TK: Tensor) -> Tensor:
        x_TGk = x_TK.float().reshape(*x_TK.shape[:-1], self.parts, -1)
        y_TGk = F.layer_norm(x_TGk, x_TGk.shape[-1:], eps=self.eps)
        return y_TGk.view(x_TK.shape).to(x_TK.dtype)

    def extra_repr(self) -> str:
        return f"eps={self.eps}" + (f", parts={self.parts}" if self.parts > 1 else "")
