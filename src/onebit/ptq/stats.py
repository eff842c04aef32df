"""What is known of the inputs of a linear layer, gathered while calibration tokens pass.

Shape letters: T tokens, K in features.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from onebit.errors import InputError
from onebit.quant.activation import Static

SAMPLE = 512
"""Rows that `Stats.sample_TK` keeps at most."""


@dataclass
class Stats:
    """Of what enters the product of one linear, or of several that share their input.

    That is behind the layer's norm and Hadamard turn and, where the scheme rounds activations, of
    the rounded values: what the codes of the weights will be multiplied with.
    """

    tokens: int
    gram_KK: Tensor | None
    """float32: mean of x x^T over tokens; None where no method asks for it."""
    mean_K: Tensor
    mean_abs_K: Tensor
    max_abs_K: Tensor
    min_K: Tensor
    max_K: Tensor
    sample_TK: Tensor
    """A few hundred rows, evenly spread over the tokens, for searches."""
    drift_KK: Tensor | None = None
    """float32: mean of (x_float - x) x^T, where the float model goes along; its input less this."""
    static: Static | None = None
    """Of inputs that are rounded with one scale for all, what `static.factors` found."""
    notes: list[str] = field(default_factory=list)
    """What a method has to say of the layer ("3 dead columns"); the report shows them."""

    @property
    def mean_square_K(self) -> Tensor:
        """The diagonal of the Gram matrix.

        Raises:
            InputError: no Gram matrix was gathered.
        """
        return self.gram().diagonal()

    def gram(self) -> Tensor:
        """Return the Gram matrix.

        Raises:
            InputError: none was gathered.
        """
        if self.gram_KK is None:
            raise InputError("stats: no Gram matrix was gathered; ask for one by Method.needs.")
        return self.gram_KK


class Recorder:
    """Gathers `Stats` of inputs that come in parts."""

    def __init__(self, columns: int, tokens: int, gram: bool, drift: bool = False) -> None:
        """`tokens` is how many will come; `gram` whether a Gram matrix is wanted, `drift` whether
        inputs of the float model come too."""
        self._expected = tokens
        self._seen = 0
        self._gram: np.ndarray | None = np.zeros((columns, columns), np.float32) if gram else None
        self._drift = torch.zeros(columns, columns) if drift else None
        self._sum = torch.zeros(columns, dtype=torch.float64)
        self._sum_abs = torch.zeros(columns, dtype=torch.float64)
        self._min = torch.full((columns,), float("inf"))
        self._max = torch.full((columns,), float("-inf"))
        self._sample: list[Tensor] = []

    def add(self, x_TK: Tensor, float_TK: Tensor | None = None) -> None:
        """Count some rows, of any leading shape; `float_TK` are the same in the float model."""
        x_TK = x_TK.detach().float().reshape(-1, x_TK.shape[-1])
        if self._drift is not None and float_TK is not None:
            self._drift.addmm_((float_TK.reshape(x_TK.shape) - x_TK).T, x_TK)
        if self._gram is not None:
            x = x_TK.numpy()
            with np.errstate(over="ignore", invalid="ignore"):  # `stats` says it in words
                self._gram += x.T @ x  # NumPy knows the symmetric product, at half the work
        self._sum += x_TK.sum(dim=0).double()  # a part in float32, the parts in float64
        self._sum_abs += x_TK.abs().sum(dim=0).double()
        self._min = torch.minimum(self._min, x_TK.amin(dim=0))
        self._max = torch.maximum(self._max, x_TK.amax(dim=0))
        self._sample.append(x_TK[list(self._sampled(len(x_TK)))].clone())
        self._seen += len(x_TK)

    def _sampled(self, count: int) -> Iterator[int]:
        """Yield which of the next `count` rows are kept: every so-manyth of all that will come."""
        step = max(1, self._expected // SAMPLE)
        return iter(range(-self._seen % step, count, step))

    def stats(self) -> Stats:
        """Return what was gathered; once, at the end.

        Raises:
            InputError: nothing came, or values that are not finite.
        """
        if not self._seen:
            raise InputError("stats: no tokens came. Give calibration text.")
        largest = torch.maximum(self._min.abs(), self._max.abs())
        if not bool(torch.isfinite(largest).all()):
            raise InputError(
                "the calibration text gives this layer inputs that are not finite. The model "
                "overflows or holds weights that are not finite; `onebit verify` names them."
            )
        if self._gram is not None:
            self._gram /= np.float32(self._seen)  # in place: as large as anything that is held
            if not np.isfinite(self._gram.diagonal()).all():
                raise InputError(
                    "the calibration text gives this layer inputs of up to "
                    f"{float(largest.max()):.3g}, whose squares are not finite in float32. The "
                    "model overflows; take another."
                )
        gram = None if self._gram is None else torch.from_numpy(self._gram)
        return Stats(
            self._seen,
            gram,
            (self._sum / self._seen).float(),
            (self._sum_abs / self._seen).float(),
            largest,
            self._min,
            self._max,
            torch.cat(self._sample)[:SAMPLE],
            None if self._drift is None else self._drift / self._seen,
        )
