"""BitLinear: a linear layer that trains in float and computes with integer codes.

The weights stay float for the optimizer. Every forward pass rounds them and the input, multiplies
the codes, and applies the scales once; gradients pass straight through the rounding. What this
layer computes in training is what the packed model computes: the same integers.

Shape letters: T tokens (any leading shape), N out features, K in features, G groups of a row.
"""

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from onebit import quant
from onebit.errors import OptionError, ShapeError
from onebit.nn.codes_product import product
from onebit.nn.rms_norm import RMSNorm
from onebit.quant import Codes, activation, straight_through
from onebit.quant.activation import Activations
from onebit.quant.codes import EPSILON
from onebit.scheme import LinearScheme

B158 = LinearScheme("ternary", activation="int8_absmax")
"""BitNet b1.58, https://arxiv.org/abs/2402.17764"""


class BitLinear(nn.Linear):
    """Drop-in for nn.Linear; a `LinearScheme` says how weight and input are rounded.

    With norm "rms", an RMSNorm (module `rms_norm`) comes before the input is rounded, as in the
    training code of BitNet b1.58. Without it, the model around the layer normalises.

    Frozen, the layer keeps given codes and scale and never rounds again: that is how packed weights
    are held. `weight` then has exactly the values of the codes and takes no gradient.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = False,
        scheme: LinearScheme = B158,
        eps: float = 1e-5,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        """Build the layer; `eps` is the norm's.

        Raises:
            OptionError: the scheme has no such rule.
            ShapeError: the scheme's group does not divide `in_features`.
        """
        super().__init__(in_features, out_features, bias, device, dtype)
        if scheme.weight != "fp":
            quant.quantizer_of(scheme)
        self.group = quant.group_of(scheme, in_features)
        if in_features % (self.group or 1):
            raise ShapeError(
                f"BitLinear: {in_features} inputs do not split into groups of {self.group}. "
                f'Choose a group that divides {in_features}, or "row".'
            )
        self.scheme = scheme
        self.rms_norm = RMSNorm(in_features, eps) if scheme.norm == "rms" else None
        # a plain attribute: a buffer would follow model.to(torch.bfloat16), and its scale round
        self._frozen: Codes | None = None

    def forward(self, x_TK: Tensor) -> Tensor:
        if self.rms_norm is not None:
            x_TK = self.rms_norm(x_TK)
        if self.scheme.weight == "fp":
            return F.linear(self._fake_input(x_TK), self.weight, self.bias)
        q = self.codes()
        if q.scale_NG.shape[1] > 1:  # the scale changes within a sum, so values are multiplied
            return F.linear(self._fake_input(x_TK), self._fake_weight(q), self.bias)
        scale_w = q.scale_NG[0, 0] if self._one_scale else q.scale_NG[:, 0]
        if self.scheme.activation == "fp":
            y_TN = product(x_TK, self.weight, x_TK.detach(), None, q.codes_NK, scale_w)
        else:
            x = activation.rounded(x_TK, self.scheme.activation)
            y_TN = product(x_TK, self.weight, x.codes, x.scale, q.codes_NK, scale_w)
        return y_TN if self.bias is None else y_TN + self.bias.to(y_TN.dtype)

    def codes(self) -> Codes:
        """Return the codes and scale that the layer multiplies with.

        Raises:
            OptionError: the scheme's weight is "fp".
        """
        if self._frozen is None:
            return quant.quantize_weight(self.weight, self.scheme)
        device = self.weight.device
        if self._frozen.codes_NK.device != device:
            codes_NK, scale_NG = self._frozen[:2]
            self._frozen = Codes(codes_NK.to(device), scale_NG.to(device))
        return self._frozen

    def input_codes(self, x_TK: Tensor) -> Activations:
        """Return the int8 codes and the scale that the layer gives its input.

        Raises:
            OptionError: the scheme's activation is "fp".
        """
        return activation.quantize(
            x_TK if self.rms_norm is None else self.rms_norm(x_TK), self.scheme.activation
        )

    @property
    def frozen(self) -> bool:
        """Whether the layer holds given codes and rounds no weight."""
        return self._frozen is not None

    def freeze(self, q: Codes | None = None) -> None:
        """Keep these codes and scale (by default the present ones) until `unfreeze`.

        Raises:
            ShapeError: the codes are not of this layer's shape.
            OptionError: the codes have a zero-point, or the scheme's weight is "fp".
        """
        q = self.codes() if q is None else q
        if q.codes_NK.shape != self.weight.shape:
            raise ShapeError(
                f"freeze: the codes have shape {tuple(q.codes_NK.shape)}, the layer "
                f"{tuple(self.weight.shape)}. Pass codes (out_features, in_features)."
            )
        if q.zero_NG is not None or q.minimum_NG is not None:
            raise OptionError("freeze: codes with a zero-point; a scheme's codes are symmetric.")
        self._frozen = Codes(q.codes_NK, q.scale_NG.float())
        values_NK = quant.dequantize(q).to(self.weight.dtype)
        self.weight = nn.Parameter(values_NK, requires_grad=False)

    def unfreeze(self) -> None:
        """Train again: round `weight` anew at every forward pass, beginning where it stands.

        Under absmean the weights grow by 1 / (share of non-zero codes), so that the next rounding
        gives the same codes and scale, and not a scale that is smaller by that share.

        Raises:
            OptionError: absmean has no such scale: it ends at 1e-5.
        """
        if self._frozen is None:
            return
        w_NK = quant.dequantize(self._frozen)
        if (self.scheme.weight, self.scheme.weight_rule) == ("ternary", "absmean"):
            least = w_NK.abs().where(w_NK != 0, 1.0).min()
            if least < EPSILON:
                raise OptionError(
                    f"unfreeze: a scale of {float(least):.3g}, and absmean's scales end at "
                    f"{EPSILON:g}. Keep the layer frozen, or train from other weights."
                )
            w_NK = quant.ternary.latent_absmean(self._frozen, self.group)
        self._frozen = None
        self.weight = nn.Parameter(w_NK.to(self.weight.dtype))

    def _load_from_state_dict(
        self, state_dict: Mapping[str, Tensor], prefix: str, *rest: Any
    ) -> None:
        """Refuse other weights while frozen: the codes would go on to be used in their place."""
        given = state_dict.get(f"{prefix}weight")
        if self.frozen and given is not None and not torch.equal(given, self.weight):
            rest[-1].append(f"{prefix}weight: the layer is frozen. Call `unfreeze` first.")
            return
        super()._load_from_state_dict(state_dict, prefix, *rest)

    def extra_repr(self) -> str:
        s = self.scheme
        frozen = ", frozen" if self.frozen else ""
        rule = f"{s.weight} by {s.weight_rule} per {s.weight_scale}, input {s.activation}{frozen}"
        return f"{super().extra_repr()}, {rule}"

    @property
    def _one_scale(self) -> bool:
        """Whether one number serves the whole matrix."""
        if self._frozen is None:
            return self.scheme.weight_scale == "tensor"
        scale_NG = self._frozen.scale_NG
        return bool((scale_NG == scale_NG[0, 0]).all())

    def _fake_input(self, x_TK: Tensor) -> Tensor:
        if self.scheme.activation == "fp":
            return x_TK
        x = activation.rounded(x_TK, self.scheme.activation)
        return straight_through(x_TK, (x.codes * x.scale).to(x_TK.dtype))

    def _fake_weight(self, q: Codes) -> Tensor:
        return straight_through(self.weight, quant.dequantize(q).to(self.weight.dtype))
