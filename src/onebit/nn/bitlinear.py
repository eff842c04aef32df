"""BitLinear: a linear layer that trains in float and computes with integer codes.

The weights stay float for the optimizer. Every forward pass rounds them and the input, multiplies
the codes, and applies the scales once; gradients pass straight through the rounding. What this
layer computes in training is what the packed model computes: the same integers.

    x -> norm -> Hadamard turn -> rounding (nn/inputs.py) -> product (nn/product.py) -> bias

With b1.58's rules behind an RMSNorm all but the bias is one function (nn/fused.py).

Shape letters: T tokens (any leading shape), N out features, K in features, G groups of a row.
"""

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from onebit import hadamard, quant
from onebit.errors import OptionError, ShapeError
from onebit.nn import codes_product, frozen, fused, inputs, product
from onebit.nn.layer_norm import LayerNorm
from onebit.nn.rms_norm import RMSNorm
from onebit.quant import Codes, straight_through
from onebit.quant.activation import Activations, Static
from onebit.scheme import LinearScheme
from onebit.tensors import step_shape

B158 = LinearScheme("ternary", activation="int8_absmax")
"""BitNet b1.58, https://arxiv.org/abs/2402.17764"""


class BitLinear(nn.Linear):
    """Drop-in for nn.Linear; a `LinearScheme` says how weight and input are rounded.

    Inside may come, by the scheme: a norm before the input is rounded (`rms_norm`, or `layer_norm`,
    which has no weights), without which the model around the layer normalises; a Hadamard turn of
    the input; and a learned step of the weights' grid (parameter `step`).

    Frozen, the layer keeps given codes and scale and never rounds again: that is how packed weights
    are held. `weight` then has exactly the values of the codes and takes no gradient.
    """

    blend: float = 1.0
    """Progressive quantization: the layer computes with x + blend (x_hat - x), and so the weights.
    0 is the float layer, 1 the integer one."""
    remakes: bool = True
    """Whether, where `fused` serves, norm and roundings are made again for the gradients: training
    keeps less. The numbers are the same."""
    bit_count: inputs.BitCount | None = None
    """Where `record` has asked for it, how many tokens took 8 bits under "dynamic:R"."""

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
            ShapeError: the scheme's group, or its parts, do not divide the layer.
        """
        super().__init__(in_features, out_features, bias, device, dtype)
        _check(scheme, in_features, out_features)
        self.scheme = scheme
        self.parts = inputs.parts_of(scheme)
        self.rms_norm = RMSNorm(in_features, eps) if scheme.norm == "rms" else None
        self.layer_norm = LayerNorm(eps, self.parts) if scheme.norm == "layer" else None
        self.step: nn.Parameter | None = None
        self.input_scale = _not_yet(scheme.static)
        self.input_zero = _not_yet(scheme.static_zero)
        # a plain attribute: a buffer would follow model.to(torch.bfloat16), and its scale round
        self._frozen: Codes | None = None
        self.start_step()

    def forward(self, x_TK: Tensor) -> Tensor:
        if self.remakes and self.rms_norm is not None and self._is_fused:
            return self._with_bias(fused.product(x_TK, self.rms_norm, self.weight, self.scheme))
        x_TK, w_NK = self.turned_input(x_TK), self._turned_weight()
        if self._rounds_natively(x_TK):
            return self._with_bias(codes_product.ternary_products(x_TK, [(w_NK, self.scheme)])[0])
        a = q = None
        if self.blend > 0 and self.scheme.activation != "fp":
            a = self._rounded(x_TK)
        if self.blend > 0 and self.scheme.weight != "fp":
            q = self.codes()
        whole = q is not None and self.scheme.planes == 1 and product.has_whole_sums(q, a)
        if q is not None and self.blend == 1 and whole:
            y_TN = product.of_codes(x_TK, self._learned(w_NK), a, q, self._one_scale)
            return self._with_bias(y_TN)
        if a is not None:
            x_TK = inputs.values(x_TK, a, self.blend)
        if q is not None:
            w_NK = self._fake_weight(w_NK, q)
        return F.linear(x_TK, w_NK, self.bias)

    def codes(self) -> Codes:
        """Return the codes and scale that the layer multiplies with.

        Raises:
            OptionError: the scheme's weight is "fp".
        """
        if self._frozen is None:
            return quant.quantize_weight(self.weight, self.scheme, self.step)
        self._frozen = frozen.on_device(self._frozen, self.weight.device)
        return self._frozen

    def turned_input(self, x_TK: Tensor) -> Tensor:
        """Return the input as it is rounded: behind the norm and the Hadamard turn."""
        norm = self.layer_norm if self.rms_norm is None else self.rms_norm
        return inputs.turned(x_TK, norm, self.scheme)

    def input_codes(self, x_TK: Tensor) -> Activations:
        """Return the int8 codes and the scale that the layer gives its input.

        Raises:
            OptionError: the scheme's activation is "fp".
        """
        a = inputs.rounded(self.turned_input(x_TK), self.scheme, self.training, self.static)
        return a._replace(codes=a.codes.to(torch.int8))

    @property
    def static(self) -> Static | None:
        """The factors of a static activation; a scale of 0 where calibration has not come yet."""
        return None if self.input_scale is None else Static(self.input_scale, self.input_zero)

    def set_static(self, factors: Static) -> None:
        """Round the inputs with these factors from now on: `quant.activation.static_factors`.

        Raises:
            OptionError: the scheme's activation is not static, or has no zero-point.
        """
        if self.input_scale is None or (factors.zero is None) != (self.input_zero is None):
            raise OptionError(
                f"set_static: factors {'with' if factors.zero is not None else 'without'} a "
                f"zero-point, and the scheme's activation is {self.scheme.activation!r}."
            )
        device = self.weight.device
        for name, value in (("input_scale", factors.scale), ("input_zero", factors.zero)):
            if value is not None:
                number = value.detach().float().reshape(1).to(device)
                setattr(self, name, nn.Parameter(number, requires_grad=False))

    @property
    def frozen(self) -> bool:
        """Whether the layer holds given codes and rounds no weight."""
        return self._frozen is not None

    def freeze(self, q: Codes | None = None) -> None:
        """Keep these codes and scale (by default the present ones) until `unfreeze`.

        Under hadamard "both" they are those of the turned weights, and `weight` gets their values.

        Raises:
            ShapeError: the codes are not of this layer's shape.
            OptionError: the codes have a zero-point that the scheme's have not, or the scheme's
                weight is "fp".
        """
        q = self.codes() if q is None else q
        self._frozen = frozen.checked(q, self.weight, self.scheme)
        values_NK = quant.values(q, self.scheme).to(self.weight.dtype)
        self.weight = nn.Parameter(values_NK, requires_grad=False)
        if self.step is not None:
            self.step = nn.Parameter(frozen.step_of(q, self.scheme), requires_grad=False)

    def unfreeze(self) -> None:
        """Train again: round `weight` anew at every forward pass, beginning where it stands.

        Under absmean the weights grow by 1 / (share of non-zero codes), so that the next rounding
        gives the same codes and scale, and not a scale that is smaller by that share.

        Raises:
            OptionError: absmean has no such scale: it ends at 1e-5.
        """
        if self._frozen is None:
            return
        w_NK = frozen.latent(self._frozen, self.scheme)
        self._frozen = None
        self.weight = nn.Parameter(w_NK.to(self.weight.dtype))
        if self.step is not None:
            self.step.requires_grad_(True)

    @torch.no_grad()
    def start_step(self) -> None:
        """Give a layer with a learned step the one that its rule begins with for these weights."""
        if self.scheme.learned and self.weight.is_meta:
            shape = step_shape(self.scheme, self.out_features, self.in_features)
            self.step = nn.Parameter(torch.empty(shape, device="meta"))
        elif self.scheme.learned:
            w_NK = quant.hadamard.turned(self.weight, self.scheme)
            self.step = nn.Parameter(quant.learned.first_step(w_NK, self.scheme))

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
        rule = f"{s.weight} by {s.weight_rule} per {s.weight_scale}, input {s.activation}"
        order = hadamard.block(self.in_features)
        turn = f", hadamard {s.hadamard} of order {order}" if s.hadamard != "none" else ""
        parts = f", split {s.split}" if s.parts > 1 else ""
        return f"{super().extra_repr()}, {rule}{turn}{parts}{', frozen' if self.frozen else ''}"

    @property
    def _one_scale(self) -> bool:
        """Whether one number serves the whole matrix, or each part of its columns."""
        if self._frozen is None:
            return self.scheme.weight_scale == "tensor" and not self.scheme.split.startswith("out")
        scale_NG = self._frozen.scale_NG
        return bool((scale_NG == scale_NG[:1]).all())

    @property
    def _is_fused(self) -> bool:
        return self.blend == 1 and not self.frozen and fused.serves(self.scheme)

    def _rounds_natively(self, x_TK: Tensor) -> bool:
        """Whether weights and a turned input go by `codes_product.ternary_products`."""
        return self.blend == 1 and not self.frozen and codes_product.rounds(self.scheme, x_TK)

    def _with_bias(self, y_TN: Tensor) -> Tensor:
        return y_TN if self.bias is None else y_TN + self.bias.to(y_TN.dtype)

    def _rounded(self, x_TK: Tensor) -> Activations:
        if self.bit_count is not None:
            self.bit_count.add(x_TK, self.scheme)
        return inputs.rounded(x_TK, self.scheme, self.training, self.static)

    def _turned_weight(self) -> Tensor:
        """Return the weights that are rounded, or are what is left of rounding when frozen."""
        return self.weight if self.frozen else quant.hadamard.turned(self.weight, self.scheme)

    def _learned(self, w_NK: Tensor) -> Tensor:
        """Return the rounded weights as the learned step's rule gives them, with its gradients."""
        if self.step is None or self.frozen:
            return w_NK
        return quant.learned.fake_quantize(w_NK, self.step, self.scheme)

    def _fake_weight(self, w_NK: Tensor, q: Codes) -> Tensor:
        """Return the values of the codes, with the gradient of the weights that were rounded."""
        w_hat_NK = quant.values(q, self.scheme).to(w_NK.dtype)
        w_hat_NK = straight_through(self._learned(w_NK), w_hat_NK)
        return w_hat_NK if self.blend == 1 else torch.lerp(w_NK, w_hat_NK, self.blend)


