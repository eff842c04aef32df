"""The text models of Gemma 3: Qwen 3 with two more norms, GELU, and layers that see a window.

Of every six layers five see the last 512 tokens or so and turn positions by a base of their own;
the sixth sees all tokens. Embeddings are tied, and multiplied by sqrt(hidden_size) on their way in.
Hugging Face's norms multiply by 1 + weight; here the weight is what multiplies, as in GGUF, and
`io` turns them.

Source: Gemma 3 Technical Report, section 2, https://arxiv.org/abs/2503.19786; transformers,
`modeling_gemma3.py`.
"""

from torch import Tensor

from onebit.architecture import Architecture
from onebit.models import llama
from onebit.models.layer import Layer, normalized
from onebit.nn import GLU, Attention, RMSNorm


class Gemma3Layer(Layer):
    """x + norm(attention(norm(x))), then x + norm(feed-forward(norm(x)))."""

    def __init__(
        self, width: int, eps: float, attention: Attention, mlp: GLU, pre_norms: bool = True
    ) -> None:
        super().__init__(width, eps, attention, mlp, pre_norms)
        self.post_attention_layernorm = RMSNorm(width, eps)
        self.pre_feedforward_layernorm = RMSNorm(width, eps) if pre_norms else None
        self.post_feedforward_layernorm = RMSNorm(width, eps)

    def after_attention(self, x_BTC: Tensor, y_BTC: Tensor) -> Tensor:
        return super().after_attention(x_BTC, normalized(y_BTC, self.post_attention_layernorm))

    def mlp_input(self, x_BTC: Tensor) -> Tensor:
        return normalized(x_BTC, self.pre_feedforward_layernorm)

    def after_mlp(self, x_BTC: Tensor, y_BTC: Tensor) -> Tensor:
        return super().after_mlp(x_BTC, self.post_feedforward_layernorm(y_BTC))


def layer(a: Architecture, index: int) -> Layer:
    """Return layer `index`, with its window if it is a local one."""
    attention = llama.attention(a, a.sliding_window if a.is_local(index) else 0)
    return Gemma3Layer(a.hidden_size, a.rms_norm_eps, attention, llama.glu(a), a.pre_norms)
