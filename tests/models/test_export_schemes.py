"""Exports of every kind of weight: each layer in the format of its codes, and back the same."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from onebit import models, quant
from onebit.architecture import Architecture
from onebit.data import Tokenizer
from onebit.errors import NotTernaryError, OnebitError, OptionError, UnsupportedError
from onebit.io import Checkpoint, gguf, open_checkpoint
from onebit.models import stored_weight
from onebit.scheme import FP, SCHEMES, LinearScheme, Scheme

DOWN = "model.layers.0.mlp.down_proj"
WEIGHTS = {
    "ternary": ("t1_6", LinearScheme("ternary")),
    "binary": ("b1", LinearScheme("binary")),
    "binary in parts by columns": ("b1", LinearScheme("binary", split="in:2")),
    "binary in parts by rows": ("b1", LinearScheme("binary", split="out:2")),
    "turned": ("t1_6", LinearScheme("ternary", hadamard="both", signs=3)),
    **{
        f"int{bits} {rule} {scale}": (
            f"i{bits}",
            LinearScheme(f"int{bits}", rule, weight_scale=scale),
        )
        for bits, scale in (
            *((2, "tensor"), (3, "row"), (3, "group:32"), (4, "group:32")),
            *((5, "row"), (8, "group:32")),
        )
        for rule in ("absmax", "zero_point")
    },
}


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.train(["the cat sat on the mat. "], 270)


@pytest.fixture(scope="module")
def masters(tokenizer, tmp_path_factory):
    """Saves a model of a scheme, and returns it with its folder."""

    def make(scheme, **changes):
        shape = {"vocab_size": tokenizer.vocab_size, "hidden_size": 64, "intermediate_size": 96}
        shape |= {"num_hidden_layers": 1, "num_attention_heads": 4, "num_key_value_heads": 2}
        shape |= {"head_dim": 16, "max_position_embeddings": 64}
        model = models.build(Architecture(**shape | changes), scheme, seed=1)
        with torch.no_grad():  # far from a mean of 0, so that a zero-point has something to do
            for parameter in model.parameters():
                if parameter.ndim == 2:
                    parameter.add_(0.01)
        folder = tmp_path_factory.mktemp("masters")
        models.save(model, folder, tokenizer)
        return model, folder

    return make


def codes_in(path, module, linear):
    return stored_weight.codes(open_checkpoint(path).tensor(f"{module}.weight"), linear)


@pytest.mark.parametrize("name", ["out.gguf", "out"])
@pytest.mark.parametrize("kind", WEIGHTS)
def test_the_codes_of_a_layer_are_those_of_training(masters, tmp_path, kind, name):
    form, linear = WEIGHTS[kind]
    model, folder = masters(Scheme("s", {"body": linear}))
    report = models.export(folder, tmp_path / name)
    assert report.format == form
    for module in (DOWN, "model.layers.0.self_attn.q_proj"):  # whose rows GGUF may permute
        stored = open_checkpoint(tmp_path / name).tensor(f"{module}.weight")
        assert stored.format == form
        expected = quant.quantize_weight(model.get_submodule(module).weight, linear)
        found = codes_in(tmp_path / name, module, linear)
        torch.testing.assert_close(
            quant.dequantize(found), quant.dequantize(expected), rtol=0, atol=0
        )
        assert torch.equal(found.codes_NK, expected.codes_NK)
        assert (found.zero_NG is None) == (linear.weight_rule != "zero_point")
        if found.zero_NG is not None:
            assert torch.equal(found.zero_NG, expected.zero_NG)
            np.testing.assert_allclose(  # and others need no zero-point to read it
                stored_weight.values(stored), quant.dequantize(expected), rtol=1e-5, atol=1e-7
            )


@pytest.mark.parametrize("kind", WEIGHTS)
def test_a_second_export_changes_nothing(masters, tmp_path, kind):
    _, linear = WEIGHTS[kind]
    _, folder = masters(Scheme("s", {"body": linear}))
    models.export(folder, tmp_path / "a.gguf")
    models.export(tmp_path / "a.gguf", tmp_path / "b.gguf")
    before, after = (gguf.Reader(tmp_path / name) for name in ("a.gguf", "b.gguf"))
    assert before.tensors.keys() == after.tensors.keys()
    for name in before.tensors:
        assert before.data(name).tobytes() == after.data(name).tobytes()
    models.export(tmp_path / "a.gguf", tmp_path / "folder")
    a, b = (codes_in(tmp_path / name, DOWN, linear) for name in ("a.gguf", "folder"))
    assert torch.equal(a.codes_NK, b.codes_NK)
    assert torch.equal(quant.dequantize(a), quant.dequantize(b))


def test_binary_weights_take_one_bit_each(masters, tmp_path):
    _, folder = masters(SCHEMES["bitnet-b1"])
    report = models.export(folder, tmp_path / "b1.gguf")
    scales = 7 * 4  # one float32 for each of the layer's matrices
    assert report.format == "b1"
    assert report.part_bytes["body"] == report.body_weights // 8 + scales
    parts = Scheme("s", {"body": LinearScheme("binary", split="in:4")})
    _, folder = masters(parts)
    report = models.export(folder, tmp_path / "parts.gguf")
    assert report.part_bytes["body"] == report.body_weights // 8 + 4 * scales
    shape = gguf.Reader(tmp_path / "parts.gguf").tensors["blk.0.ffn_down.weight_scale"].shape
    assert shape == (1, 4)


@pytest.mark.parametrize(("bits", "name"), [(2, "m.gguf"), (3, "m"), (5, "m.gguf"), (6, "m")])
def test_packed_codes_with_float16_scales_take_the_bits_they_claim(masters, tmp_path, bits, name):
    """A group of 32 has its codes, a float16 scale, and a zero-point of the codes' bits."""
    linear = LinearScheme(f"int{bits}", "zero_point", weight_scale="group:32")
    _, folder = masters(Scheme("s", {"body": linear}), hidden_size=256, head_dim=64)
    models.export(folder, tmp_path / "wide")
    source = HalfScales(open_checkpoint(tmp_path / "wide"))
    report = models.export(source, tmp_path / name)
    rows = {256: 256 + 128 + 128 + 256 + 96 + 96, 96: 256}  # of 256 columns, and down's of 96
    assert report.part_bytes["body"] == sum(
        N * (K * bits // 8 + K // 32 * 2 + -(-K // 32 * bits // 8)) for K, N in rows.items()
    )
    written = open_checkpoint(tmp_path / name)
    for module in (DOWN, "model.layers.0.self_attn.q_proj"):
        before, after = (s.tensor(f"{module}.weight") for s in (source, written))
        np.testing.assert_array_equal(stored_weight.values(after), stored_weight.values(before))
        assert after.format == f"i{bits}"
        assert after.minimum is None


class HalfScales(Checkpoint):
    """A checkpoint whose scales float16 holds exactly, as those of quantizing after training."""

    def __init__(self, inner):
        self.inner, self.path, self.config = inner, inner.path, inner.config
        self.metadata, self.tokenizer = inner.metadata, inner.tokenizer

    def names(self):
        return self.inner.names()

    def tensor(self, name):
        tensor = self.inner.tensor(name)
        if tensor.scale is None:
            return tensor
        return replace(tensor, scale=tensor.scale.astype(np.float16).astype(np.float32))


def test_each_layer_has_the_format_of_its_own_weights(masters, tmp_path):
    mixed = Scheme(
        "mixed",
        {
            "body": LinearScheme("ternary"),
            "q": LinearScheme("binary"),
            "k": LinearScheme("int3", "absmax"),
            "v": LinearScheme("int8", "zero_point"),
            "o": FP,
        },
    )
    _, folder = masters(mixed)
    report = models.export(folder, tmp_path / "m.gguf")
    assert report.format == "b1, f16, i3, i8, t1_6"
    checkpoint = open_checkpoint(tmp_path / "m.gguf")
    found = {
        role: checkpoint.tensor(f"model.layers.0.self_attn.{role}_proj.weight").format
        for role in "qkvo"
    }
    assert found == {"q": "b1", "k": "i3", "v": "i8", "o": "f16"}
    assert Scheme.from_dict(checkpoint.config["onebit_scheme"]) == mixed


@pytest.mark.parametrize(
    ("weight", "rule", "name", "form", "holds"),
    [
        ("int4", "absmax", "m.gguf", "t1_6", "i4, i5, i6, i7, i8."),
        ("int8", "absmax", "m.gguf", "i4", "i8."),
        ("int3", "zero_point", "m.gguf", "q8_0", "i3, i4, i5, i6, i7, i8."),
        ("int4", "absmax", "m", "f16", "i4, i5, i6, i7, i8."),
        ("ternary", "absmean", "m.gguf", "b1", "t1_6, t2, i2, i3, i4, i5, i6, i7, i8, tq1_0, "),
        ("binary", "absmean", "m", "hf_3bit", None),
    ],
)
def test_a_format_that_cannot_hold_the_codes_is_refused(
    masters, tmp_path, weight, rule, name, form, holds
):
    _, folder = masters(Scheme("s", {"body": LinearScheme(weight, rule)}))
    with pytest.raises(OptionError) as caught:
        models.export(folder, tmp_path / name, form)
    message = str(caught.value)
    assert "\n" not in message
    if holds:
        assert f"{form} does not hold the codes of {weight} weights" in message
        assert f"Formats that do: {holds}" in message
    assert not (tmp_path / name).exists()


def test_codes_of_no_scheme_are_refused(masters, tmp_path):
    _, folder = masters(SCHEMES["fp"])
    with pytest.raises(OptionError, match=r"_proj.weight: i8 holds codes, and scheme 'fp' leaves"):
        models.export(folder, tmp_path / "m.gguf", "i8")


def test_binary_and_ternary_weights_fit_wider_formats(masters, tmp_path):
    for weight, forms in (("binary", ("t2", "i2", "i8")), ("ternary", ("i3", "i4"))):
        linear = LinearScheme(weight)
        model, folder = masters(Scheme("s", {"body": linear}))
        expected = quant.quantize_weight(model.get_submodule(DOWN).weight, linear)
        for form in forms:
            path = tmp_path / f"{weight}-{form}.gguf"
            models.export(folder, path, form)
            assert torch.equal(codes_in(path, DOWN, linear).codes_NK, expected.codes_NK)


@pytest.mark.parametrize(
    ("linear", "match"),
    [
        (LinearScheme("ternary", activation="int8_absmax", norm="layer"), "a LayerNorm inside"),
        (LinearScheme("ternary", activation="int8_absmax", hadamard="input"), "a Hadamard matrix"),
    ],
)
def test_what_transformers_does_not_know_is_refused(masters, tmp_path, linear, match):
    _, folder = masters(Scheme("s", {"down": linear}))
    with pytest.raises(UnsupportedError, match=match):
        models.export(folder, tmp_path / "hf", "hf_2bit")


def test_the_scheme_comes_back_whole(masters, tmp_path):
    scheme = Scheme(
        "all of it",
        {
            "body": LinearScheme("ternary", activation="dynamic:4.5", norm="layer"),
            "o": LinearScheme("ternary", hadamard="input", signs=7, activation="fp4_e2m1"),
            "down": LinearScheme("binary", activation="int8_b1_positive", split="out:4"),
        },
        kv_bits=4,
        q_bits=8,
    )
    _, folder = masters(scheme)
    for name in ("m.gguf", "m"):
        models.export(folder, tmp_path / name)
        config = open_checkpoint(tmp_path / name).config
        assert Scheme.from_dict(config["onebit_scheme"]) == scheme
    assert gguf.Reader(tmp_path / "m.gguf").metadata["general.architecture"] == "onebit"


def test_a_minimum_in_the_file_that_is_no_zero_point_is_refused(masters, tmp_path):
    linear = LinearScheme("int4", "zero_point")
    _, folder = masters(Scheme("s", {"body": linear}))
    models.export(folder, tmp_path / "m")
    stored = open_checkpoint(tmp_path / "m").tensor(f"{DOWN}.weight")
    assert stored.zero is not None
    minimum = stored_weight.unpacked(stored).minimum_NG[:1]
    ours = stored_weight.codes(stored, linear)
    of_before = stored_weight.codes(replace(stored, minimum=minimum, zero=None), linear)
    assert torch.equal(of_before.zero_NG, ours.zero_NG)
    for wrong in (minimum * 1.1, minimum - 200 * stored.scale, minimum - 20 * stored.scale):
        with pytest.raises(NotTernaryError, match="packed as i4, and its values are no codes of"):
            stored_weight.codes(replace(stored, minimum=wrong, zero=None), linear)


@pytest.mark.parametrize("name", ["out.gguf", "out"])
@pytest.mark.parametrize("scale", ["tensor", "row", "group:32"])
def test_a_zero_point_of_weights_that_have_none_is_zero(masters, tmp_path, scale, name):
    """Zeros lie on every grid, so that they come as codes without a minimum."""
    linear = LinearScheme("int4", "zero_point", weight_scale=scale)
    model, folder = masters(Scheme("s", {"body": linear}))
    with torch.no_grad():
        model.get_submodule(DOWN).weight.zero_()
    models.save(model, folder)
    models.export(folder, tmp_path / name)
    stored = open_checkpoint(tmp_path / name).tensor(f"{DOWN}.weight")
    assert not stored_weight.values(stored).any()
    models.export(tmp_path / name, tmp_path / "again.gguf")


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize(
    "linear",
    [
        LinearScheme("int4", "lsq", "row"),
        LinearScheme("ternary", "seq"),
        LinearScheme("ternary", "absmedian", "row"),
    ],
    ids=str,
)
def test_masters_that_are_not_finite_are_refused(masters, tmp_path, linear, bad):
    model, folder = masters(Scheme("s", {"body": linear}))
    with torch.no_grad():
        model.get_submodule(DOWN).weight[3, 5] = bad
    models.save(model, folder)
    with pytest.raises(OnebitError, match="not finite"):
        models.export(folder, tmp_path / "out.gguf")
    assert not (tmp_path / "out.gguf").exists()
