"""Two planes of trits, from float weights to a file and to the engine."""

import numpy as np
import pytest
import torch
from tests.ptq.conftest import TEXT, TOKENS

from onebit import LLM, models, ptq, quant
from onebit.errors import OptionError, UnsupportedError
from onebit.io import open_checkpoint
from onebit.nn import BitLinear, PackedLinear
from onebit.ptq import Options
from onebit.scheme import LinearScheme

UP = "model.layers.1.mlp.up_proj"


@torch.no_grad()
def logits(path):
    return models.load(path)(torch.from_numpy(TOKENS[:1]))[0].numpy()


def far(given, wanted):
    return np.sqrt(np.mean((given - wanted) ** 2) / np.mean(wanted**2))


@pytest.mark.parametrize("name", ["w2x1.58a16-g32", "w2x1.58a8-row"])
def test_the_file_holds_both_planes_and_the_engine_adds_them(model, tmp_path, name):
    out = tmp_path / "out"
    report = ptq.quantize(model, out, method="ternary", scheme=name, calibration=TEXT)
    one = tmp_path / "one"
    ptq.quantize(model, one, method="ternary", scheme=name.replace("2x", ""), calibration=TEXT)
    stored = open_checkpoint(out).tensor(f"{UP}.weight")
    groups = 64 // 32 if "g32" in name else 1
    assert (stored.format, stored.shape) == ("t1_6", (128, 2 * 64))
    assert stored.scale.shape == (128, 2 * groups)
    row = next(row for row in report.rows if row.layer == UP)
    assert row.size_bytes == 128 * (-(-2 * 64 // 5) + 2 * 2 * groups)
    expected, wanted = logits(out), logits(model)
    assert far(expected, wanted) < 0.6 * far(logits(one), wanted)
    with LLM(out, kv_bits=32, threads=1) as llm:
        given = llm.logits(TOKENS[0].tolist())
    assert far(given, expected) < 5e-4
    loaded = models.load(out)
    with pytest.raises(OptionError, match="two planes of trits, which floats do not show"):
        models.save(loaded, tmp_path / "saved")
    again = models.export(out, tmp_path / "again")
    assert again.format == "t1_6"
    np.testing.assert_array_equal(logits(tmp_path / "again"), expected)


def test_two_planes_without_the_scheme_that_says_so_are_refused(model, tmp_path):
    with pytest.raises(UnsupportedError, match=r"which the scheme does not say.*w2x1\.58a16-g64"):
        ptq.quantize(
            model,
            tmp_path / "out",
            method="ternary",
            scheme="w1.58a16-g32",
            calibration=TEXT,
            options=Options(planes=2),
        )


@pytest.mark.parametrize("activation", ["int8_absmax", "int4_absmean", "fp", "int8_b1_positive"])
@torch.no_grad()
def test_the_kernels_multiply_both_planes_with_one_input(isa, activation):
    scheme = LinearScheme("ternary2", "least_squares", "group:32", activation)
    layer = BitLinear(96, 33, scheme=scheme).eval()
    layer.weight.normal_(generator=torch.Generator().manual_seed(1))
    x = torch.randn(13, 96, generator=torch.Generator().manual_seed(2))
    expected = layer(x)
    atol = 1e-4 * float(expected.abs().max()) if activation == "fp" else 3e-5
    for T in (1, 13):
        torch.testing.assert_close(PackedLinear(layer)(x[:T]), expected[:T], rtol=1e-5, atol=atol)
    q = layer.codes()
    assert q.codes_NK.shape == (33, 192)
    assert torch.equal(quant.values(q, scheme), quant.planes.dequantize(q))
