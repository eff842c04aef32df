"""ggml's block formats, rounded natively: the numbers of `quant.blockwise`, bit for bit, sooner.

    FORMATS["q4_k"](w, importance)      as quant.blockwise.FORMATS["q4_k"], whose errors it raises

Where the extension is not built, and on other devices, it is torch that rounds.
"""

import torch
from torch import Tensor

from onebit import pack
from onebit.nn import native
from onebit.nn.native_codes import array
from onebit.quant import Codes, blockwise
from onebit.quant.blockwise import BLOCK, K_BLOCK, BlockQuantizer
from onebit.quant.codes import split


def _native(name: str, in_torch: BlockQuantizer) -> BlockQuantizer:
    form = pack.FORMATS[name]
    group = K_BLOCK if name in blockwise.TERNARY else BLOCK
    if name in blockwise.GRIDS:
        group = blockwise.GRIDS[name].group

    def rounded(w_NK: Tensor, importance_K: Tensor | None = None) -> Codes:
        ops = native.find()
        if ops is None or w_NK.device.type != "cpu":
            return in_torch(w_NK, importance_K)
        w_Sk = split(f"blockwise.{name}", w_NK, form.columns).contiguous()
        h_K = None
        if name != "q8_0":  # which knows none
            h_K = blockwise.relative_importance(importance_K, w_NK)
        N, K = w_NK.shape
        codes_NK = torch.empty(N, K, dtype=torch.int8)
        scale_NG = torch.empty(N, K // group)
        minimum_NG = torch.empty_like(scale_NG) if form.has_minimum else None
        ops.round_to_blocks(
            name,
            array(w_Sk.view(N, K)),
            None if h_K is None else array(h_K.contiguous()),
            array(codes_NK),
            array(scale_NG),
            None if minimum_NG is None else array(minimum_NG),
            torch.get_num_threads(),
        )
        return Codes(codes_NK, scale_NG, minimum_NG=minimum_NG)

    return rounded


FORMATS: dict[str, BlockQuantizer] = {
    name: _native(name, in_torch) for name, in_torch in blockwise.FORMATS.items()
}
TERNARY: dict[str, BlockQuantizer] = {
    name: _native(name, in_torch) for name, in_torch in blockwise.TERNARY.items()
}
