"""verify holds a file against its config: every tensor, in its shape, and no other."""

import json
import shutil

import numpy as np
import pytest
import safetensors.numpy as safetensors_numpy

from onebit import models, quant
from onebit.analyze.verify import verify

OUT = "model.layers.0.self_attn.o_proj.weight"
NORM = "model.layers.0.input_layernorm.weight"


@pytest.fixture(scope="module")
def masters(save_tiny):
    return save_tiny("the cat sat on the mat. " * 3, "bitnet-b1.58")


@pytest.fixture
def changed(masters, tmp_path):
    """Save the masters with other tensors, or with another config."""

    def make(change=lambda tensors: None, **config):
        shutil.copytree(masters, tmp_path / "m")
        tensors = safetensors_numpy.load_file(masters / "model.safetensors")
        change(tensors)
        safetensors_numpy.save_file(tensors, tmp_path / "m" / "model.safetensors", {"format": "pt"})
        path = tmp_path / "m" / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | config))
        return tmp_path / "m"

    return make


def errors(report):
    return [finding.text for finding in report.findings if finding.level == "error"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop(NORM), f"{NORM!r} is not in the file, and the config asks for it"),
        (lambda t: (t.pop(NORM), t.pop(OUT)), f"{NORM!r} and 1 other are not in the file"),
        (
            lambda t: t.update({"model.layers.1.x": np.ones((2, 4), np.float32)}),
            "'model.layers.1.x' is in the file, and a llama model of this config lacks it",
        ),
        (
            lambda t: t.update({OUT: t[OUT][:32].copy()}),
            f"{OUT} has shape [32, 64]; the config asks for [64, 64]",
        ),
        (
            lambda t: t.update({NORM: t[NORM][:32].copy()}),
            f"{NORM} has shape [32]; the config asks for [64]",
        ),
    ],
)
def test_tensors_that_are_not_the_config_s(changed, change, message):
    report = verify(changed(change))
    assert not report.ok
    assert len(errors(report)) == 1
    assert message in errors(report)[0]


def test_a_missing_layer(changed):
    report = verify(changed(num_hidden_layers=2))
    assert not report.ok
    assert "'model.layers.1.input_layernorm.weight' and 8 others are not" in errors(report)[0]


def test_a_packed_file_is_held_to_its_config_too(masters, tmp_path):
    models.export(masters, tmp_path / "m", "t2")
    assert verify(tmp_path / "m").ok
    path = tmp_path / "m" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"intermediate_size": 256}))
    report = verify(tmp_path / "m")
    assert [text.partition(" has shape ")[0] for text in errors(report)] == [
        f"model.layers.0.mlp.{name}_proj.weight" for name in ("gate", "up", "down")
    ]


def test_a_config_that_contradicts_itself(changed):
    report = verify(changed(num_key_value_heads=3))
    assert errors(report) == [
        "config: 2 attention heads do not divide among 3 key/value heads. Make the first a multiple"
    ]


def test_a_model_type_that_is_not_built_is_said_and_no_error(changed):
    report = verify(changed(model_type="mamba"))
    assert report.ok
    assert "names and shapes were not held against the config" in report.findings[0].text


def test_a_copy_of_the_embedding_as_tied_head_is_no_spare(changed):
    def copy(tensors):
        tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].copy()

    assert verify(changed(copy)).ok


def test_one_weight_that_changed_among_weights_on_their_grid(changed):
    """Its matrix alone would pass for masters, and export would round it again."""
    import torch

    def round_all(tensors):
        for name, w in tensors.items():
            if "_proj" in name:
                codes = quant.ternary.quantize_absmean(torch.from_numpy(w))
                tensors[name] = quant.dequantize(codes).numpy()

    def flip(tensors):
        round_all(tensors)
        tensors[OUT][3, 5] += 0.25

    whole = changed(round_all)
    config = json.loads((whole / "config.json").read_text())
    config.pop("quantization_config", None)
    (whole / "config.json").write_text(json.dumps(config))
    assert verify(whole).ok
    tensors = safetensors_numpy.load_file(whole / "model.safetensors")
    flip(tensors)
    safetensors_numpy.save_file(tensors, whole / "model.safetensors", {"format": "pt"})
    report = verify(whole)
    assert not report.ok
    assert len(errors(report)) == 1
    assert errors(report)[0].startswith(
        f"6 of 7 float matrices lie on a grid and the others do not ({OUT!r}: 4 values): damaged"
    )
