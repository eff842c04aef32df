"""A published MatMul-free checkpoint, bfloat16 masters, becomes codes and scale: by the formula,
once, and never again. The formula is written out here."""

import json
import shutil

import ml_dtypes
import numpy as np
import pytest
import torch
from click.testing import CliRunner

from onebit import LLM, models
from onebit.analyze.verify import verify
from onebit.cli import main
from onebit.data import Tokenizer
from onebit.errors import NotTernaryError, OptionError, UnsupportedError
from onebit.io import gguf, hgrn_names, open_checkpoint
from onebit.models import stored_weight
from onebit.nn import bit_linears
from onebit.quant import ternary
from onebit.scheme import SCHEMES, LinearScheme, Scheme

CONFIG = {"model_type": "hgrn_bit"}
TOKENS = [5, 17, 99, 250, 4, 4, 31]
MATMULFREE = SCHEMES["matmulfree"].linear("model.layers.0.attn.i_proj")


def is_linear(name):
    return name.endswith(("_proj.weight", "lm_head.weight"))


def by_hand(weights):
    """name here -> (codes, scale) of the weights as stored, in float32: absmean, once."""
    found = {}
    for name, stored in weights.items():
        if is_linear(name):
            w_NK = torch.from_numpy(stored.astype(np.float32))
            scale = w_NK.abs().mean().clamp(min=1e-5)
            codes_NK = (w_NK / scale).round().clamp(-1, 1).to(torch.int8)
            found[hgrn_names.ours(CONFIG, name)] = codes_NK.numpy(), float(scale)
    return found


def in_file(path):
    """name -> (codes, scale) as the bytes of the file say, which nothing here rounds."""
    checkpoint, found = open_checkpoint(path), {}
    for name in checkpoint.names():
        if is_linear(name):
            unpacked = stored_weight.unpacked(checkpoint.tensor(name))
            assert unpacked is not None
            assert unpacked.minimum_NG is None
            (scale,) = set(unpacked.scale_NG.reshape(-1).tolist())
            found[name] = unpacked.codes_NK, scale
    return found


def same(one, other):
    return one.keys() == other.keys() and all(
        np.array_equal(one[name][0], other[name][0]) and one[name][1] == other[name][1]
        for name in one
    )


@pytest.fixture(scope="module")
def packed(published, tmp_path_factory):
    path = tmp_path_factory.mktemp("packed") / "model.gguf"
    models.export(published, path, embed="f32")
    return path


def test_codes_and_scales_are_those_of_the_formula(published, published_weights, packed, tmp_path):
    wanted = by_hand(published_weights)
    assert len(wanted) == 3 * 6 + 1
    assert same(in_file(packed), wanted)
    models.export(published, tmp_path / "folder")
    assert same(in_file(tmp_path / "folder"), wanted)
    for name, (codes_NK, scale) in wanted.items():
        exact = published_weights[hgrn_names.published(CONFIG, name)].astype(np.float64)
        assert scale == pytest.approx(np.abs(exact).mean(), rel=2**-22)
        assert set(np.unique(codes_NK)) == {-1, 0, 1}
    report = verify(packed, against=published)
    assert report.ok
    assert {(t.kind, t.levels, t.values) for t in report.tensors if t.claim == "ternary"} == {
        ("ternary", 3, 3)
    }


def test_what_is_packed_is_never_rounded_again(published_weights, packed, tmp_path):
    """Rounding again would leave the codes and take a quarter off each scale."""
    wanted = by_hand(published_weights)
    models.export(packed, tmp_path / "again.gguf", embed="f32")
    assert (tmp_path / "again.gguf").read_bytes() == packed.read_bytes()
    models.export(packed, tmp_path / "folder", embed="f32")
    assert same(in_file(tmp_path / "folder"), wanted)
    models.export(tmp_path / "folder", tmp_path / "back.gguf", embed="f32")
    assert same(in_file(tmp_path / "back.gguf"), wanted)
    for name, (codes_NK, scale) in wanted.items():
        once = torch.from_numpy(codes_NK * np.float32(scale))
        again = ternary.quantize_absmean(once)
        assert np.array_equal(again.codes_NK.numpy(), codes_NK), name
        share = np.count_nonzero(codes_NK) / codes_NK.size
        assert float(again.scale_NG[0, 0]) == pytest.approx(scale * share, rel=1e-5)
        assert 0.6 < share < 0.8


def test_blocks_of_the_embedding_are_kept_too(published, tmp_path):
    """q8_0 by default: rounded from the floats of the checkpoint, and then taken as it is."""
    first = models.export(published, tmp_path / "one.gguf")
    again = models.export(tmp_path / "one.gguf", tmp_path / "two.gguf")
    assert (first.embed, again.embed) == ("q8_0, t1_6", "q8_0, t1_6")
    assert (tmp_path / "two.gguf").read_bytes() == (tmp_path / "one.gguf").read_bytes()
    assert first.rounded_again == again.rounded_again == {}
    worse = models.export(tmp_path / "one.gguf", tmp_path / "three.gguf", embed="q4_0")
    assert worse.rounded_again == {"q8_0 to q4_0": 300 * 64}  # and no ternary matrix


