"""MLGRU: a gated linear recurrence in place of attention, with no product of two activations.

Shape letters: B sequences, T tokens, C model width.
"""

import torch
from torch import Tensor, nn

from onebit.architecture import MLGRU_FORMS
from onebit.errors import OptionError
from onebit.nn.bitlinear import of_one_input
from onebit.nn.gates import gated, silu_times
from onebit.nn.recurrence import recurrence
from onebit.nn.rms_norm import RMSNorm


class MLGRU(nn.Module):
    """The token mixer of MatMul-free language models, in the form of the code or of the paper.

    Both forget and take in by one gate:

        f = sigmoid(f_proj x),  with bounds b:  f = b + (1 - b) f
        h_t = f h_{t-1} + (1 - f) silu(i_proj x)

    They differ in what goes out. The code, by which the published models were trained:

        y = o_proj(RMSNorm(g_proj x) * h sigmoid(h))

    and equations 4 to 9 of the paper:

        y = o_proj(g_proj x * sigmoid(h))

    So in the code the gate is normalised, with weights `g_norm`, and the state goes out by itself
    times its sigmoid (SiLU), where in the paper only its sigmoid does. The paper's equations also
    have biases, which the code has not and neither form has here; and the code's lower bounds,
    which keep the gates of deep layers from forgetting, are not in them: `Architecture` has its own
    field for these, for either form. What the paper calls c is `i_proj` here.

    Module names are the code's: i_proj, f_proj, g_proj, g_norm, o_proj.

    Sources: MatMul-free LM, section 3.3.1, https://arxiv.org/abs/2406.02528; its code,
    ridgerchu/matmulfreellm, `layers/hgrn_bit.py`; HGRN, on lower bounds of
    forget gates, https://arxiv.org/abs/2311.04823
    """

    def __init__(self, width: int, *, eps: float, form: str = "code") -> None:
        """Build the layer; `eps` is the gate norm's.

        Raises:
            OptionError: `form` is not one of MLGRU_FORMS.
        """
        super().__init__()
        if form not in MLGRU_FORMS:
            raise OptionError(f"MLGRU: form is {form!r:.40}; accepted: {', '.join(MLGRU_FORMS)}.")
        self.form = form
        self.i_proj = nn.Linear(width, width, bias=False)
        self.f_proj = nn.Linear(width, width, bias=False)
        self.g_proj = nn.Linear(width, width, bias=False)
        self.g_norm = RMSNorm(width, eps) if form == "code" else None
        self.o_proj = nn.Linear(width, width, bias=False)

    def forward(self, x_BTC: Tensor, bound_C: Tensor | None = None) -> Tensor:
        """Return what is added to the stream; the state begins at 0.

        Args:
            bound_C: below which no forget gate falls; None for 0.
        """
        i_BTC, f_BTC, g_BTC = of_one_input(x_BTC, self.i_proj, self.f_proj, self.g_proj)
        f_BTC, i_BTC = gated(f_BTC, i_BTC, bound_C)
        h_BTC, _ = recurrence(f_BTC, i_BTC)
        y: Tensor = self.o_proj(self.mixed(g_BTC, h_BTC))
        return y

    def mixed(self, g_BTC: Tensor, h_BTC: Tensor) -> Tensor:
        """Return what goes into `o_proj`, from what `g_proj` gave and the states."""
        if self.g_norm is None:
            return g_BTC * torch.sigmoid(h_BTC).to(g_BTC.dtype)
        return silu_times(h_BTC, self.g_norm(g_BTC))
