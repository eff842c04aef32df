"""Causal self-attention with grouped keys and values.

Only the four projections are ever quantized (they are nn.Linear here; `convert` swaps them). The
scores, the softmax and the sum over values stay in float.

Shape letters: B batch, T tokens, C model width, H query heads, J key/value heads (J divides H),
D values of a head.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from onebit.nn.rms_norm import RMSNorm
from onebit.nn.rope import Rotation, rotate


class Attention(nn.Module):
    """Module names are Hugging Face's: q_proj ... o_proj, q_norm, k_norm, attn_sub_norm."""

    def __init__(
        self,
        width: int,
        heads: int,
        kv_heads: int,
        head_dim: int,
        *,
        eps: float,
        qkv_bias: bool = False,
        out_bias: bool = False,
        qk_norm: bool = False,
        sub_norm: bool = False,
    ) -> None:
        """Build the layer.

        Args:
            width: C; `heads` H, `kv_heads` J, `head_dim` D.
            eps: of the norms, if any.
            qkv_bias: whether q, k and v have biases; `out_bias` whether the output has.
            qk_norm: RMSNorm over each head of q and k, before the rotation (Qwen 3).
            sub_norm: RMSNorm before the output projection (SubLN, BitNet 2B4T).
        """
        super().__init__()
        self.head_dim = head_dim
        self.q_proj = nn.Linear(width, heads * head_dim, qkv_bias)
        self.k_proj = nn.Linear(width, kv_heads * head_dim, qkv_bias)
        self.v_proj = nn.Linear(width, kv_heads * head_dim, qkv_bias)
        self.o_proj = nn.Linear(heads * head_dim, width, out_bias)
        self.q_norm = RMSNorm(head_dim, eps) if qk_norm else None
        self.k_norm = RMSNorm(head_dim, eps) if qk_norm else None
        self.attn_sub_norm = RMSNorm(heads * head_dim, eps) if sub_norm else None

    def forward(self, x_BTC: Tensor, rotation: Rotation) -> Tensor:
        B, T, _ = x_BTC.shape
        q_BTHD = self.q_proj(x_BTC).view(B, T, -1, self.head_dim)
        k_BTJD = self.k_proj(x_BTC).view(B, T, -1, self.head_dim)
        v_BTJD = self.v_proj(x_BTC).view(B, T, -1, self.head_dim)
        if self.q_norm is not None and self.k_norm is not None:
            q_BTHD, k_BTJD = self.q_norm(q_BTHD), self.k_norm(k_BTJD)
        q_BTHD, k_BTJD = rotate(q_BTHD, rotation), rotate(k_BTJD, rotation)
        y_BHTD = F.scaled_dot_product_attention(
            q_BTHD.transpose(1, 2),
            k_BTJD.transpose(1, 2),
            v_BTJD.transpose(1, 2),
            is_causal=True,
            enable_gqa=q_BTHD.shape[2] != k_BTJD.shape[2],
        )
        y_BTC = y_BHTD.transpose(1, 2).reshape(B, T, -1)
        if self.attn_sub_norm is not None:
            y_BTC = self.attn_sub_norm(y_BTC)
        y: Tensor = self.o_proj(y_BTC)
        return y
