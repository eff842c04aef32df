"""verify on every scheme: a packed model is what it claims, and what is not is said."""

import pytest
import torch

from onebit import models, quant
from onebit.analyze.verify import verify
from onebit.architecture import Architecture
from onebit.data import Tokenizer
from onebit.io import open_checkpoint
from onebit.scheme import SCHEMES, LinearScheme, Scheme

DOWN = "model.layers.0.mlp.down_proj.weight"
VARIANTS = {
    **{name: scheme for name, scheme in SCHEMES.items() if scheme.quantized},
    "binary in parts": Scheme("s", {"body": LinearScheme("binary", split="in:2")}),
    "ternary in parts by rows": Scheme("s", {"body": LinearScheme("ternary", split="out:2")}),
    "turned": Scheme("s", {"body": LinearScheme("ternary", hadamard="both", signs=2)}),
    "seq": Scheme("s", {"body": LinearScheme("ternary", "seq")}),
    "int4 with a zero-point": Scheme("s", {"body": LinearScheme("int4", "zero_point")}),
    "int3 in groups": Scheme("s", {"body": LinearScheme("int3", "absmax", "group:32")}),
}


@pytest.fixture(scope="module")
def masters(tmp_path_factory):
    """The folder of a scheme's masters."""
    tokenizer = Tokenizer.train(["the cat sat on the mat. "], 260)

    def make(scheme):
        sizes = {"hidden_size": 64, "intermediate_size": 96, "head_dim": 16}
        sizes["tie_word_embeddings"] = scheme.linear("lm_head").weight == "fp"
        a = Architecture(
            260, num_hidden_layers=1, num_attention_heads=4, num_key_value_heads=2, **sizes
        )
        model = models.build(a, scheme, seed=0)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.ndim == 2:
                    parameter.add_(0.005)
        folder = tmp_path_factory.mktemp("masters")
        models.save(model, folder, tokenizer)
        return folder

    return make


@pytest.mark.parametrize("name", VARIANTS)
def test_a_packed_model_is_what_its_scheme_claims(masters, tmp_path, name):
    folder = masters(VARIANTS[name])
    models.export(folder, tmp_path / "m.gguf")
    report = verify(tmp_path / "m.gguf", against=folder)
    assert report.ok, [t.findings for t in report.tensors if not t.ok] + list(report.findings)
    for tensor in report.tensors:
        claim = VARIANTS[name].linear(tensor.name.removesuffix(".weight")).weight
        if claim in ("ternary", "binary"):
            assert (tensor.kind, tensor.levels) == (claim, 3 if claim == "ternary" else 2)
        elif claim != "fp":  # not every code has to occur, and a learned step may use few
            assert tensor.kind in ("ternary", *(f"int{bits}" for bits in range(2, 9)))
            assert tensor.levels <= 2 ** int(claim.removeprefix("int"))
    assert verify(folder).ok  # the masters themselves: nothing is claimed of what is not rounded


def test_binary_codes_are_two_and_take_a_bit(masters, tmp_path):
    models.export(masters(SCHEMES["bitnet-b1"]), tmp_path / "m.gguf")
    report = verify(tmp_path / "m.gguf")
    down = next(t for t in report.tensors if t.name == DOWN)
    assert (down.kind, down.levels, down.zeros, down.sharing) == ("binary", 2, 0.0, "tensor")
    assert down.stored_bits == pytest.approx(1 + 32 / (64 * 96))
    assert report.shares["binary"] == pytest.approx(
        sum(t.weights for t in report.tensors if t.claim == "binary") / report.parameters
    )
    assert down.input == "LayerNorm without weights; int8_b1"


def test_inputs_are_said_in_words(masters, tmp_path):
    scheme = Scheme(
        "s",
        {
            "body": LinearScheme("ternary", activation="dynamic:4.5"),
            "down": LinearScheme("binary", norm="rms", hadamard="both", signs=7, split="in:3"),
        },
        kv_bits=4,
        q_bits=3,
    )
    models.export(masters(scheme), tmp_path / "m.gguf")
    report = verify(tmp_path / "m.gguf")
    said = {t.role: t.input for t in report.tensors}
    assert said["q"] == "dynamic:4.5"
    assert said["down"] == (
        "RMSNorm; Hadamard matrix with signs of seed 7, the weights turned too; "
        "in 3 parts by columns"
    )
    assert said["embed"] == ""
    assert (report.kv_bits, report.q_bits) == (4, 3)
    assert report.to_dict()["kv_bits"] == 4


