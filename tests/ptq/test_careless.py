"""What a careless user does: each is refused at once, in a line, or done as it was meant."""

import fcntl
import os
from dataclasses import replace

import numpy as np
import pytest
import torch
from tests.ptq.conftest import TEXT
from tests.ptq.test_driver import run
from tests.ptq.test_resume import Killed, files, stopped_after

from onebit import ptq
from onebit.errors import InputError, MissingError, OptionError, ShapeError
from onebit.io import open_checkpoint
from onebit.models import load, save
from onebit.models.stored_weight import values
from onebit.ptq import Options, Plan, calibration, guards
from onebit.ptq.source import FileSource
from onebit.quant import quantize_weight
from onebit.scheme import SCHEMES


@pytest.mark.parametrize(
    ("method", "scheme", "message"),
    [
        ("rtn", "w1a8-row", 'weight "binary"'),
        ("hqq", "w1.58a16-row", "hqq: the scheme says"),
        ("ternary", "w4a16-row", "ternary: the scheme says"),
        ("quarot+ternary", "w4a4", "ternary: the scheme says"),
        ("gptq", "w2x1.58a16-g64", 'weight "ternary2"'),
        ("kquants", "q4_0", "a folder of safetensors holds no q4_0"),
    ],
)
def test_what_no_method_rounds_to_is_refused_before_anything(
    model,
    tmp_path,
    method,
    scheme,
    message,
):
    with pytest.raises(OptionError, match=message):
        run(model, tmp_path / "out", method=method, scheme=scheme)
    assert list(tmp_path.iterdir()) == []


def test_two_planes_without_a_scheme_for_them_are_refused_before_anything(model, tmp_path):
    how = {"method": "ternary", "scheme": "w1.58a16-g64", "options": Options(planes=2)}
    with pytest.raises(Exception, match=r"two planes of trits, which the scheme does not say"):
        run(model, tmp_path / "out", **how)
    assert list(tmp_path.iterdir()) == []


def test_a_scheme_that_rounds_nothing_leaves_floats(model, tmp_path):
    report = run(model, tmp_path / "out", method="rtn", scheme="fp")
    there, here = open_checkpoint(tmp_path / "out"), open_checkpoint(model)
    for row in report.rows:
        w, w_hat = (values(x.tensor(f"{row.layer}.weight")) for x in (here, there))
        assert row.method == "float"
        lost = np.linalg.norm(w - w_hat) / np.linalg.norm(w)
        assert row.weight_error == pytest.approx(lost, rel=1e-3)  # float16 rounds too
        assert 0 < row.weight_error < 1e-3


@pytest.mark.parametrize(
    "name",
    ["model.embed_tokens.weight", "model.norm.weight", "model.layers.1.input_layernorm.weight"],
)
def test_numbers_that_are_not_finite_are_found_where_nothing_is_rounded(model, tmp_path, name):
    broken = load(model)
    with torch.no_grad():
        broken.get_parameter(name).view(-1)[5] = float("inf")
    save(broken, tmp_path / "broken")
    module = name.removesuffix(".weight")
    with pytest.raises(InputError, match=rf"{module}: weights that are not finite"):
        run(tmp_path / "broken", tmp_path / "out", method="rtn", calibration=None)


def test_a_file_that_could_not_be_written_is_refused_before_anything(model, tmp_path):
    with pytest.raises(MissingError, match=r"no tokenizer\.json, and a GGUF file carries"):
        run(model, tmp_path / "out.gguf")
    with pytest.raises(OptionError, match=r"write \.gguf in small letters"):
        run(model, tmp_path / "out.GGUF")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.filterwarnings("error")
def test_a_model_that_overflows_is_named_in_a_line(model, tmp_path):
    broken = load(model)
    with torch.no_grad():
        broken.get_parameter("model.layers.0.self_attn.v_proj.weight").mul_(1e25)
        broken.get_parameter("model.layers.0.mlp.up_proj.weight").mul_(1e20)
    save(broken, tmp_path / "broken")
    how = {"method": "awq+gptq", "scheme": "w3a16-g32"}
    with pytest.raises(InputError, match=r"layers\.0: the o inputs: .* squares are not finite"):
        run(tmp_path / "broken", tmp_path / "out", **how)
    with pytest.raises(InputError, match=r"v_proj: .* does not fit float16, .* by a plan\."):
        run(tmp_path / "broken", tmp_path / "other", method="rtn", calibration=None)


def test_the_source_is_never_written_over(model, tmp_path):
    before = files(model)
    with pytest.raises(OptionError, match="is the model that is exported"):
        run(model, model, force=True)
    with pytest.raises(OptionError, match=r"the work folder is .* and so is OUT"):
        run(model, tmp_path / "out", work=tmp_path / "out")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.doc").write_text("years of it")
    with pytest.raises(OptionError, match="holds more than a model"):
        run(model, tmp_path / "mine", force=True)
    assert files(model) == before
    assert [place.name for place in tmp_path.iterdir()] == ["mine"]


def test_tokens_that_the_model_has_not(model, tmp_path):
    for tokens, message in (
        (np.full((2, 8), 50), "token 50, and the model has 50"),
        (np.full((2, 8), -1), "token -1"),
    ):
        with pytest.raises(InputError, match=message):
            run(model, tmp_path / "out", calibration=replace(TEXT, tokens_WT=tokens))
    for shape in ((0, 8), (8,), (1, 100_000)):
        tokens = np.zeros(shape, np.int64)
        with pytest.raises(OptionError, match="calibration: tokens of shape"):
            run(model, tmp_path / "out", calibration=replace(TEXT, tokens_WT=tokens))


