"""Causal self-attention with grouped keys and values.

The four projections are nn.Linear here; `convert` swaps them, and sets the bits to which queries,
keys and values are rounded behind the rotation. The scores, the softmax and the sum over values
stay in float.

Shape letters: B batch, T tokens, C model width, H query heads, J key/value heads (J divides H),
D values of a head.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from onebit.nn.bitlinear import of_one_input
from onebit.nn.rms_norm import RMSNorm
from onebit.nn.rope import Rotation, rotate
from onebit.quant import kv

MATRIX_TOKENS = 1024
"""Up to here bfloat16 on a CPU goes by whole matrices of scores, which is 1.7 to 3 times as fast as
torch's own kernel forward and backward; beyond, their memory of T^2 counts for more."""


@dataclass
class ScoreRange:
    """The smallest and largest score that a softmax got, over all that it has seen."""

    low: float = math.inf
    high: float = -math.inf

    @torch.no_grad()
    def add(self, q_BHTD: Tensor, k_BJTD: Tensor, scale: float, window: int = 0) -> None:
        """Widen the range by the scores of one input, of the positions that each token sees."""
        T = q_BHTD.shape[2]
        k_BHTD = k_BJTD.repeat_interleave(q_BHTD.shape[1] // k_BJTD.shape[1], dim=1)
        hidden_TT = ~seen(T, window, q_BHTD.device)
        for q_HTD, k_HTD in zip(q_BHTD.float(), k_BHTD.float(), strict=True):
            score_HTT = (q_HTD @ k_HTD.transpose(1, 2)) * scale
            low = score_HTT.masked_fill(hidden_TT, math.inf).amin()
            high = score_HTT.masked_fill(hidden_TT, -math.inf).amax()
            self.low, self.high = min(self.low, float(low)), max(self.high, float(high))


class Attention(nn.Module):
    """Module names are Hugging Face's: q_proj ... o_proj, q_norm, k_norm, attn_sub_norm."""

    kv_bits: int = 16
    """Bits of keys and values behind the rotation, from the scheme; above 8 they are not rounded,
    and the engine's cache has them as floats."""
    kv_rule: str = "engine"
    """How they are rounded, a key of `quant.kv.RULES`."""
    q_bits: int = 16
    """Bits of queries behind the rotation; 16 for none."""
    score_range: ScoreRange | None = None
    """Where `record` has asked for it."""

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
        temperature: float = 1.0,
        learned_temperature: bool = False,
        window: int = 0,
    ) -> None:
        """Build the layer.

        Args:
            width: C; `heads` H, `kv_heads` J, `head_dim` D.
            eps: of the norms, if any.
            qkv_bias: whether q, k and v have biases; `out_bias` whether the output has.
            qk_norm: RMSNorm over each head of q and k, before the rotation (Qwen 3).
            sub_norm: RMSNorm before the output projection (SubLN, BitNet 2B4T).
            temperature: scores are divided by it, on top of sqrt(D).
            learned_temperature: whether each head learns its own (parameter `temperature`),
                beginning at that.
            window: tokens that each sees, itself and those before it (Gemma 3); 0 for all.
        """
        super().__init__()
        self.head_dim = head_dim
        self.window = window
        scale = 1 / math.sqrt(head_dim)
        self.scale = scale if learned_temperature else scale / temperature
        self.temperature = (
            nn.Parameter(torch.full((heads,), temperature)) if learned_temperature else None
        )
        self.q_proj = nn.Linear(width, heads * head_dim, qkv_bias)
        self.k_proj = nn.Linear(width, kv_heads * head_dim, qkv_bias)
        self.v_proj = nn.Linear(width, kv_heads * head_dim, qkv_bias)
        self.o_proj = nn.Linear(heads * head_dim, width, out_bias)
        self.q_norm = RMSNorm(head_dim, eps) if qk_norm else None
        self.k_norm = RMSNorm(head_dim, eps) if qk_norm else None
        self.attn_sub_norm = RMSNorm(heads * head_dim, eps) if sub_norm else None

    def forward(self, x_BTC: Tensor, rotation: Rotation) -> Tensor:
        q_BTC, k_BTC, v_BTC = of_one_input(x_BTC, self.q_proj, self.k_proj, self.v_proj)
        y: Tensor = self.o_proj(self.mixed(q_BTC, k_BTC, v_BTC, rotation))
        return y

    def mixed(self, q_BTC: Tensor, k_BTC: Tensor, v_BTC: Tensor, rotation: Rotation) -> Tensor:
        """Return what goes into `o_proj`, from what the three projections gave."""
        B, T, _ = q_BTC.shape
        q_BTHD, k_BTJD, v_BTJD = (
            heads.view(B, T, -1, self.head_dim) for heads in (q_BTC, k_BTC, v_BTC)
        )
        if self.q_norm is not None and self.k_norm is not None:
            q_BTHD, k_BTJD = self.q_norm(q_BTHD), self.k_norm(k_BTJD)
        q_BTHD, k_BTJD = rotate(q_BTHD, rotation), rotate(k_BTJD, rotation)
        q_BHTD, k_BJTD, v_BJTD = (heads.transpose(1, 2) for heads in (q_BTHD, k_BTJD, v_BTJD))
        if self.kv_bits <= 8:
            rule = kv.RULES[self.kv_rule]
            k_BJTD = rule.keys(k_BJTD, self.kv_bits)
            v_BJTD = rule.values(v_BJTD, self.kv_bits)
        if self.q_bits <= 8:
            q_BHTD = kv.round_queries(q_BHTD, self.q_bits)
        if self.temperature is not None:
            q_BHTD = q_BHTD / self.temperature.to(q_BHTD.dtype)[:, None, None]
        if self.score_range is not None:
            self.score_range.add(q_BHTD, k_BJTD, self.scale, self.window)
        y_BHTD = attend(q_BHTD, k_BJTD, v_BJTD, self.scale, self.window)
        y_BTC = y_BHTD.transpose(1, 2).reshape(B, T, -1)
        if self.attn_sub_norm is not None:
            y_BTC = self.attn_sub_norm(y_BTC)
        return y_BTC


