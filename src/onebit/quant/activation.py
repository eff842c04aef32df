"""Activations: the input of a linear layer, rounded anew for every token while the model runs.

The arithmetic is a contract with the native code: float32, IEEE, in exactly this order, so that
both give the same integers. Division by a tensor is on purpose: in torch `127 / m` is
`m.reciprocal() * 127`, which rounds twice.

Shape letters: T tokens (any leading shape), K features, G parts of the features.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from onebit.errors import OptionError, ShapeError
from onebit.quant.codes import EPSILON
from onebit.scheme import STATIC_ACTIVATIONS, LinearScheme


class Activations(NamedTuple):
    """An input as integers: value = code * scale (+ minimum)."""

    codes: Tensor
    """The shape of the input. Whole numbers, float32 from `rounded`, int8 from `quantize`."""
    scale: Tensor
    """float32, > 0. The shape of the input with G for the last dimension: one for each part. All
    dimensions but the last are 1 where the tokens share it."""
    minimum: Tensor | None = None
    """float32, the shape of `scale`: what is added. None is 0."""


class Static(NamedTuple):
    """What calibration has found for the inputs of a layer, one number each.

    Both are float32, so that they are to the bit what a file holds.
    """

    scale: Tensor
    """> 0."""
    zero: Tensor | None = None
    """The code that stands for 0, a whole number; None is 0."""


def quantize(
    x: Tensor, kind: str, parts: int = 1, per_token: bool = False, static: Static | None = None
) -> Activations:
    """Round an input by the named rule to int8 codes and a float32 scale.

    Args:
        x: (..., K), any float dtype; the maths is done in float32.
        kind: a name in `RULES`, or "dynamic:R".
        parts: G, of equally many columns each; every part is rounded as an input of its own.
        per_token: for "int8_absmax_tensor" and the two rules of BitNet b1, which share a scale
            among all tokens in training and give each its own afterwards. The others have one way.
        static: the factors of a rule in `STATIC_ACTIVATIONS`, which has no parts.

    Raises:
        OptionError: `kind` is none of these, or there are no factors for it.
        ShapeError: `parts` does not divide K.
    """
    codes, scale, minimum = rounded(x, kind, parts, per_token, static)
    return Activations(codes.to(torch.int8), scale, minimum)


def rounded(
    x: Tensor, kind: str, parts: int = 1, per_token: bool = False, static: Static | None = None
) -> Activations:
    """Return what `quantize` does, with the codes still float32: what a float product takes."""
    if kind in STATIC_ACTIVATIONS:
        return by_static(x.detach().float(), kind, static)
    rule = _rule(kind, per_token)
    if parts == 1:
        return rule(x.detach().float())
    each = [rule(part) for part in _cut(x.detach().float(), parts)]
    lows = [part.minimum for part in each if part.minimum is not None]
    return Activations(
        torch.cat([part.codes for part in each], dim=-1),
        torch.cat([part.scale for part in each], dim=-1),
        torch.cat(lows, dim=-1) if lows else None,
    )


def dequantize(a: Activations) -> Tensor:
    """Return the float32 values that the codes stand for, in the shape of the codes."""
    parts = a.scale.shape[-1]
    value = a.codes.float().view(*a.codes.shape[:-1], parts, -1) * a.scale[..., None]
    if a.minimum is not None:
        value = value + a.minimum[..., None]
    return value.view(a.codes.shape)


def by_static(x: Tensor, kind: str, static: Static | None) -> Activations:
    """Round with the factors that calibration found: round((x - minimum) * (1 / scale)).

    The minimum is -zero * scale, or nothing; values beyond the codes are clipped.

    Source: Jacob et al., section 2.1, https://arxiv.org/abs/1712.05877

    Raises:
        OptionError: there are no factors yet.
    """
    if static is None or not bool(static.scale > 0):
        raise OptionError(
            f"activation: {kind!r} wants the scale that a calibration finds, and the layer has "
            "none. Quantize the model with calibration text (`onebit quantize`)."
        )
    least, most = static_range(kind)
    ones = [1] * x.ndim
    scale = static.scale.detach().float().to(x.device).view(ones)
    factor = torch.div(scale.new_full((), 1.0), scale)
    if static.zero is None:
        return Activations((x * factor).round_().clamp_(least, most), scale)
    minimum = -static.zero.detach().float().to(x.device).view(ones) * scale
    return Activations(((x - minimum) * factor).round_().clamp_(least, most), scale, minimum)


def static_range(kind: str) -> tuple[int, int]:
    """Return the least and the greatest code of a rule in `STATIC_ACTIVATIONS`."""
    most = 2 ** (int(kind[3]) - 1) - 1
    return (-most - 1 if kind.endswith("_zero") else -most), most


def static_factors(kind: str, low: float, high: float) -> Static:
    """Return the factors with which a static rule holds inputs from `low` to `high`.

    Without a zero-point the range is that of the larger magnitude on both sides; with one, 0 is
    inside it and has a code of its own.

    Args:
        kind: a name in `STATIC_ACTIVATIONS`.
        low, high: what is to be held; what lies beyond is clipped.
    """
    least, most = static_range(kind)
    if not kind.endswith("_zero"):
        return Static(torch.tensor([max(abs(low), abs(high), EPSILON) / most]))
    low, high = min(low, 0.0), max(high, 0.0)
    scale = torch.tensor([max(high - low, EPSILON) / (most - least)])
    zero = (least - torch.tensor([low]) / scale).round_().clamp_(least, most)
    return Static(scale, zero)


def takes_8_bits(x: Tensor, kind: str, parts: int = 1) -> Tensor:
    """Return which tokens a rule "dynamic:R" rounds to 8 bits; the others get 4.

    The mean bits of an input are 4 + 4 * takes_8_bits(x, kind).float().mean().

    Returns:
        bool, the shape of the input with G for the last dimension.

    Raises:
        OptionError: `kind` is not "dynamic:R".
        ShapeError: `parts` does not divide K.
    """
    ratio = LinearScheme(activation=kind).outlier_ratio
    if not ratio > 0:
        raise OptionError(f'activation: {kind!r} has one width; accepted: "dynamic:R".')
    each = [_has_outlier(part, ratio) for part in _cut(x.detach().float(), parts)]
    return torch.cat(each, dim=-1)


def int8_absmax(x: Tensor) -> Activations:
    """Scale each token by its largest magnitude to -127 ... 127.

    Source: BitNet a4.8, equation 3, https://arxiv.org/abs/2411.04965
    """
    return _absmax(x, 8)


def int8_absmax_tensor(x: Tensor, per_token: bool = False) -> Activations:
    """Scale by the largest magnitude, over all tokens or each, to -127 ... 127.

    Source: BitNet, section 2.1 (per tensor while training), https://arxiv.org/abs/2310.11453
    """
    return _symmetric(x, _largest(x, per_token), 127)


def int4_absmean(x: Tensor) -> Activations:
    """Scale each token by its mean magnitude to -8 ... 7, with sqrt(7) codes to the mean.

    Large values are clipped, which for bell-shaped inputs costs less than wide steps would.

    Source: BitNet a4.8, equation 7, https://arxiv.org/abs/2411.04965
    """
    mean = _mean(x)
    root = mean.new_full((), 7.0).sqrt_()
    return Activations((x * torch.div(root, mean)).round_().clamp_(-8, 7), mean / root)


def int8_b1(x: Tensor, per_token: bool = False) -> Activations:
    """Scale by the largest magnitude, over all tokens or each, to 128; clip to -127 ... 127.

    The paper clips to -(Q - eps) ... Q - eps with Q = 128, "to prevent overflow"; on whole numbers
    eps is 1.

    Source: BitNet, equations 4 and 5, https://arxiv.org/abs/2310.11453
    """
    q = _symmetric(x, _largest(x, per_token), 128)
    return Activations(q.codes.clamp_(-127, 127), q.scale)


def int8_b1_positive(x: Tensor, per_token: bool = False) -> Activations:
    """Scale the distance from the smallest value to 0 ... 127, for what feeds a non-linearity.

    The paper divides by max |x| instead and leaves the minimum out of the result; the page on
    methods says what that costs.

    Source: BitNet, equation 6, https://arxiv.org/abs/2310.11453
    """
    low = x.amin(dim=-1, keepdim=True) if per_token else x.amin().view([1] * x.ndim)
    above = x - low  # 0 or more, so its largest magnitude is its largest value
    q = _symmetric(above, _largest(above, per_token), 128)
    return Activations(q.codes.clamp_(0, 127), q.scale, low)


def int8_top50(x: Tensor) -> Activations:
    """Round as int8_absmax and keep the larger half of each token's codes; the others become 0.

    Values as large as the smallest one kept are all kept.

    Source: BitNet a4.8, equation 1, https://arxiv.org/abs/2411.04965
    """
    codes, scale, _ = int8_absmax(x)
    size, K = x.abs(), x.shape[-1]
    least_kept = size.kthvalue(K - (K + 1) // 2 + 1, dim=-1, keepdim=True).values
    return Activations(codes.masked_fill_(size < least_kept, 0.0), scale)


def fp4_e2m1(x: Tensor) -> Activations:
    """Round to 4-bit floats: the largest magnitude of a token becomes 6, E2M1's largest.

    E2M1 has 0, 0.5, 1, 1.5, 2, 3, 4, 6; the codes are twice that, and the scale m / 12. Ties go to
    the even mantissa.

    Source: BitNet a4.8, section 2.2, https://arxiv.org/abs/2411.04965, whose equation 8 gives this
        grid only with its floor taken around the sum log2|x| + b.
    """
    largest = _largest(x, per_token=True)
    twelve = largest.new_full((), 12.0)
    v = x * torch.div(twelve, largest)
    size = v.abs()
    # the levels are 1 apart below 4, 2 below 8, then 4; powers of two, so that both steps are exact
    step = 1.0 + size.ge(4).float() + 2 * size.ge(8).float()
    return Activations((v / step).round_().mul_(step), torch.div(largest, twelve))


def dynamic(x: Tensor, ratio: float) -> Activations:
    """Round tokens with an outlier as int8_absmax, the others as int4_absmean.

    An outlier is a value whose magnitude is above `ratio` times the token's mean magnitude.
    """
    wide, narrow = int8_absmax(x), int4_absmean(x)
    outlier = _has_outlier(x, ratio)
    codes = torch.where(outlier, wide.codes, narrow.codes)
    return Activations(codes, torch.where(outlier, wide.scale, narrow.scale))


def _rule(kind: str, per_token: bool) -> Callable[[Tensor], Activations]:
    if kind in _SHARED:
        return lambda x: _SHARED[kind](x, per_token)
    if kind in RULES:
        return RULES[kind]
    if isinstance(kind, str) and kind.startswith("dynamic:"):
        ratio = LinearScheme(activation=kind).outlier_ratio
        return lambda x: dynamic(x, ratio)
    raise OptionError(
        f"activation: {kind!r} is not a rule; accepted: {', '.join(RULES)}, dynamic:R, "
        "intB_static, intB_static_zero."
    )


def _cut(x: Tensor, parts: int) -> tuple[Tensor, ...]:
    K = x.shape[-1]
    if parts < 1 or K % parts:
        raise ShapeError(
            f"activation: {K} columns do not split into {parts} parts. Choose a number of parts "
            f"that divides {K}."
        )
    return torch.split(x, K // parts, dim=-1)


def _largest(x: Tensor, per_token: bool) -> Tensor:
    size = x.abs()
    largest = size.amax(dim=-1, keepdim=True) if per_token else size.amax().view([1] * x.ndim)
    return largest.clamp_(min=EPSILON)


def _mean(x: Tensor) -> Tensor:
    mean = x.abs().mean(dim=-1, keepdim=True, dtype=torch.float64)
    return mean.float().clamp_(min=EPSILON)


def _has_outlier(x: Tensor, ratio: float) -> Tensor:
    mean = _mean(x)
    return _largest(x, per_token=True) > mean.new_full((), ratio) * mean


def _absmax(x: Tensor, bits: int) -> Activations:
    return _symmetric(x, _largest(x, per_token=True), 2 ** (bits - 1) - 1)


def _symmetric(x: Tensor, largest: Tensor, steps: int) -> Activations:
    # |x| <= largest, so that x * (steps / largest) is at most `steps` and a few ulp: it rounds to
    # `steps` and there is nothing to clamp
    most = largest.new_full((), float(steps))
    return Activations((x * torch.div(most, largest)).round_(), torch.div(largest, most))


def _of_bits(bits: int) -> Callable[[Tensor], Activations]:
    """Return "int{bits}_absmax": each token scaled by its largest magnitude to 2^(bits-1) - 1."""
    return lambda x: _absmax(x, bits)


_SHARED: dict[str, Callable[[Tensor, bool], Activations]] = {
    "int8_absmax_tensor": int8_absmax_tensor,
    "int8_b1": int8_b1,
    "int8_b1_positive": int8_b1_positive,
}

RULES: dict[str, Callable[[Tensor], Activations]] = {
    "int8_absmax": int8_absmax,
    "int8_absmax_tensor": int8_absmax_tensor,
    **{f"int{bits}_absmax": _of_bits(bits) for bits in range(2, 8)},
    "int4_absmean": int4_absmean,
    "int8_b1": int8_b1,
    "int8_b1_positive": int8_b1_positive,
    "int8_top50": int8_top50,
    "fp4_e2m1": fp4_e2m1,
}
"""Every rule with one name; "dynamic:R" has a number in its own."""
