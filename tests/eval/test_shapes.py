"""Shapes and the random models made of them: what they weigh, that both engines read them."""

from dataclasses import replace

import numpy as np
import pytest

from onebit import LLM, pack
from onebit.errors import OptionError, ShapeError
from onebit.eval import shapes
from onebit.eval.random_bytes import BODY, EMBED
from onebit.eval.random_model import model_of_shape, random_model
from onebit.eval.speed import check
from onebit.io import open_checkpoint

TINY = shapes.SHAPES["tiny"]


@pytest.mark.parametrize(
    ("format", "embed", "most_mb"), [("t1_6", "q6_k", 690), ("t1_6", "q4_k", 610)]
)
def test_a_2b_model_is_small(format, embed, most_mb):
    assert shapes.tensor_bytes(shapes.SHAPES["2b4t"], format, embed) <= most_mb * 1_000_000


def test_shapes_have_the_weights_that_their_names_say():
    billions = {name: shapes.body_weights(shape) / 1e9 for name, shape in shapes.SHAPES.items()}
    assert billions["2b4t"] == pytest.approx(2.084, abs=0.001)
    assert 0.6 < billions["0.7b"] < 0.8
    assert 3.1 < billions["3b"] < 3.4
    assert 6.9 < billions["8b"] < 7.1  # and 1.05 in embedding and head


@pytest.mark.parametrize("name", shapes.SHAPES)
def test_every_shape_has_formats_that_hold_it(name):
    shape = shapes.SHAPES[name]
    assert shapes.tensor_bytes(shape, *shapes.default_formats(shape)) > 0


def test_odd_widths_take_no_block_of_256():
    shape = shapes.SHAPES["3b"]
    assert shapes.default_formats(shape) == ("t1_6", "q8_0")
    with pytest.raises(ShapeError, match=r"model\.layers\.0\.self_attn\.q_proj: tq2_0: 3200"):
        shapes.tensor_bytes(shape, "tq2_0", "q8_0")


def test_unknown_shape_is_refused():
    with pytest.raises(OptionError, match=r"'7b' is no shape; accepted: tiny, 0\.7b, 2b4t, 3b, 8b"):
        shapes.find("7b")


@pytest.mark.parametrize("format", BODY)
def test_body_is_ternary_in_the_ratio_1_2_1(tmp_path, format):
    path = tmp_path / "model.gguf"
    random_model(path, TINY, format, "q8_0", seed=1)
    stored = open_checkpoint(path).tensor("model.layers.1.mlp.up_proj.weight")
    weights = pack.FORMATS[format].unpack(stored.data, stored.shape, stored.scale)
    share = [np.mean(weights.codes_NK == code) for code in (-1, 0, 1)]
    assert share == pytest.approx([0.25, 0.5, 0.25], abs=0.01)
    values = pack.decode(format, stored.data, stored.shape, stored.scale)
    assert np.var(values) * TINY.hidden_size == pytest.approx(1, rel=0.05)


@pytest.mark.parametrize("embed", EMBED)
def test_logits_are_spread_alike_whatever_the_head(tmp_path, embed):
    path = tmp_path / "model.gguf"
    random_model(path, TINY, "tq2_0", embed)
    assert path.stat().st_size - shapes.tensor_bytes(TINY, "tq2_0", embed) < 4096
    with LLM(path, threads=1) as llm:
        check(llm)
        assert np.std(llm.logits(list(range(64)))) == pytest.approx(2.5, rel=0.1)


@pytest.mark.parametrize("K", [255, 256, 257, 258, 259])
@pytest.mark.parametrize("format", ["t2", "t1_6"])
def test_rows_of_any_width_end_as_the_format_asks(format, K):
    data = BODY[format](np.random.Generator(np.random.SFC64(0)), 3, K, 1.0)
    codes_NK = pack.FORMATS[format].unpack(data, (3, K), 1.0).codes_NK
    again = pack.FORMATS[format].pack(pack.Unpacked(codes_NK, np.ones((3, 1), np.float32)))
    np.testing.assert_array_equal(again, data)


def test_same_seed_same_bytes(tmp_path):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        random_model(tmp_path / name, TINY, seed=seed, vocabulary=True)
    bytes_ = [(tmp_path / name).read_bytes() for name in "abc"]
    assert bytes_[0] == bytes_[1]
    assert bytes_[0] != bytes_[2]


def test_the_tokenizer_is_one(tmp_path):
    random_model(tmp_path / "model.gguf", TINY, vocabulary=True)
    with LLM(tmp_path / "model.gguf", threads=1) as llm:
        ids = llm.encode("hi we are")
        assert llm.tokenizer.decode(ids) == "hi we are"


@pytest.mark.parametrize("wrong", [{"format": "q4_k"}, {"embed": "q3_k"}])
def test_formats_that_are_not_drawn_are_refused(tmp_path, wrong):
    with pytest.raises(OptionError, match="accepted: "):
        random_model(tmp_path / "model.gguf", TINY, **wrong)


def test_bitnets_own_parts_run_too(tmp_path):
    parts = {"model_type": "bitnet", "hidden_act": "relu2", "sub_norms": True}
    shape = replace(TINY, **parts)
    random_model(tmp_path / "model.gguf", shape, "t1_6")
    with LLM(tmp_path / "model.gguf", threads=1) as llm:
        assert {name: getattr(llm.architecture, name) for name in parts} == parts
        check(llm)
    assert shapes.as_llama(shape) == TINY


def test_a_model_for_llama_cpp_has_a_tokenizer_and_no_inner_norms(tmp_path, monkeypatch):
    monkeypatch.setitem(shapes.SHAPES, "own", replace(TINY, model_type="bitnet", sub_norms=True))
    assert model_of_shape(tmp_path / "a", "own") == "own tq2_0 q6_k"
    assert model_of_shape(tmp_path / "b", "own", llama=True) == "own as llama, tq2_0 q6_k"
    assert [open_checkpoint(tmp_path / n).tokenizer is None for n in "ab"] == [True, False]
    with pytest.raises(OptionError, match=r"/a is another model than own as llama"):
        model_of_shape(tmp_path / "a", "own", llama=True)
