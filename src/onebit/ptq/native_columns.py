"""The loops over columns inside a block, of GPTQ and of a descent's sweep, by the native kernels.

They do what torch does there, to the same numbers, without a call for every column.

Shape letters: N rows, b columns of a block, which come as rows in memory, G groups of columns.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from onebit.nn import native
from onebit.nn.native_codes import array
from onebit.quant.descent import ColumnGrid, SweepBlock

_MOST = 256
"""Columns of a block that the kernels take."""

RoundBlock = Callable[[int, Tensor, Tensor], tuple[Tensor, Tensor]]
"""(first column, weights (b, N), U (b, b)) -> codes and errors (b, N), float32."""


def rounding(
    scale_NG: Tensor, zero_NG: Tensor, group_K: Tensor, codes: tuple[int, int], block: int
) -> RoundBlock | None:
    """Return what rounds a block of GPTQ's columns, or None where torch is to do it.

    Args:
        scale_NG, zero_NG: of the groups.
        group_K: the group of each column.
        codes: the least and the greatest.
        block: columns at a time.
    """
    ops = native.find()
    if ops is None or block > _MOST or scale_NG.device.type != "cpu":
        return None
    scale_GN, zero_GN = scale_NG.T.contiguous(), zero_NG.T.contiguous()
    group_of = group_K.to(torch.int32)

    def rounded(first: int, w_bN: Tensor, U_bb: Tensor) -> tuple[Tensor, Tensor]:
        codes_bN, error_bN = torch.empty_like(w_bN), torch.empty_like(w_bN)
        ops.round_columns(
            array(w_bN),
            array(U_bb.contiguous()),
            array(scale_GN),
            array(zero_GN),
            array(group_of[first : first + len(w_bN)]),
            codes,
            array(codes_bN),
            array(error_bN),
            torch.get_num_threads(),
        )
        return codes_bN, error_bN

    return rounded


def sweeping() -> SweepBlock | None:
    """Return what chooses a block of columns anew in `descent.improved`, or None."""
    ops = native.find()
    if ops is None:
        return None

    def swept(
        grid: ColumnGrid,
        first: int,
        value_bN: Tensor,
        pull_bN: Tensor,
        own_bb: Tensor,
        inverse_b: Tensor,
    ) -> Tensor:
        change_bN = torch.empty_like(pull_bN)
        columns_b = torch.arange(first, first + len(pull_bN), dtype=torch.int32)
        ops.sweep_columns(
            array(value_bN),
            array(pull_bN),
            array(own_bb.contiguous()),
            array(inverse_b.contiguous()),
            array(grid.scale_GN),
            array(grid.inverse_GN),
            array(grid.zero_GN),
            array(columns_b // grid.group),
            grid.codes,
            array(change_bN),
            torch.get_num_threads(),
        )
        return change_bN

    return swept
