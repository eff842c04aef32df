"""Layers where the native extension is not built: the same integers, by torch alone."""

import subprocess
import sys

import pytest
import torch

from onebit.nn import BitLinear, HBitLinear
from onebit.scheme import LinearScheme

CODE = """
import sys
sys.modules["onebit.kernels.ops"] = None
import torch
from onebit.nn import BitLinear, HBitLinear
layers = torch.load(sys.argv[1], weights_only=False)
torch.save([(layer(x), layer.input_codes(x).codes) for layer, x in layers], sys.argv[2])
"""


@torch.no_grad()
def test_torch_alone_gives_the_same(tmp_path):
    pytest.importorskip("onebit.kernels.ops")
    b1 = LinearScheme("binary", activation="int8_b1", norm="layer")
    torch.manual_seed(0)
    made = [BitLinear(48, 8), HBitLinear(48, 8), BitLinear(48, 8, True, b1)]
    layers = [(layer, torch.randn(5, 48)) for layer in made]
    torch.save(layers, tmp_path / "layers.pt")
    command = [sys.executable, "-c", CODE, tmp_path / "layers.pt", tmp_path / "out.pt"]
    subprocess.run(command, check=True)
    for (layer, x), (y, codes) in zip(layers, torch.load(tmp_path / "out.pt"), strict=True):
        torch.testing.assert_close(y, layer(x), rtol=1e-5, atol=1e-5)
        assert torch.equal(codes, layer.input_codes(x).codes)
