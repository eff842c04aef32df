"""Codes that a layer holds instead of rounding: what may be held, and how training goes on.

Shape letters: N out features, K in features, G groups of a row.
"""

import torch
from torch import Tensor

from onebit import quant
from onebit.errors import OptionError, ShapeError
from onebit.quant import Codes
from onebit.quant.codes import EPSILON
from onebit.scheme import LinearScheme
from onebit.tensors import codes_shape, step_shape


def checked(q: Codes, w_NK: Tensor, scheme: LinearScheme) -> Codes:
    """Return the codes as a layer holds them.

    Raises:
        ShapeError: they are not of the shape of its weights.
        OptionError: they have a zero-point, and those of the scheme have none.
    """
    wanted = codes_shape(scheme, *w_NK.shape)
    if q.codes_NK.shape != wanted:
        raise ShapeError(
            f"freeze: the codes have shape {tuple(q.codes_NK.shape)}, the layer {wanted}. Pass "
            "codes (out_features, in_features)."
        )
    symmetric = q.zero_NG is None and q.minimum_NG is None
    if not symmetric and scheme.weight_rule != "zero_point":
        raise OptionError("freeze: codes with a zero-point; this scheme's codes are symmetric.")
    return q._replace(scale_NG=q.scale_NG.float())


def on_device(q: Codes, device: torch.device) -> Codes:
    """Return the codes on a device; themselves where they are there."""
    if q.codes_NK.device == device:
        return q
    zero_NG, minimum_NG = (None if field is None else field.to(device) for field in q[2:])
    return Codes(q.codes_NK.to(device), q.scale_NG.to(device), zero_NG, minimum_NG)


def step_of(q: Codes, scheme: LinearScheme) -> Tensor:
    """Return the learned step whose grid the codes are on; the mean where they have several."""
    scale_NG = q.scale_NG / quant.learned.grid_of(scheme).scale
    shape = step_shape(scheme, *q.codes_NK.shape)
    if shape == (1,):
        return scale_NG.mean().view(1)
    return scale_NG.mean(dim=1) if len(shape) == 1 else scale_NG.expand(shape).contiguous()


def latent(q: Codes, scheme: LinearScheme) -> Tensor:
    """Return float weights, (N, K), that the scheme rounds to these codes and their scale.

    Raises:
        OptionError: absmean has no such scale: it ends at 1e-5.
    """
    w_NK = quant.values(q, scheme)
    if (scheme.weight, scheme.weight_rule) == ("ternary", "absmean"):
        least = w_NK.abs().where(w_NK != 0, 1.0).min()
        if least < EPSILON:
            raise OptionError(
                f"unfreeze: a scale of {float(least):.3g}, and absmean's scales end at "
                f"{EPSILON:g}. Keep the layer frozen, or train from other weights."
            )
        w_NK = _latent_absmean(q, scheme)
    return turned_back(w_NK, scheme)


def turned_back(w_NK: Tensor, scheme: LinearScheme) -> Tensor:
    """Return the weights W of W diag(signs) H^T, which codes under hadamard "both" stand for."""
    if scheme.hadamard != "both":
        return w_NK
    signs_K = quant.hadamard.signs_of(scheme, w_NK.shape[1], w_NK.device)
    return quant.hadamard.transform(w_NK, signs_K, transpose=True)


def _latent_absmean(q: Codes, scheme: LinearScheme) -> Tensor:
    """Return what absmean rounds to these codes, part by part."""
    group = quant.group_of(scheme, q.codes_NK.shape[1])
    if scheme.parts == 1:
        return quant.ternary.latent_absmean(q, group)
    rows = scheme.split.startswith("out")
    scale_NG = q.scale_NG if rows else q.scale_NG.expand(-1, scheme.parts)
    scales = scale_NG.chunk(scheme.parts, dim=0 if rows else 1)
    parts = zip(quant.parts.cut(q.codes_NK, scheme), scales, strict=True)
    latents = [quant.ternary.latent_absmean(Codes(*part), group) for part in parts]
    return torch.cat(latents, dim=0 if rows else 1)
