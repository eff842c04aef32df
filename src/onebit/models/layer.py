"""One layer of a decoder: x + attention(norm(x)), then x + feed-forward(norm(x)).

The two norms are missing where every linear layer has its own inside.
"""

from torch import Tensor, nn

from onebit.nn import GLU, Attention, RMSNorm, Rotation


class Layer(nn.Module):
    """Module names are Hugging Face's."""

    def __init__(
        self, width: int, eps: float, attention: Attention, mlp: GLU, pre_norms: bool = True
    ) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(width, eps) if pre_norms else None
        self.self_attn = attention
        self.post_attention_layernorm = RMSNorm(width, eps) if pre_norms else None
        self.mlp = mlp

    def forward(self, x_BTC: Tensor, rotation: Rotation) -> Tensor:
        x_BTC = x_BTC + self.self_attn(_normalized(x_BTC, self.input_layernorm), rotation)
        y: Tensor = x_BTC + self.mlp(_normalized(x_BTC, self.post_attention_layernorm))
        return y


def _normalized(x_BTC: Tensor, norm: RMSNorm | None) -> Tensor:
    return x_BTC if norm is None else norm(x_BTC)
