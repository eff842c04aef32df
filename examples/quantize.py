"""The maths alone: what ternary rules cost on Gaussian weights, and why to quantize only once.

python examples/quantize.py
"""

import torch

from onebit.quant import dequantize, on_grid, ternary

torch.manual_seed(0)
w = torch.randn(512, 512) * 0.02

for rule in (ternary.quantize_absmean, ternary.quantize_absmedian, ternary.quantize_least_squares):
    error = (w - dequantize(rule(w))).norm() / w.norm()
    print(f"{rule.__name__:24s} relative error {error:.3f}")

once = ternary.quantize_absmean(w)
twice = ternary.quantize_absmean(dequantize(once))
print(f"rounded again: codes equal {torch.equal(once.codes_NK, twice.codes_NK)}, ", end="")
print(f"scale x {(twice.scale_NG / once.scale_NG).mean():.3f}")

kept = on_grid(dequantize(once))  # so ask first, and keep what is there
print(f"on_grid keeps the scale: {torch.equal(kept.scale_NG, once.scale_NG)}")