def _not_yet(there: bool) -> nn.Parameter | None:
    """Return a factor of a static activation that calibration is to find, or None."""
    return nn.Parameter(torch.zeros(1), requires_grad=False) if there else None


def of_one_input(x_TK: Tensor, *layers: nn.Module) -> tuple[Tensor, ...]:
    """Return layer(x) for each layer; BitLinears that round it alike and natively do so together.

    The numbers are those of the layers one by one. A layer with a hook is called by itself.
    """
    alike = [
        layer for layer in layers if isinstance(layer, BitLinear) and _rounds_bare(layer, x_TK)
    ]
    if len(alike) < len(layers):
        return tuple(layer(x_TK) for layer in layers)
    weights = [(layer._turned_weight(), layer.scheme) for layer in alike]
    products = codes_product.ternary_products(x_TK, weights)
    return tuple(layer._with_bias(y_TN) for layer, y_TN in zip(alike, products, strict=True))


def _rounds_bare(layer: BitLinear, x_TK: Tensor) -> bool:
    """Whether a layer rounds its input as it comes, natively, and nobody watches it."""
    scheme = layer.scheme
    hooks = layer._forward_hooks or layer._forward_pre_hooks or layer._backward_hooks
    bare = scheme.norm == "none" and scheme.hadamard == "none"
    return bare and not hooks and layer._rounds_natively(x_TK)


def _check(scheme: LinearScheme, K: int, N: int) -> None:
    """Refuse a scheme that cannot be, or does not fit a layer of K inputs and N outputs."""
    if scheme.weight != "fp":
        quant.quantizer_of(scheme)
    group = quant.group_of(scheme, K)
    if K % (group or 1):
        raise ShapeError(
            f"BitLinear: {K} inputs do not split into groups of {group}. "
            f'Choose a group that divides {K}, or "row".'
        )
    size, what = (N, "outputs") if scheme.split.startswith("out") else (K, "inputs")
    if size % scheme.parts:
        raise ShapeError(
            f"BitLinear: {size} {what} do not split into {scheme.parts} parts. "
            f"Choose a number of parts that divides {size}."
        )
