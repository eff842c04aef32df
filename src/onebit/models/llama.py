"""The llama family: Llama, and Qwen 2 (biases on q, k, v) and Qwen 3 (norms on q and k).

Sources: https://arxiv.org/abs/2302.13971, https://arxiv.org/abs/2407.10671,
https://arxiv.org/abs/2505.09388
"""

from onebit.architecture import Architecture
from onebit.models.layer import Layer
from onebit.nn import GLU, Attention


def layer(a: Architecture, index: int) -> Layer:
    """Return one layer, with the biases and norms that the architecture names; all are alike."""
    return Layer(a.hidden_size, a.rms_norm_eps, attention(a), glu(a), a.pre_norms)


def attention(a: Architecture, window: int = 0) -> Attention:
    """Return the attention of a layer that sees the last `window` tokens, or all of them."""
    return Attention(
        a.hidden_size,
        a.num_attention_heads,
        a.num_key_value_heads,
        a.head_dim,
        eps=a.rms_norm_eps,
        qkv_bias=a.qkv_bias,
        out_bias=a.out_bias,
        qk_norm=a.qk_norm,
        sub_norm=a.sub_norms,
        temperature=a.softmax_temperature,
        learned_temperature=a.learned_temperature,
        window=window,
    )


def glu(a: Architecture) -> GLU:
    """Return the feed-forward part of a layer."""
    return GLU(
        a.hidden_size,
        a.intermediate_size,
        activation=a.hidden_act,
        eps=a.rms_norm_eps,
        bias=a.mlp_bias,
        sub_norm=a.sub_norms,
    )
