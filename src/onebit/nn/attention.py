"""Causal self-attention with grouped keys and values.

Only the four projections are ever quantized (they are nn.Linear here; `convert` swaps them). The
scores, the softmax and the sum over values stay in float.

Shape letters: B batch, T tokens, C model width, H query heads, J key/value heads (J divides H),
D values of a head.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from onebit.nn.rms_norm import RMSNorm
from onebit.nn.rope import Rotation, rotate

MATRIX_TOKENS = 1024
"""Up to here bfloat16 on a CPU goes by whole matrices of scores, which is 1.7 to 3 times as fast as
torch's own kernel forward and backward; beyond, their memory of T^2 counts for more."""


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
        y_BHTD = attend(*(heads.transpose(1, 2) for heads in (q_BTHD, k_BTJD, v_BTJD)))
        y_BTC = y_BHTD.transpose(1, 2).reshape(B, T, -1)
        if self.attn_sub_norm is not None:
            y_BTC = self.attn_sub_norm(y_BTC)
        y: Tensor = self.o_proj(y_BTC)
        return y


def attend(q_BHTD: Tensor, k_BJTD: Tensor, v_BJTD: Tensor) -> Tensor:
    """Return softmax(q k^T / sqrt(D)) v, (B, H, T, D); a token sees itself and those before it.

    Source: Vaswani et al., equation 1, https://arxiv.org/abs/1706.03762
    """
    short = q_BHTD.shape[2] <= MATRIX_TOKENS
    if short and q_BHTD.device.type == "cpu" and q_BHTD.dtype == torch.bfloat16:
        return by_matrices(q_BHTD, k_BJTD, v_BJTD)
    grouped = q_BHTD.shape[1] != k_BJTD.shape[1]
    return F.scaled_dot_product_attention(
        q_BHTD, k_BJTD, v_BJTD, is_causal=True, enable_gqa=grouped
    )


def by_matrices(q_BHTD: Tensor, k_BJTD: Tensor, v_BJTD: Tensor) -> Tensor:
    """Return what `attend` does, by the formula; the softmax is in float32.

    Z = B J key heads; the query heads that share one are the R = T H / J rows of its product.
    """
    B, H, T, D = q_BHTD.shape
    J = k_BJTD.shape[1]
    later_TT = q_BHTD.new_full((T, T), -math.inf).triu(1)
    score_ZRT = torch.baddbmm(
        later_TT.repeat(H // J, 1),
        q_BHTD.reshape(B * J, -1, D),
        k_BJTD.reshape(B * J, T, D).transpose(1, 2),
        alpha=1 / math.sqrt(D),
    )
    share_ZRT = score_ZRT.softmax(dim=2, dtype=torch.float32).to(v_BJTD.dtype)
    return (share_ZRT @ v_BJTD.reshape(B * J, T, D)).view(B, H, T, D)