def test_a_model_in_torch_keeps_them_too(published, published_weights, packed, tmp_path):
    model = models.load(packed)
    layers = dict(bit_linears(model))
    assert all(layer.frozen for layer in layers.values() if layer.scheme.weight != "fp")
    tokenizer = Tokenizer.load(published)
    models.save(model, tmp_path / "floats", tokenizer)  # as code * scale, on their grid
    report = verify(tmp_path / "floats")
    assert report.ok
    assert {t.values for t in report.tensors if t.claim == "ternary"} == {3}
    models.export(tmp_path / "floats", tmp_path / "m.gguf")
    assert same(in_file(tmp_path / "m.gguf"), by_hand(published_weights))
    config = json.loads((tmp_path / "floats" / "config.json").read_text())
    del config["onebit_scheme"]  # as published: a tool that obeys would round
    (tmp_path / "floats" / "config.json").write_text(json.dumps(config))
    models.export(tmp_path / "floats", tmp_path / "n.gguf")
    assert same(in_file(tmp_path / "n.gguf"), by_hand(published_weights))


def test_values_that_were_rounded_before_keep_their_grid(
    write_published, published_weights, tmp_path
):
    """As code * scale in bfloat16 in half of the layers: their grid is found, and the others are
    masters. Whoever rounds all of them shrinks the scales of these."""
    wanted, weights = by_hand(published_weights), dict(published_weights)
    rounded = [name for name in weights if is_linear(name) and ".attn." in name]
    for name in rounded:
        codes_NK, scale = wanted[hgrn_names.ours(CONFIG, name)]
        weights[name] = (codes_NK * np.float32(scale)).astype(ml_dtypes.bfloat16)
    write_published(tmp_path / "half", weights)
    models.export(tmp_path / "half", tmp_path / "packed")
    found = in_file(tmp_path / "packed")
    for name, (codes_NK, scale) in wanted.items():
        assert np.array_equal(found[name][0], codes_NK)
        stored = ".attn." in name
        assert found[name][1] == (float(ml_dtypes.bfloat16(scale)) if stored else scale)
    (said,) = [f for f in verify(tmp_path / "half").findings if f.level == "error"]
    assert said.text.startswith("12 of 19 float matrices lie on a grid and the others do not")


def test_the_published_code_rounds_by_the_dtype_of_the_weights():
    """Its mean, its inverse and its products are bfloat16 in a bfloat16 model: one code of a few
    hundred is another, and the scale is off by up to 2^-8. In float16 the codes are the same."""
    w_NK = 0.02 * torch.randn(512, 512, generator=torch.Generator().manual_seed(0))
    for dtype, most, off in ((torch.bfloat16, 0.005, 2**-7), (torch.float16, 0.001, 2**-10)):
        stored_NK = w_NK.to(dtype)
        inverse = 1.0 / stored_NK.abs().mean().clamp_(min=1e-5)
        theirs_NK = (stored_NK * inverse).round().clamp_(-1, 1)
        ours = ternary.quantize_absmean(stored_NK)
        other = theirs_NK.float() != ours.codes_NK.float()
        assert float(other.float().mean()) < most
        ratio = float(1 / inverse) / float(ours.scale_NG[0, 0])
        assert abs(ratio - 1) < off
        if dtype == torch.bfloat16:
            assert other.any()


FLOAT = LinearScheme(norm="rms")
MIXED = {
    "attention": Scheme("attention", {"body": MATMULFREE, "gate": FLOAT, "down": FLOAT}),
    "mlp": Scheme("mlp", {"body": FLOAT, "gate": MATMULFREE, "down": MATMULFREE}),
    "gates and head": Scheme(
        "gates and head", {"body": FLOAT, "f": MATMULFREE, "g": MATMULFREE, "head": MATMULFREE}
    ),
}


@pytest.mark.parametrize("name", MIXED)
def test_which_projections_are_ternary_is_the_schemes_choice(
    published, published_weights, tmp_path, name
):
    scheme = MIXED[name]
    if "head" not in scheme.layers:
        scheme = Scheme(name, {**scheme.layers, "head": FLOAT})
    folder = tmp_path / "folder"
    shutil.copytree(published, folder)
    config = json.loads((folder / "config.json").read_text())
    config["onebit_scheme"] = scheme.to_dict()
    (folder / "config.json").write_text(json.dumps(config))
    report = models.export(folder, tmp_path / "m.gguf", embed="f32")
    assert report.scheme == name
    checkpoint, wanted = open_checkpoint(tmp_path / "m.gguf"), by_hand(published_weights)
    for tensor in wanted:
        how, stored = scheme.linear(tensor.removesuffix(".weight")), checkpoint.tensor(tensor)
        assert stored.format == ("t1_6" if how.weight == "ternary" else "f32")
        if how.weight == "ternary":
            codes_NK, scale = wanted[tensor]
            unpacked = stored_weight.unpacked(stored)
            assert np.array_equal(unpacked.codes_NK, codes_NK)
            assert unpacked.scale_NG[0, 0] == np.float32(scale)
        else:
            original = published_weights[hgrn_names.published(CONFIG, tensor)]
            assert np.array_equal(stored_weight.values(stored), original.astype(np.float32))
    assert verify(tmp_path / "m.gguf").ok
    text = models.generate(models.load(folder), TOKENS, 12)
    with LLM(tmp_path / "m.gguf", threads=1) as llm:
        found = list(llm.generate(TOKENS, max_tokens=12).token_ids)
    assert found == [token for token in text if token != 0]  # the end is not given out


