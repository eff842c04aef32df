"""PackedLinear: a linear layer for inference, on the packed codes and the native kernels.

It computes what the `BitLinear` it was made from computes in evaluation mode, the same integer
sums, from 2 bits per ternary weight in memory. Norm and Hadamard turn are the BitLinear's own; the
kernels round what comes out of them. Without rounded activations (activation "fp") they take it as
two int8 terms in blocks of 32: the result is equal but for rounding as floats have it.

Shape letters: T tokens (any leading shape), N out features, K in features.
"""

import torch
from torch import Tensor, nn

from onebit.errors import ShapeError, UnsupportedError
from onebit.nn import inputs, native
from onebit.nn.bitlinear import BitLinear
from onebit.pack import Unpacked
from onebit.quant import Codes
from onebit.quant.activation import Static


class PackedLinear(nn.Module):
    """Holds a `kernels.ops` matrix; has no parameters to train and no state_dict but the norm's."""

    def __init__(self, layer: BitLinear) -> None:
        """Pack the codes, bias and norm of `layer`.

        Raises:
            OptionError: the layer's weight is "fp".
            ShapeError: the kernels have no layout for its groups or parts.
            UnsupportedError: the native extension is not built.
        """
        super().__init__()
        q = layer.codes()
        if layer.parts > 1 and layer.in_features // layer.parts % 32:
            raise ShapeError(
                f"PackedLinear: {layer.parts} parts of {layer.in_features // layer.parts} columns; "
                "the kernels need a multiple of 32. Run the BitLinear."
            )
        minimum_NG = _minimum(q)
        self.matrix = native.need("PackedLinear").repack(
            Unpacked(
                q.codes_NK.cpu().numpy(),
                q.scale_NG.contiguous().cpu().numpy(),
                None if minimum_NG is None else minimum_NG.contiguous().cpu().numpy(),
            )
        )
        self.scheme = layer.scheme
        rule = self.scheme.activation  # each token has its own scale behind training
        self._rule = "int8_absmax" if rule == "int8_absmax_tensor" else rule
        self._planes = layer.scheme.planes
        if self._planes > 1 and layer.in_features % 32:
            raise ShapeError(
                f"PackedLinear: {layer.in_features} columns in two planes; the kernels need a "
                "multiple of 32. Run the BitLinear."
            )
        self._static = None if layer.static is None else numbers(layer.static)
        self.parts = layer.parts
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
        ops = native.need("PackedLinear")
        y = ops.linear(self.matrix, rows_TK, self._rule, self.parts, self._static, self._planes)
        y_TN = torch.from_numpy(y)
        if self.bias is not None:
            y_TN += self.bias
        return y_TN.to(x_TK.device, x_TK.dtype).view(*x_TK.shape[:-1], -1)

    def extra_repr(self) -> str:
        N, K = self.matrix.shape
        layout, activation = self.matrix.layout, self.scheme.activation
        return f"in_features={K}, out_features={N}, layout={layout}, input {activation}"


def numbers(static: Static) -> tuple[float, int]:
    """Return the factors of a static activation as the kernels take them: scale and zero-point."""
    return float(static.scale), 0 if static.zero is None else int(static.zero)


def _minimum(q: Codes) -> Tensor | None:
    """Return what is added to code * scale: with a zero-point, value = (code - zero) * scale."""
    if q.zero_NG is None:
        return q.minimum_NG
    shift_NG = -q.zero_NG.float() * q.scale_NG
    return shift_NG if q.minimum_NG is None else shift_NG + q.minimum_NG