def wrong(masters, tmp_path, made, claimed):
    """The findings on a matrix of one scheme in a file that claims another."""
    models.export(masters(Scheme("s", {"body": made})), tmp_path / "m")
    checkpoint = open_checkpoint(tmp_path / "m")
    checkpoint.config["onebit_scheme"] = Scheme("s", {"body": claimed}).to_dict()
    report = verify(checkpoint)
    return [f.text for t in report.tensors if t.name == DOWN for f in t.findings]


@pytest.mark.parametrize(
    ("made", "claimed", "text"),
    [
        (LinearScheme("int4", "absmax"), LinearScheme("int3", "absmax"), "int4 weights, "),
        (LinearScheme("int4", "zero_point"), LinearScheme("int2", "zero_point"), "int4 weights"),
        (LinearScheme("ternary"), LinearScheme("binary"), "ternary; binary weights have none"),
        (LinearScheme("binary"), LinearScheme("ternary"), "no zeros: binary, not ternary"),
        (
            LinearScheme("binary", split="in:4"),
            LinearScheme("binary", split="in:2"),
            "one per part",
        ),
        (
            LinearScheme("binary", split="out:4"),
            LinearScheme("binary", split="out:2"),
            "one per pa",
        ),
        (LinearScheme("binary", split="in:2"), LinearScheme("binary"), "says one per tensor"),
        (
            LinearScheme("int4", "absmax", "row"),
            LinearScheme("int4", "absmax"),
            "one per row; the scheme says one per tensor",
        ),
    ],
)
def test_another_scheme_than_claimed_is_found(masters, tmp_path, made, claimed, text):
    assert any(text in found for found in wrong(masters, tmp_path, made, claimed))


@pytest.mark.parametrize(
    "linear",
    [LinearScheme("int4", "absmax"), LinearScheme("int5", "zero_point"), LinearScheme("binary")],
    ids=lambda linear: linear.weight,
)
def test_other_masters_are_found(masters, tmp_path, linear):
    folder = masters(Scheme("s", {"body": linear}))
    models.export(folder, tmp_path / "m.gguf")
    model = models.load(folder)
    with torch.no_grad():
        module = model.get_submodule(DOWN.removesuffix(".weight"))
        module.weight.copy_(module.weight.flip(0) * 1.5)
    models.save(model, tmp_path / "other")
    report = verify(tmp_path / "m.gguf", against=tmp_path / "other")
    down = next(t for t in report.tensors if t.name == DOWN)
    assert "codes differ from those that the masters round to" in down.findings[-1].text
    assert [t.ok for t in report.tensors].count(False) == 1


def test_a_learned_step_is_asked_for_where_weights_are_floats(masters, tmp_path):
    folder = masters(SCHEMES["int4-lsq"])
    assert verify(folder).ok
    models.export(folder, tmp_path / "m")
    assert not any(name.endswith(".step") for name in open_checkpoint(tmp_path / "m").names())
    assert verify(tmp_path / "m").ok
    kept = open_checkpoint(folder)
    names = [name for name in kept.names() if not name.endswith("down_proj.step")]
    kept.names = lambda: names
    report = verify(kept)
    assert not report.ok
    assert any("down_proj.step" in finding.text for finding in report.findings)


def test_codes_are_those_that_training_rounds_to(masters, tmp_path):
    """Not by the same function on both sides: the module's own codes."""
    folder = masters(SCHEMES["int3-lsq"])
    models.export(folder, tmp_path / "m.gguf")
    model = models.load(folder)
    module = model.get_submodule(DOWN.removesuffix(".weight"))
    stored = models.stored_weight.unpacked(open_checkpoint(tmp_path / "m.gguf").tensor(DOWN))
    assert torch.equal(torch.from_numpy(stored.codes_NK), module.codes().codes_NK)
    assert torch.equal(
        torch.from_numpy(stored.scale_NG), quant.fewest_scales(module.codes()).scale_NG
    )
