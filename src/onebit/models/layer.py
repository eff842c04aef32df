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
        x_BTC = self.after_attention(x_BTC, self.self_attn(self.attention_input(x_BTC), rotation))
        return self.after_mlp(x_BTC, self.mlp(self.mlp_input(x_BTC)))

    # The steps between the parts, for `forward` and for whoever goes from linear to linear.

    def attention_input(self, x_BTC: Tensor) -> Tensor:
        """Return what attention is given of the stream."""
        return normalized(x_BTC, self.input_layernorm)

    def after_attention(self, x_BTC: Tensor, y_BTC: Tensor) -> Tensor:
        """Return the stream with what attention gave."""
        return x_BTC + y_BTC

    def mlp_input(self, x_BTC: Tensor) -> Tensor:
        """Return what the feed-forward layer is given of the stream."""
        return normalized(x_BTC, self.post_attention_layernorm)

    def after_mlp(self, x_BTC: Tensor, y_BTC: Tensor) -> Tensor:
        """Return the stream with what the feed-forward layer gave."""
        return x_BTC + y_BTC


def normalized(x_BTC: Tensor, norm: RMSNorm | None) -> Tensor:
    """Return norm(x), or x where there is no norm."""
    if norm is None:
        return x_BTC
    y: Tensor = norm(x_BTC)
    return y
