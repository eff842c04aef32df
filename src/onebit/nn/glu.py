"""The gated feed-forward layer: down(act(gate(x)) * up(x)).

Shape letters: T tokens (any leading shape), C model width, F hidden width.
"""

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn

from onebit.errors import OptionError
from onebit.nn.bitlinear import of_one_input
from onebit.nn.gates import silu_times
from onebit.nn.rms_norm import RMSNorm


def relu2(x: Tensor) -> Tensor:
    """Squared ReLU. Source: BitNet a4.8, equation 5, https://arxiv.org/abs/2411.04965"""
    return F.relu(x).square()


def gelu_tanh(x: Tensor) -> Tensor:
    """x Phi(x), by tanh. Source: Hendrycks and Gimpel, section 2, https://arxiv.org/abs/1606.08415"""
    return F.gelu(x, approximate="tanh")


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "silu": F.silu,
    "relu2": relu2,
    "gelu_pytorch_tanh": gelu_tanh,
}


class GLU(nn.Module):
    """Module names are Hugging Face's: gate_proj, up_proj, down_proj, ffn_sub_norm."""

    def __init__(
        self,
        width: int,
        hidden: int,
        *,
        activation: str,
        eps: float,
        bias: bool = False,
        sub_norm: bool = False,
    ) -> None:
        """Build the layer; `sub_norm` puts an RMSNorm before the down projection (BitNet 2B4T).

        Raises:
            OptionError: `activation` is not one of ACTIVATIONS.

        Source: Shazeer, https://arxiv.org/abs/2002.05202
        """
        super().__init__()
        if activation not in ACTIVATIONS:
            raise OptionError(
                f"GLU: {activation!r} is not an activation; accepted: {', '.join(ACTIVATIONS)}."
            )
        self.activation = activation
        self.gate_proj = nn.Linear(width, hidden, bias)
        self.up_proj = nn.Linear(width, hidden, bias)
        self.down_proj = nn.Linear(hidden, width, bias)
        self.ffn_sub_norm = RMSNorm(hidden, eps) if sub_norm else None

    def forward(self, x_TC: Tensor) -> Tensor:
        gate_TF, up_TF = of_one_input(x_TC, self.gate_proj, self.up_proj)
        y: Tensor = self.down_proj(self.mixed(gate_TF, up_TF))
        return y

    def mixed(self, gate_TF: Tensor, up_TF: Tensor) -> Tensor:
        """Return what goes into `down_proj`, from what the other two gave."""
        h_TF = ACTIVATIONS[self.activation](gate_TF) * up_TF
        return h_TF if self.ffn_sub_norm is None else self.ffn_sub_norm(h_TF)


class FusedGLU(nn.Module):
    """The same with gate and up in one matrix, which a scheme then gives one norm and one scale.

    The first F rows of `gate_proj` are the gate's, the others those of up. SiLU is the activation.

    Source: ridgerchu/matmulfreellm, `HGRNBitMLP`.
    """

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(width, 2 * hidden, bias=False)
        self.down_proj = nn.Linear(hidden, width, bias=False)

    def forward(self, x_TC: Tensor) -> Tensor:
        gate_TF, up_TF = self.gate_proj(x_TC).chunk(2, dim=-1)
        y: Tensor = self.down_proj(silu_times(gate_TF, up_TF))
        return y
