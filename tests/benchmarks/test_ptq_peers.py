"""Beside others: both sides get the same, what is finished is kept, a failing script is named."""

import json
import sys

import numpy as np
import pytest
import torch
from benchmarks.ptq import ggml, peers
from benchmarks.ptq.rows import ROWS, Setup

from onebit import models
from onebit.errors import OptionError
from onebit.io import open_checkpoint
from onebit.models import stored_weight

SETUP = Setup(models=("smollm2",), threads=1)
TEXT = "A text of letters and words; a model is given it in windows. " * 9


@pytest.fixture(scope="module")
def inputs(save_tiny, tmp_path_factory):
    """A float model whose mlp has one width that 256 divides, and tokens."""
    folder = tmp_path_factory.mktemp("peers")
    saved = save_tiny(TEXT, intermediate_size=256)
    models.export(saved, folder / "floats", "f32", embed="f32")
    np.save(folder / "calibration.npy", np.random.default_rng(0).integers(0, 300, (3, 32)))
    return folder / "floats", folder / "calibration.npy"


def test_importance_is_the_mean_square_of_the_inputs(inputs):
    model = models.load(inputs[0]).eval()
    layer = "model.layers.0.self_attn.q_proj"
    tokens = np.load(inputs[1])
    found = ggml.mean_squares(model, [layer], tokens)
    with torch.no_grad():
        x = model.model.embed_tokens(torch.from_numpy(tokens))
        x = model.model.layers[0].input_layernorm(x).double()
    expected = x.square().mean(dim=(0, 1))
    torch.testing.assert_close(torch.tensor(found[layer]), expected.float(), rtol=1e-5, atol=0)
    assert not model.get_submodule(layer)._forward_pre_hooks


@pytest.mark.parametrize("weighed", [False, True])
def test_both_write_the_same_formats_and_ours_errs_less(inputs, monkeypatch, weighed):
    pytest.importorskip("libgguf")
    files = []

    def on_texts(opened, tokenizer, setup):
        stored = open_checkpoint(opened.path)
        files.append({name: stored.tensor(name).format for name in stored.names()})
        return {}

    monkeypatch.setattr(ggml, "on_texts", on_texts)
    found = ggml.beside(inputs, str(inputs[0]), "q4_k", weighed, SETUP)
    assert files[0] == files[1]
    assert files[0]["model.layers.0.mlp.down_proj.weight"] == "q4_k"
    assert files[0]["model.layers.0.mlp.up_proj.weight"] == "q5_0"
    assert 0 < found["ours"]["weight_error"] <= found["weight_error"] < 0.2
    assert found["ours"]["size_bytes"] == found["size_bytes"]
    assert not list(inputs[0].parent.glob("*.gguf"))


def test_the_file_holds_the_bytes_of_ggml(inputs, tmp_path):
    libgguf = pytest.importorskip("libgguf")
    source = open_checkpoint(inputs[0])
    name = "model.layers.0.mlp.down_proj.weight"
    w = torch.from_numpy(stored_weight.values(source.tensor(name)))
    rounded = ggml._theirs(name, w, None, "q4_k")
    made = ggml.Rounded(source, {name: rounded})
    formats = dict.fromkeys(_layers(source), "f32") | {name.removesuffix(".weight"): "q4_k"}
    models.export(made, tmp_path / "m.gguf", formats=formats, embed="f32")
    there = open_checkpoint(tmp_path / "m.gguf").tensor(name)
    assert bytes(there.data) == bytes(rounded.data)
    kind = libgguf.GGMLQuantizationType.Q4_K
    expected = libgguf.dequantize_rows(rounded.data.reshape(len(w), -1), kind)
    np.testing.assert_array_equal(stored_weight.values(there), expected)


def _layers(source):
    return [n.removesuffix(".weight") for n in source.names() if n.endswith("_proj.weight")]


def test_what_is_finished_is_kept_until_it_would_be_another(tmp_path, monkeypatch):
    done = []
    monkeypatch.setattr(
        peers, "_peer", lambda out, model, peer, setup: done.append(peer.name) or {}
    )
    monkeypatch.setattr(ggml, "WAYS", ())
    names = [peer.name for peer in peers.PEERS]
    assert peers.everything(tmp_path, SETUP, told=sys.stdout) == {}
    assert done == names
    peers.everything(tmp_path, SETUP, told=sys.stdout)
    assert done == names
    peers.everything(tmp_path, Setup(models=("smollm2",), threads=2), names[:1], told=sys.stdout)
    assert done == [*names, names[0]]
    assert peers.everything(tmp_path, Setup(models=("gemma3-270m",)), told=sys.stdout) == {}
    assert list(peers.results(tmp_path, "smollm2")) == names


def test_a_script_that_fails_is_named_and_the_others_go_on(tmp_path, monkeypatch):
    folder = tmp_path / "smollm2" / "peers"
    monkeypatch.setattr(peers, "_inputs", lambda *given: (folder / "floats", folder / "c.npy"))
    monkeypatch.setattr(peers, "_environment", lambda *given: sys.executable)
    monkeypatch.setattr(ggml, "WAYS", (("q4_k", False),))
    monkeypatch.setattr(ggml, "beside", lambda *given: {"words": "fine"})
    name = peers.PEERS[0].name
    failed = peers.everything(tmp_path, SETUP, (name, "ggml-q4_k"), told=sys.stdout)
    assert list(failed) == [f"smollm2/{name}"]
    assert "log.txt" in failed[f"smollm2/{name}"]
    assert (folder / name / "theirs" / "log.txt").read_text()
    assert list(peers.results(tmp_path, "smollm2")) == ["ggml-q4_k"]


def test_our_script_leaves_a_model_and_its_cost(inputs, tmp_path):
    settings = peers.PEERS[0]
    found = peers._script([sys.executable], peers.OURS, inputs, tmp_path, settings, SETUP)
    assert found["time_s"] > 0
    assert found["peak_memory_bytes"] > 10**7
    carried = models.load(tmp_path / "model" / "model.gguf").scheme
    assert carried.linear("model.layers.0.mlp.up_proj").weight == "int3"
    assert json.loads((tmp_path / "model" / "result.json").read_text()) == found


def test_an_environment_is_made_once_for_what_it_has(tmp_path, monkeypatch):
    ran = []

    def run(command, **options):
        ran.append([str(word) for word in command])
        (tmp_path / "env").mkdir(exist_ok=True)

    monkeypatch.setattr(peers.subprocess, "run", run)
    for wanted in (("a==1", "b==2"), ("a==1", "b==2"), ("a==2", "b==2")):
        python = peers._environment(tmp_path / "env", wanted)
    assert python == tmp_path / "env" / "bin" / "python"
    assert [command[-2:] for command in ran if "install" in command] == [
        ["a==1", "b==2"],
        ["a==2", "b==2"],
    ]


def test_unknown_peers_are_named(tmp_path):
    with pytest.raises(OptionError, match="'nobody' is no peer"):
        peers.everything(tmp_path, SETUP, ("nobody",))


def test_every_format_beside_ggml_is_a_row_of_the_table():
    for format, _ in ggml.WAYS:
        assert ROWS[format].blocks[0] == format
