"""Quantizing a trained model after training.

    from onebit import ptq
    ptq.quantize("model", "out.gguf", method="gptq", scheme="w3a16-g64", calibration="wiki")

Each method is one file and one function; here is their table. What to round, with which range and
in which order is decided in this folder; the rounding itself is in `quant/`.
"""

from onebit.ptq import gptq, rtn
from onebit.ptq.method import Method
from onebit.ptq.options import Options

__all__ = ["METHODS", "Method", "Options"]

METHODS: dict[str, Method] = {
    "rtn": rtn.METHOD,
    "gptq": gptq.METHOD,
}
"""Word on the command line -> the method; "smoothquant+gptq" names two, the rounding last."""
