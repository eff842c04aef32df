"""Static activations: their range comes from the text, is stored, and is what the engine uses."""

import numpy as np
import pytest
import torch
from tests.ptq.conftest import TEXT, TOKENS

from onebit import LLM, ptq
from onebit.errors import OptionError
from onebit.io import open_checkpoint
from onebit.models import load
from onebit.nn import bit_linears
from onebit.ptq import Options, static
from onebit.quant import activation
from onebit.scheme import LinearScheme


@pytest.mark.parametrize("name", ["w8a8s", "w8a8sz-g32", "w6a4sz-row-sym"])
def test_the_engine_computes_with_the_factors_of_the_text(model, tmp_path, name):
    out = tmp_path / "out"
    ptq.quantize(model, out, method="rtn", scheme=name, calibration=TEXT)
    loaded, floats = load(out), load(model)
    checkpoint = open_checkpoint(out)
    layers = dict(bit_linears(loaded))
    assert len(layers) == 14
    for own, layer in layers.items():
        scale = checkpoint.tensor(f"{own}.input_scale")
        assert scale.shape == (1,)
        assert 0 < float(layer.static.scale) == float(scale.data.view("<f4")[0])
        assert (layer.static.zero is not None) == ("sz" in name)
    with torch.no_grad():
        wanted, expected = (m(torch.from_numpy(TOKENS[:1]))[0].numpy() for m in (floats, loaded))
    with LLM(out, kv_bits=32, threads=1) as llm:
        given = llm.logits(TOKENS[0].tolist())
    size = np.sqrt(np.mean(wanted**2))
    assert np.sqrt(np.mean((given - expected) ** 2)) < 0.03 * size  # a code here and there differs
    assert np.sqrt(np.mean((expected - wanted) ** 2)) < (0.1 if "a8" in name else 1) * size


def test_a_range_is_clipped_as_the_option_says(model, tmp_path):
    for clip in ("none", "ratio:0.5"):
        out = tmp_path / clip[:4]
        options = Options(input_clip=clip)
        ptq.quantize(model, out, method="rtn", scheme="w8a8s", calibration=TEXT, options=options)
    name = "model.layers.0.self_attn.q_proj.input_scale"
    whole, half = (
        open_checkpoint(tmp_path / clip).tensor(name).data.view("<f4")[0]
        for clip in ("none", "rati")
    )
    assert half == whole / 2


def test_factors_hold_the_range_that_came():
    x = torch.tensor([[-1.0, 0.5, 3.0]])
    kept = static.factors([x, x / 2], LinearScheme(activation="int8_static"), "none")
    assert float(kept.scale) == pytest.approx(3 / 127)
    assert kept.zero is None
    kept = static.factors([x], LinearScheme(activation="int4_static_zero"), "none")
    assert float(kept.scale) == pytest.approx(4 / 15)
    a = activation.quantize(x, "int4_static_zero", static=kept)
    assert a.codes.tolist() == [[-8, -2, 7]]
    assert static.factors([x], LinearScheme(activation="int8_absmax"), "none") is None


def test_what_cannot_be_static_is_refused(model, tmp_path):
    with pytest.raises(OptionError, match=r"static activations have the range that a text shows"):
        ptq.quantize(model, tmp_path / "out", method="rtn", scheme="w8a8s")
    with pytest.raises(OptionError, match="input_clip"):
        ptq.quantize(
            model,
            tmp_path / "out",
            method="rtn",
            scheme="w8a8",
            calibration=TEXT,
            options=Options(input_clip="mse"),
        )
    with pytest.raises(OptionError, match=r"input_clip is 'output'; accepted: none, mse, kl, "):
        Options(input_clip="output")
