"""One layer of a decoder: x + attention(norm(x)), then x + feed-forward(norm(x))."""

from torch import Tensor, nn

from onebit.nn import GLU, Attention, RMSNorm, Rotation


class Layer(nn.Module):
    """Module names are Hugging Face's."""

    def __init__(self, width: int, eps: float, attention: Attention, mlp: GLU) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(width, eps)
        self.self_attn = attention
        self.post_attention_layernorm = RMSNorm(width, eps)
        self.mlp = mlp

    def forward(self, x_BTC: Tensor, rotation: Rotation) -> Tensor:
        x_BTC = x_BTC + self.self_attn(self.input_layernorm(x_BTC), rotation)
        y: Tensor = x_BTC + self.mlp(self.post_attention_layernorm(x_BTC))
        return y