def seen(tokens: int, window: int, device: torch.device) -> Tensor:
    """Return which positions (columns) each token (row) sees, bool (T, T): itself and those before
    it, `window` of them at most unless that is 0."""
    seen_TT = torch.ones(tokens, tokens, dtype=torch.bool, device=device).tril()
    return seen_TT.triu(1 - window) if window else seen_TT


def attend(
    q_BHTD: Tensor, k_BJTD: Tensor, v_BJTD: Tensor, scale: float | None = None, window: int = 0
) -> Tensor:
    """Return softmax(q k^T scale) v, (B, H, T, D); a token sees itself and those before it, and of
    these the last `window` if that is not 0.

    The scale is 1 / sqrt(D) where none is given.

    Source: Vaswani et al., equation 1, https://arxiv.org/abs/1706.03762; the window is Mistral's,
    section 2, https://arxiv.org/abs/2310.06825
    """
    T = q_BHTD.shape[2]
    short = T <= MATRIX_TOKENS
    if short and q_BHTD.device.type == "cpu" and q_BHTD.dtype == torch.bfloat16:
        return by_matrices(q_BHTD, k_BJTD, v_BJTD, scale, window)
    grouped = q_BHTD.shape[1] != k_BJTD.shape[1]
    cut = 0 < window < T
    return F.scaled_dot_product_attention(
        q_BHTD,
        k_BJTD,
        v_BJTD,
        attn_mask=seen(T, window, q_BHTD.device) if cut else None,
        is_causal=not cut,
        enable_gqa=grouped,
        scale=scale,
    )


def by_matrices(
    q_BHTD: Tensor, k_BJTD: Tensor, v_BJTD: Tensor, scale: float | None = None, window: int = 0
) -> Tensor:
    """Return what `attend` does, by the formula; the softmax is in float32.

    Z = B J key heads; the query heads that share one are the R = T H / J rows of its product.
    """
    B, H, T, D = q_BHTD.shape
    J = k_BJTD.shape[1]
    hidden_TT = q_BHTD.new_zeros(T, T).masked_fill(~seen(T, window, q_BHTD.device), -math.inf)
    score_ZRT = torch.baddbmm(
        hidden_TT.repeat(H // J, 1),
        q_BHTD.reshape(B * J, -1, D),
        k_BJTD.reshape(B * J, T, D).transpose(1, 2),
        alpha=1 / math.sqrt(D) if scale is None else scale,
    )
    share_ZRT = score_ZRT.softmax(dim=2, dtype=torch.float32).to(v_BJTD.dtype)
    return (share_ZRT @ v_BJTD.reshape(B * J, T, D)).view(B, H, T, D)
