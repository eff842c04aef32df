"""PackedLinear: a linear layer for inference, on the packed codes and the native kernels.

It computes what the `BitLinear` it was made from computes, the same integer sums, from 2 bits per
ternary weight in memory. Without rounded activations (activation "fp") the kernels round the input
to int8 in blocks of 32, much finer than per token, so that the result is close instead of equal.

Shape letters: T tokens (any leading shape), N out features, K in features.
"""

from types import ModuleType

import torch
from torch import Tensor, nn

from onebit.errors import UnsupportedError
from onebit.nn import inputs
from onebit.nn.bitlinear import BitLinear
from onebit.pack import Unpacked


class PackedLinear(nn.Module):
    """Holds a `kernels.ops` matrix; has no parameters to train and no state_dict but the norm's."""

    def __init__(self, layer: BitLinear) -> None:
        """Pack the codes, bias and norm of `layer`.

        Raises:
            OptionError: the layer's weight is "fp".
            ShapeError: the kernels have no layout for its groups.
            UnsupportedError: the native extension is not built.
        """
        super().__init__()
        if layer.parts > 1:
            raise UnsupportedError(
                f"PackedLinear: the input is split {layer.scheme.split!r}, which is not supported. "
                "Run the BitLinear."
            )
        q = layer.codes()
        self.matrix = _native().repack(
            Unpacked(q.codes_NK.cpu().numpy(), q.scale_NG.contiguous().cpu().numpy())
        )
        self.scheme = layer.scheme
        self.rms_norm, self.layer_norm = layer.rms_norm, layer.layer_norm
        self.bias = None if layer.bias is None else layer.bias.detach().float().cpu()

    def forward(self, x_TK: Tensor) -> Tensor:
        """Return the output on the input's device and in its dtype.

        Raises:
            UnsupportedError: a gradient is asked for.
        """
        norm = self.layer_norm if self.rms_norm is None else self.rms_norm
        x_TK = inputs.turned(x_TK, norm, self.scheme)
        if torch.is_grad_enabled() and x_TK.requires_grad:
            raise UnsupportedError(
                "PackedLinear has no gradient. Run it under torch.no_grad(), or train a BitLinear."
            )
        rows_TK = x_TK.detach().reshape(-1, x_TK.shape[-1]).float().cpu().numpy()
        y_TN = torch.from_numpy(_native().linear(self.matrix, rows_TK, self.scheme.activation))
        if self.bias is not None:
            y_TN += self.bias
        return y_TN.to(x_TK.device, x_TK.dtype).view(*x_TK.shape[:-1], -1)

    def extra_repr(self) -> str:
        N, K = self.matrix.shape
        layout, activation = self.matrix.layout, self.scheme.activation
        return f"in_features={K}, out_features={N}, layout={layout}, input {activation}"


def _native() -> ModuleType:
    try:
        from onebit.kernels import ops
    except ImportError as error:
        raise UnsupportedError(
            f"PackedLinear needs the native extension, which is not built ({error}). "
            "Install onebit with `pip install .`, or run the BitLinear."
        ) from error
    return ops
