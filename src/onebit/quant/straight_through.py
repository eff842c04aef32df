"""The straight-through estimator: round in the forward pass, pretend in the backward one."""

from torch import Tensor


def straight_through(w: Tensor, w_hat: Tensor) -> Tensor:
    """Return `w_hat` to the bit, with the gradient of `w`.

    The usual w + (w_hat - w).detach() rounds in bf16: the sum leaves the grid in about 2 % of the
    weights, so what trains is not what is packed. Here w - w.detach() is exactly 0.

    Args:
        w: the float weights or activations that take the gradient; finite.
        w_hat: their rounded values, same shape and dtype.

    Source: Bengio et al., https://arxiv.org/abs/1308.3432
    """
    return w_hat.detach() + (w - w.detach())