def test_what_is_no_text_is_no_calibration(tmp_path):
    zeros = tmp_path / "zeros.txt"
    zeros.write_bytes(b"\0" * 5000)
    with pytest.raises(InputError, match="holds zero bytes, so it is no text"):
        calibration.read(str(zeros), None)
    with pytest.raises(MissingError, match=r"wikipedia: there is no such file, .*\(wiki, sotu"):
        calibration.read("wikipedia", None)


def test_a_folder_in_which_a_run_is_at_work_is_left_alone(model, tmp_path):
    out, seen = tmp_path / "out", []

    def second(status):
        if status.done == 1:
            with pytest.raises(OptionError, match="another run is at work in this folder"):
                run(model, out)
            with pytest.raises(OptionError, match="another run is at work in this folder"):
                run(model, out, resume=False)
            seen.append(status)

    run(model, out, progress=second)
    assert len(seen) == 1
    assert not (tmp_path / "out.work").exists()


def test_a_lock_that_a_killed_run_has_left_holds_no_one(model, tmp_path):
    out = tmp_path / "out"
    with pytest.raises(Killed):
        run(model, out, progress=stopped_after(1))
    assert (tmp_path / "out.work" / "lock").exists()
    lock = os.open(tmp_path / "out.work" / "lock", os.O_RDWR)
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # raises if it is held
    os.close(lock)
    run(model, out)


def test_a_run_that_has_done_nothing_does_not_stand_in_the_way(model, tmp_path):
    with pytest.raises(Killed):
        run(model, tmp_path / "out", progress=stopped_after(0))
    assert (tmp_path / "out.work" / "run.json").exists()
    assert run(model, tmp_path / "out", method="rtn").method == "rtn"


def test_a_report_beside_the_model_changes_nothing(model, tmp_path):
    folder = tmp_path / "model"
    save(load(model), folder)
    with pytest.raises(Killed):
        run(folder, folder / "out", progress=stopped_after(1))
    (folder / "out.plan.toml").write_text("of something else")
    seen = []
    run(folder, folder / "out", progress=seen.append)
    assert seen[0].done == 1


def test_what_a_kill_has_left_of_the_file_is_removed(model, tmp_path, monkeypatch):
    out = tmp_path / "out"

    def killed(*args, **more):
        (tmp_path / ".out.0123456789ab.tmp").mkdir()
        (tmp_path / ".out.0123456789ab.tmp" / "model.safetensors").write_bytes(b"half")
        raise Killed

    monkeypatch.setattr("onebit.ptq.driver.export", killed)
    with pytest.raises(Killed):
        run(model, out)
    monkeypatch.undo()
    report = run(model, out)
    assert [place.name for place in tmp_path.iterdir()] == ["out"]
    assert report.time_s > sum(row.time_s for row in report.rows)  # of both processes


def test_layers_of_our_own_are_kept_under_their_scheme(model, tmp_path):
    mixed = Plan("mixed", {"*.q_proj": "w8a8s-row", "*.up_proj": "w4a8-g32", "*": "f16"})
    run(model, tmp_path / "first", method="rtn", scheme=mixed)
    report = run(
        tmp_path / "first", tmp_path / "second", method="rtn", scheme="w3a16-g32", kept="keep"
    )
    kept = {row.layer for row in report.rows if row.method == "kept"}
    assert len(kept) == 4
    first, second = load(tmp_path / "first"), load(tmp_path / "second")
    for name in kept:
        a, b = first.get_submodule(name), second.get_submodule(name)
        assert a.scheme == b.scheme
        assert torch.equal(a.weight, b.weight)
        if a.scheme.static:
            assert torch.equal(a.input_scale, b.input_scale)
    assert second.scheme.linear("model.layers.0.mlp.down_proj").weight == "int3"


def test_static_scales_of_the_source_do_not_pass_into_another_scheme(model, tmp_path):
    run(model, tmp_path / "first", method="rtn", scheme="w8a8s-row")
    report = run(tmp_path / "first", tmp_path / "second", scheme="w4a16-g32", kept="force")
    names = open_checkpoint(tmp_path / "second").names()
    assert not [name for name in names if "input_scale" in name]
    assert report.weights == sum(p.numel() for p in load(model).parameters())


def test_masters_are_no_weights(save_tiny, tmp_path):
    folder = save_tiny("words of a text, and of no other. " * 8, scheme="bitnet-b1.58")
    with pytest.raises(
        InputError, match=r"7 masters that scheme 'bitnet-b1\.58' rounds to ternary"
    ):
        ptq.quantize(folder, tmp_path / "out", method="rtn")
    with pytest.raises(InputError, match=r"its floats are masters, .* Write it by `onebit export`"):
        ptq.quantize(folder, tmp_path / "out", method="rtn", kept="force")
    ptq.quantize(folder, tmp_path / "out", method="rtn", kept="keep")
    name = "model.layers.0.mlp.up_proj"
    w, w_hat = (load(x).get_submodule(name) for x in (folder, tmp_path / "out"))
    q = quantize_weight(w.weight, SCHEMES["bitnet-b1.58"].linear(name))
    assert torch.equal(w_hat.codes().codes_NK, q.codes_NK)
    guards.refuse_masters(FileSource(tmp_path / "out"), [name])


def test_what_the_engine_would_not_load_is_refused_before_anything(save_tiny, tmp_path):
    shape = {"hidden_size": 48, "intermediate_size": 96, "head_dim": 24}
    folder = save_tiny("words of a text, and of no other. " * 8, **shape)
    with pytest.raises(ShapeError, match=r"q_proj: 48 columns in two planes of trits; the engine"):
        ptq.quantize(folder, tmp_path / "out", method="ternary", scheme="w2x1.58a16-g16")
    assert list(tmp_path.iterdir()) == []
