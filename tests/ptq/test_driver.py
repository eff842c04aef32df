"""From a model to a quantized file: what is written is what was rounded, and what cannot be is
refused in a line that says what to do."""

import json

import numpy as np
import pytest
import torch
from tests.ptq.conftest import TEXT, TOKENS

from onebit import ptq, quant
from onebit.errors import FileError, InputError, MissingError, OptionError, ShapeError
from onebit.io import open_checkpoint
from onebit.models import load, save
from onebit.ptq import Calibration, Options, Plan
from onebit.scheme import LinearScheme, Scheme, find


@torch.no_grad()
def logits(path):
    return load(path)(torch.from_numpy(TOKENS))


def distance(path, model):
    wanted = logits(model)
    return float((logits(path) - wanted).norm() / wanted.norm())


def run(model, out, **options):
    return ptq.quantize(model, out, **({"calibration": TEXT} | options))


def test_gptq_is_nearer_than_rounding_to_nearest(model, tmp_path):
    found = {}
    for method in ("rtn", "gptq"):
        report = run(model, tmp_path / method, method=method, scheme="w3a16-g32")
        found[method] = distance(tmp_path / method, model)
        assert len(report.rows) == 14
        assert {row.method for row in report.rows} == {method}
        assert all(0 < row.output_error < 1 for row in report.rows)
    assert found["gptq"] < 0.9 * found["rtn"]


@pytest.mark.parametrize(
    "scheme", ["w4a16-g32", "w8a8", "w4a4kv4", "w1.58a8-g32", "w3a16-row-sym", "w2a16-tensor"]
)
def test_what_is_loaded_are_the_codes_that_were_rounded(model, tmp_path, scheme):
    out = tmp_path / "out"
    report = run(model, out, scheme=scheme, options=Options(seed=3))
    loaded = load(out)
    assert loaded.scheme.name == scheme
    assert loaded.scheme.linear("model.layers.0.mlp.up_proj") == find(scheme).layers["body"]
    for row in report.rows:
        layer = loaded.get_submodule(row.layer)
        assert layer.frozen
        if "tensor" not in scheme:
            scale = layer.codes().scale_NG
            assert torch.equal(scale, scale.half().float())
    again = run(model, tmp_path / "again", scheme=scheme, options=Options(seed=3))
    assert (out / "model.safetensors").read_bytes() == (
        tmp_path / "again" / "model.safetensors"
    ).read_bytes()
    assert [row.weight_error for row in again.rows] == [row.weight_error for row in report.rows]


def test_report_adds_up(model, tmp_path):
    report = run(model, tmp_path / "out", method="rtn", scheme="w4a16-g32", calibration=None)
    size = sum(file.stat().st_size for file in (tmp_path / "out").iterdir())
    assert report.size_bytes == size
    assert report.parts["codes"] == sum(row.size_bytes for row in report.rows)
    assert report.weights == sum(p.numel() for p in load(model).parameters())
    assert report.peak_memory_bytes > 1_000_000
    assert json.dumps(report.to_dict(), allow_nan=False)
    assert not list(tmp_path.glob("*.work"))


def test_a_plan_holds_each_layer_as_it_says(model, tmp_path):
    plan = Plan(
        "mixed",
        {
            "*.layers.0.self_attn.q_proj": "w8a16-row",
            "*.layers.1.*": "f16",
            "*": "w4a16-g32",
        },
    )
    run(model, tmp_path / "out.d", scheme=plan)
    checkpoint = open_checkpoint(tmp_path / "out.d")
    formats = {name: checkpoint.tensor(name).format for name in checkpoint.names()}
    assert formats["model.layers.0.self_attn.q_proj.weight"] == "i8"
    assert formats["model.layers.0.mlp.up_proj.weight"] == "i4"
    assert formats["model.layers.1.mlp.up_proj.weight"] == "f16"
    w, kept = (
        load(p).get_submodule("model.layers.1.mlp.up_proj") for p in (model, tmp_path / "out.d")
    )
    assert torch.equal(w.weight.half(), kept.weight.half())