def test_masters_in_a_file_that_claims_codes_are_not_ternary(packed, published_weights, tmp_path):
    """One matrix of the GGUF file as floats that nothing rounded, under the same scheme."""
    reader = gguf.Reader(packed)
    own, here = "blk.1.ffn_gate_up.weight", "model.layers.1.mlp.gate_proj.weight"
    masters = published_weights[hgrn_names.published(CONFIG, here)].astype(np.float32)
    tensors = {name: info for name, info in reader.tensors.items() if name != f"{own}_scale"}
    metadata = dict(reader.metadata)
    listed = json.loads(metadata["onebit.tensors"])
    del listed[own]
    metadata["onebit.tensors"] = json.dumps(listed)
    declared = [
        gguf.Declared(name, "f32", masters.shape)
        if name == own
        else gguf.Declared(name, info.type.name, info.shape)
        for name, info in tensors.items()
    ]
    path = tmp_path / "claims.gguf"
    with gguf.Writer(path, metadata, declared) as file:
        for name in tensors:
            file.write(name, masters if name == own else bytes(reader.data(name)))
    report = verify(path)
    (wrong,) = [tensor for tensor in report.tensors if not tensor.ok]
    assert wrong.name == here
    assert wrong.findings[0].text.startswith("not ternary: float weights that nothing quantized")
    result = CliRunner().invoke(main, ["verify", str(path)])
    assert result.exit_code == 1
    assert f"1 of 20 matrices are not what scheme 'matmulfree' claims. {here}: not" in result.stderr
    assert result.stderr.count("\n") == 1
    with pytest.raises(UnsupportedError, match=r"holds float masters .*gate_proj") as caught:
        LLM(path)
    assert "\n" not in str(caught.value)


def test_other_codes_under_a_ternary_scheme_are_refused(packed, tmp_path):
    """The file says i4 where it had t1_6, with codes up to 7: engine and torch refuse it alike."""
    reader = gguf.Reader(packed)
    own, (N, K) = "blk.0.attn_f.weight", (64, 64)
    metadata = dict(reader.metadata)
    listed = json.loads(metadata["onebit.tensors"])
    listed[own]["format"] = "i4"
    metadata["onebit.tensors"] = json.dumps(listed)
    codes = np.random.default_rng(0).integers(0, 256, (N, K // 2), dtype=np.uint8)
    declared = [
        gguf.Declared(name, info.type.name, codes.shape if name == own else info.shape)
        for name, info in reader.tensors.items()
    ]
    path = tmp_path / "i4.gguf"
    with gguf.Writer(path, metadata, declared) as file:
        for name in reader.tensors:
            file.write(name, codes if name == own else bytes(reader.data(name)))
    (wrong,) = [tensor for tensor in verify(path).tensors if not tensor.ok]
    assert "not ternary: int4 weights, 16 levels" in [f.text for f in wrong.findings]
    for door in (LLM, models.load):
        with pytest.raises(NotTernaryError, match=r"attn\.f_proj\.weight: .* codes") as caught:
            door(path)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "kind", "says"),
    [
        ({"expand_ratio": 2}, UnsupportedError, "expand_ratio is 2; supported: 1"),
        ({"use_short_conv": True}, UnsupportedError, "use_short_conv is True"),
        ({"num_heads": 5}, OptionError, "hidden_size 64 is no multiple of num_heads 5"),
        ({"rms_norm_eps": 1e-5}, UnsupportedError, "rms_norm_eps is 1e-05; supported in a publ"),
        ({"hidden_act": "gelu"}, UnsupportedError, "hidden_act is 'gelu'"),
        ({"num_attention_heads": 4}, OptionError, "has no attention"),
    ],
    ids=str,
)
def test_a_config_of_another_model_is_one_line(published, tmp_path, changes, kind, says):
    folder = tmp_path / "folder"
    shutil.copytree(published, folder)
    config = json.loads((folder / "config.json").read_text()) | changes
    (folder / "config.json").write_text(json.dumps(config))
    for door in (LLM, models.load):
        with pytest.raises(kind, match=says) as caught:
            door(folder)
        assert "\n" not in str(caught.value)
