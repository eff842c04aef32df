"""MatMul-free language models (HGRNBit): MLGRU in place of attention, a GLU with one input matrix.

No layer multiplies two activations of different tokens, and none knows positions: what a token
knows of those before it is a state of C numbers for each layer. Under the scheme "matmulfree" every
linear layer, the head too, is ternary and has a norm inside, behind the one that stands here.

Sources: Scalable MatMul-free Language Modeling, https://arxiv.org/abs/2406.02528;
ridgerchu/matmulfreellm, `modeling_hgrn_bit.py`.

Shape letters: B sequences, T tokens, L layers, C model width.
"""

from collections.abc import Sequence

from torch import Tensor, nn

from onebit.architecture import Architecture
from onebit.nn import MLGRU, FusedGLU, RMSNorm


class HgrnBitLayer(nn.Module):
    """x + MLGRU(norm(x)), then x + GLU(norm(x)). Module names are the published ones."""

    def __init__(self, width: int, eps: float, attn: MLGRU, mlp: FusedGLU) -> None:
        super().__init__()
        self.attn_norm = RMSNorm(width, eps)
        self.attn = attn
        self.mlp_norm = RMSNorm(width, eps)
        self.mlp = mlp

    def forward(self, x_BTC: Tensor, bound_C: Tensor | None) -> Tensor:
        x_BTC = x_BTC + self.attn(self.attn_norm(x_BTC), bound_C)
        y: Tensor = x_BTC + self.mlp(self.mlp_norm(x_BTC))
        return y


def layer(a: Architecture, index: int) -> HgrnBitLayer:
    """Return one layer; all are alike."""
    attn = MLGRU(a.hidden_size, eps=a.rms_norm_eps, form=a.mlgru)
    mlp = FusedGLU(a.hidden_size, a.intermediate_size)
    return HgrnBitLayer(a.hidden_size, a.rms_norm_eps, attn, mlp)


def bounds(learned_LC: Tensor | None, layers: int) -> Sequence[Tensor | None]:
    """Return the lower bounds of each layer's forget gates, (C,), from what is learned of them.

    Layers share out the span from 0 to 1, channel by channel: a bound is the sum of the shares up
    to its layer's, the first one's left out. So they rise with depth, from 0, which is None here.

    Source: ridgerchu/matmulfreellm, `HGRNBitModel.forward`.
    """
    if learned_LC is None:
        return [None] * layers
    share_LC = learned_LC.float().softmax(dim=0)
    return [None, *(share_LC.cumsum(dim=0) - share_LC[0])[1:]]