def test_a_scheme_names_roles(model, tmp_path):
    four = LinearScheme("int4", "zero_point", "row")
    run(model, tmp_path / "out", scheme=Scheme("mlp", {"up": four, "gate": four}))
    loaded = load(tmp_path / "out")
    assert loaded.get_submodule("model.layers.1.mlp.up_proj").frozen
    assert type(loaded.get_submodule("model.layers.1.mlp.down_proj")) is torch.nn.Linear


def test_layers_that_were_rounded_before(model, tmp_path):
    first = tmp_path / "first"
    run(model, first, method="rtn", scheme="w4a16-g32")
    with pytest.raises(InputError, match="14 of 14 layers were rounded before"):
        run(first, tmp_path / "second", scheme="w3a16-g32")
    run(first, tmp_path / "second", scheme="w3a16-g32", kept="force")
    with pytest.raises(OptionError, match="kept is 'perhaps'"):
        run(first, tmp_path / "third", kept="perhaps")


def test_progress_goes_block_by_block(model, tmp_path):
    seen = []
    run(model, tmp_path / "out", progress=seen.append)
    assert [(status.done, status.blocks) for status in seen] == [(0, 2), (1, 2), (2, 2)]
    assert seen[0].left_s is None
    assert seen[1].left_s > 0 == seen[2].left_s


def test_errors_name_layer_and_way_out(model, tmp_path):
    out = tmp_path / "out"
    with pytest.raises(OptionError, match="gptq needs to see what layers are given"):
        ptq.quantize(model, out)
    with pytest.raises(
        ShapeError, match=r"q_proj: 64 columns .* groups of 48. Groups that fit: 64"
    ):
        run(model, out, scheme="w4a16-g48")
    with pytest.raises(OptionError, match="'w9a9' is not a scheme"):
        run(model, out, scheme="w9a9")
    with pytest.raises(OptionError, match="'magic' is not a method; accepted: rtn"):
        run(model, out, method="magic")
    with pytest.raises(OptionError, match="then one rounding; these are rounding, rounding"):
        run(model, out, method="rtn+gptq")
    with pytest.raises(OptionError, match="rtn takes no option 'damping'; accepted: clip"):
        run(model, out, method="rtn", options=Options(damping=0.1))
    with pytest.raises(OptionError, match=r"model is the model that is exported\. Name another"):
        run(model, model)
    with pytest.raises(MissingError, match="has no tokenizer"):
        run(model, out, calibration="wiki")
    with pytest.raises(OptionError, match="clip is 'much'"):
        Options(clip="much")
    assert not out.exists()
    assert not (tmp_path / "out.work").exists()


def test_weights_that_are_not_finite_are_refused_by_name(model, tmp_path):
    broken = load(model)
    with torch.no_grad():
        broken.get_submodule("model.layers.1.mlp.up_proj").weight[3, 5] = float("nan")
    save(broken, tmp_path / "broken")
    with pytest.raises(
        InputError, match=r"model.layers.1.mlp.up_proj: weights that are not finite"
    ):
        run(tmp_path / "broken", tmp_path / "out")


def test_a_full_disk_is_an_error_in_a_line(model, tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 1000}))
    with pytest.raises(FileError, match=r"takes 0 MB here and 0 MB are free. Free space"):
        run(model, tmp_path / "out")


def test_values_of_the_file_are_those_of_the_codes(model, tmp_path):
    run(model, tmp_path / "out", scheme="w3a16-g32")
    loaded = load(tmp_path / "out")
    layer = loaded.get_submodule("model.layers.0.mlp.gate_proj")
    assert torch.equal(layer.weight, quant.dequantize(layer.codes()))
    assert layer.codes().zero_NG is not None


@pytest.mark.parametrize("options", [Options(propagate=0.5), Options(iterations=1, clip="mse")])
def test_what_gptq_can_do_more_brings_the_model_nearer(model, tmp_path, options):
    tokens = np.random.default_rng(1).integers(0, 50, (40, 32))
    text = Calibration("random", tokens, "random tokens")
    run(model, tmp_path / "plain", scheme="w3a16-g32", calibration=text)
    run(model, tmp_path / "more", scheme="w3a16-g32", calibration=text, options=options)
    assert distance(tmp_path / "more", model) < distance(tmp_path / "plain", model)
