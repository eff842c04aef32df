"""Random models of every scheme: the file is what the scheme claims, and of one shape with it."""

from dataclasses import replace

import numpy as np
import pytest

from onebit import LLM, SCHEMES, pack
from onebit.analyze.verify import verify
from onebit.errors import OptionError
from onebit.eval import shapes
from onebit.eval.random_bytes import of_weight, spread_of_codes
from onebit.eval.random_model import model_of_shape, random_model
from onebit.eval.speed import check
from onebit.scheme import LinearScheme, Scheme

TINY = shapes.SHAPES["tiny"]
MORE = {
    "parts": Scheme("parts", {"body": LinearScheme("binary", split="in:4", norm="layer")}),
    "rows": Scheme("rows", {"body": LinearScheme("ternary", split="out:4")}),
    "zero-point": Scheme("z", {"body": LinearScheme("int4", "zero_point", "group:32")}),
    "mixed": Scheme("m", {"q": LinearScheme("int5", "absmax"), "o": LinearScheme("binary")}),
}
ALL = {name: scheme for name, scheme in SCHEMES.items() if scheme.quantized} | MORE


@pytest.mark.parametrize("name", ALL)
def test_every_scheme_can_be_drawn(tmp_path, name):
    shape = shapes.under(TINY, ALL[name])
    random_model(tmp_path / "m.gguf", shape, "t1_6", "q8_0", scheme=ALL[name])
    report = verify(tmp_path / "m.gguf")
    assert report.ok, [t.findings for t in report.tensors if not t.ok] + list(report.findings)
    assert report.scheme == ALL[name].name
    with LLM(tmp_path / "m.gguf", threads=1) as llm:
        check(llm)  # whole, token by token and in a batch alike
        assert 1.5 < np.std(llm.logits(list(range(64)))) < 3.5


@pytest.mark.parametrize("weight", ["binary", *(f"int{bits}" for bits in range(2, 9))])
@pytest.mark.parametrize("K", [256, 257])
def test_codes_are_spread_as_said(weight, K):
    data = of_weight(np.random.Generator(np.random.SFC64(0)), weight, 64, K)
    codes_NK = pack.FORMATS[pack.USUAL[weight]].unpack(data, (64, K), 1.0).codes_NK
    assert np.std(codes_NK.astype(float)) == pytest.approx(spread_of_codes(weight), rel=0.02)
    if weight != "binary":
        half = 2 ** (int(weight[3:]) - 1)
        assert (codes_NK.min(), codes_NK.max()) == (-half, half - 1)


def test_norms_stand_once():
    bitnet = replace(TINY, model_type="bitnet", hidden_act="relu2", sub_norms=True)
    sub = shapes.under(bitnet, SCHEMES["bitnet-v2-a4"])
    assert (sub.sub_norms, sub.pre_norms, sub.hidden_act) == (False, True, "relu2")
    inner = shapes.under(bitnet, SCHEMES["bitnet-b1"])
    assert (inner.sub_norms, inner.pre_norms) == (False, False)
    assert shapes.under(bitnet, SCHEMES["bitnet-b1.58"]) == bitnet


def test_a_kept_file_of_another_scheme_is_refused(tmp_path):
    path = tmp_path / "m.gguf"
    assert model_of_shape(path, "tiny", scheme="bitnet-v2-a4") == "tiny bitnet-v2-a4 tq2_0 q6_k"
    assert model_of_shape(path, "tiny", scheme="bitnet-v2-a4") == "tiny bitnet-v2-a4 tq2_0 q6_k"
    with pytest.raises(OptionError, match="is another model than tiny bitnet-v2-a8 tq2_0 q6_k"):
        model_of_shape(path, "tiny", scheme="bitnet-v2-a8")
    assert model_of_shape(tmp_path / "b", "tiny", scheme="bitnet-b1") == "tiny bitnet-b1 b1 q6_k"


def test_what_cannot_be_is_one_line(tmp_path):
    with pytest.raises(OptionError, match="scheme fp quantizes nothing"):
        random_model(tmp_path / "m", TINY, scheme=SCHEMES["fp"])
    with pytest.raises(OptionError, match="'bitnet-b3' is not a scheme"):
        model_of_shape(tmp_path / "m", "tiny", scheme="bitnet-b3")
    with pytest.raises(OptionError, match=r"llama\.cpp runs none of scheme bitnet-v2-a4"):
        model_of_shape(tmp_path / "m", "tiny", llama=True, scheme="bitnet-v2-a4")
