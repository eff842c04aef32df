"""Loading and saving: round trips, codes that stay codes, and files that do not fit."""

import json
from dataclasses import replace

import ml_dtypes
import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from onebit import Architecture, models, pack, quant
from onebit.errors import (
    FormatError,
    MissingError,
    NotTernaryError,
    OnebitError,
    OptionError,
    UnsupportedError,
)
from onebit.io import packed
from onebit.models.save import config_of
from onebit.nn import bit_linears, pack_linears, unfreeze
from onebit.pack import Unpacked
from onebit.scheme import SCHEMES, LinearScheme, Scheme

A = Architecture(29, 32, 64, 2, 4, 2, 8)
TOKENS = torch.randint(0, 29, (1, 7), generator=torch.Generator().manual_seed(0))
B158 = SCHEMES["bitnet-b1.58"]
UP = "model.layers.1.mlp.up_proj.weight"


def built(scheme=B158, architecture=A):
    return models.build(architecture, scheme, seed=1).eval()


def change_config(folder, **fields):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def change_tensors(folder, change, metadata=None):
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", {"format": "pt", **(metadata or {})})


@pytest.mark.parametrize("name", SCHEMES)
@torch.no_grad()
def test_round_trip(name, tmp_path):
    a = replace(A, tie_word_embeddings=name != "matmulfree")  # whose head is ternary
    model = built(SCHEMES[name], a)
    models.save(model, tmp_path / "model")
    back = models.load(tmp_path / "model")
    assert back.architecture == a
    assert back.scheme == SCHEMES[name]
    assert torch.equal(back(TOKENS), model(TOKENS))
    assert not any(layer.frozen for _, layer in bit_linears(back))
    assert sorted(f.name for f in (tmp_path / "model").iterdir()) == [
        "config.json",
        "model.safetensors",
    ]


@pytest.mark.parametrize(
    "scheme",
    [
        B158,
        Scheme("row", {"body": LinearScheme("ternary", "least_squares", "row", "int8_absmax")}),
        Scheme("group", {"body": LinearScheme("ternary", weight_scale="group:16")}),
        Scheme("binary", {"body": LinearScheme("binary", activation="int8_absmax")}),
        Scheme("turned", {"body": LinearScheme("ternary", hadamard="both", signs=3)}),
        Scheme("in", {"body": LinearScheme("binary", activation="int8_b1", split="in:2")}),
        Scheme("out", {"body": LinearScheme("binary", activation="int8_b1", split="out:2")}),
        Scheme("seq", {"body": LinearScheme("ternary", "seq", "row", "int8_absmax")}),
    ],
    ids=lambda s: s.name,
)
@torch.no_grad()
def test_frozen_weights_come_back_frozen_with_the_same_codes(scheme, tmp_path):
    """Through plain floats on the grid: rounded once, in the life of the weight."""
    model = built(scheme)
    for _, layer in bit_linears(model):
        layer.freeze()
    expected = model(TOKENS)
    for folder in ("once", "twice"):
        models.save(model, tmp_path / folder)
        model = models.load(tmp_path / folder)
        assert all(layer.frozen for _, layer in bit_linears(model))
        assert torch.equal(model(TOKENS), expected)
    assert "quantization_config" not in json.loads((tmp_path / "twice/config.json").read_text())


OURS = replace(A, pre_norms=False, softmax_temperature=0.5, learned_temperature=True)


@torch.no_grad()
def test_norms_temperatures_and_bits_come_back(tmp_path):
    scheme = Scheme("low", SCHEMES["bitnet-b1"].layers, kv_bits=4, q_bits=8)
    model = built(scheme, OURS)
    for layer in model.model.layers:
        layer.self_attn.temperature.copy_(torch.tensor([0.5, 1.0, 1.5, 2.0]))
    models.save(model, tmp_path)
    back = models.load(tmp_path)
    assert back.architecture == OURS
    assert (back.scheme.kv_bits, back.model.layers[1].self_attn.q_bits) == (4, 8)
    assert not back.training
    assert torch.equal(back(TOKENS), model(TOKENS))


LEARNED = [
    ("lsq", LinearScheme("int4", "lsq", "group:16", "int8_absmax")),
    ("seq", LinearScheme("ternary", "seq", "row", "int8_absmax")),
    ("turned", LinearScheme("ternary", "seq", "tensor", "int8_absmax", "rms", "both", 5)),
]


@pytest.mark.parametrize(("name", "linear"), LEARNED)
@torch.no_grad()
def test_learned_steps_come_back(name, linear, tmp_path):
    model = built(Scheme(name, {"body": linear}))
    for _, layer in bit_linears(model):
        layer.step.mul_(1.5)
    models.save(model, tmp_path)
    back = models.load(tmp_path)
    assert torch.equal(back(TOKENS), model(TOKENS))
    for (_, layer), (_, other) in zip(bit_linears(back), bit_linears(model), strict=True):
        assert torch.equal(layer.step, other.step)
        assert layer.step.requires_grad


@torch.no_grad()
def test_packed_weights_bring_their_step_as_their_scale(tmp_path):
    model = built(Scheme("seq", {"body": LEARNED[1][1]}))
    name, layer = next(bit_linears(model))
    models.save(model, tmp_path)
    q, form = layer.codes(), pack.FORMATS["t2"]

    def pack_one(tensors):
        rows = form.pack(Unpacked(q.codes_NK.numpy(), q.scale_NG.numpy()))
        tensors[f"{name}.weight"] = rows.reshape(len(q.codes_NK), -1)
        tensors[packed.scale_name(f"{name}.weight")] = q.scale_NG.numpy()
        del tensors[f"{name}.step"]

    shapes = {f"{name}.weight": packed.Packed("t2", tuple(q.codes_NK.shape))}
    change_tensors(tmp_path, pack_one, {packed.TENSORS_KEY: packed.to_json(shapes)})
    back = models.load(tmp_path)
    assert back.get_submodule(name).frozen
    torch.testing.assert_close(back.get_submodule(name).step, layer.step)
    assert torch.equal(back(TOKENS), model(TOKENS))
    unfreeze(back)
    torch.testing.assert_close(back(TOKENS), model(TOKENS), rtol=1e-4, atol=1e-5)


def test_a_step_that_is_missing_beside_float_masters_is_named(tmp_path):
    models.save(built(SCHEMES["int4-lsq"]), tmp_path)
    change_tensors(tmp_path, lambda t: t.pop("model.layers.0.self_attn.q_proj.step"))
    with pytest.raises(MissingError, match=r"q_proj\.step is not there"):
        models.load(tmp_path)


@pytest.mark.parametrize(
    ("scheme", "architecture"),
    [
        (Scheme("kv", B158.layers, kv_bits=4), A),
        (Scheme("q", B158.layers, q_bits=4), A),
        (SCHEMES["bitnet-b1"], A),
        (SCHEMES["bitnet-v2-a8"], A),
        (B158, OURS),
        (B158, replace(A, softmax_temperature=2.0)),
    ],
)
def test_transformers_is_told_nothing_that_it_would_compute_otherwise(scheme, architecture):
    assert "quantization_config" in config_of(built())
    config = config_of(built(scheme, architecture))
    assert "quantization_config" not in config


@torch.no_grad()
def test_frozen_weights_keep_their_scale_in_a_bf16_model(tmp_path):
    model = built()
    for _, layer in bit_linears(model):
        layer.freeze()
    scale = dict(bit_linears(model))["model.layers.0.self_attn.q_proj"].codes().scale_NG
    models.save(model.bfloat16(), tmp_path)
    back = models.load(tmp_path, torch.bfloat16)
    assert back.model.embed_tokens.weight.dtype == torch.bfloat16
    kept = dict(bit_linears(back))["model.layers.0.self_attn.q_proj"].codes().scale_NG
    assert torch.equal(kept, scale)
    assert back(TOKENS).dtype == torch.float32


def test_training_goes_on_from_packed_weights(tmp_path):
    model = built()
    for _, layer in bit_linears(model):
        layer.freeze()
    models.save(model, tmp_path)
    back = unfreeze(models.load(tmp_path))
    torch.testing.assert_close(back(TOKENS), model(TOKENS), rtol=1e-4, atol=1e-5)
    back(TOKENS).sum().backward()
    assert all(layer.weight.grad is not None for _, layer in bit_linears(back))


@pytest.mark.parametrize("format", ["t2", "t1_6"])
@torch.no_grad()
def test_packed_codes_are_kept(format, tmp_path):
    model = built()
    models.save(model, tmp_path)
    entries = {f"{n}.weight": (m.codes(), pack.FORMATS[format]) for n, m in bit_linears(model)}

    def pack_all(tensors):
        for name, (q, form) in entries.items():
            rows = form.pack(Unpacked(q.codes_NK.numpy(), q.scale_NG.numpy()))
            tensors[name] = rows.reshape(len(q.codes_NK), -1)
            tensors[packed.scale_name(name)] = q.scale_NG[0].numpy()

    shapes = {n: packed.Packed(format, tuple(q.codes_NK.shape)) for n, (q, _) in entries.items()}
    change_tensors(tmp_path, pack_all, {packed.TENSORS_KEY: packed.to_json(shapes)})
    back = models.load(tmp_path)
    assert torch.equal(back(TOKENS), model(TOKENS))
    for name, layer in bit_linears(back):
        assert layer.frozen
        assert torch.equal(layer.codes().codes_NK, entries[f"{name}.weight"][0].codes_NK)
        assert torch.equal(layer.codes().scale_NG, entries[f"{name}.weight"][0].scale_NG)


def test_bf16_masters_are_rounded_from_what_the_file_holds(tmp_path):
    models.save(built().bfloat16(), tmp_path)
    raw = (tmp_path / "model.safetensors").read_bytes()
    assert b'"BF16"' in raw
    layer = dict(bit_linears(models.load(tmp_path)))[UP.removesuffix(".weight")]
    w = built().get_parameter(UP).detach().numpy().astype(ml_dtypes.bfloat16).astype(np.float32)
    expected = quant.ternary.quantize_absmean(torch.from_numpy(w))
    assert torch.equal(layer.codes().codes_NK, expected.codes_NK)


def test_a_tokenizer_is_saved_beside(tmp_path):
    from onebit.data import Tokenizer

    tokenizer = Tokenizer.train(["the cat sat on the mat"] * 8, vocab_size=270)
    models.save(built(), tmp_path, tokenizer)
    assert Tokenizer.load(tmp_path).encode("the cat") == tokenizer.encode("the cat")


def drop_norm(tensors):
    del tensors["model.norm.weight"]


def add_variant(tensors):
    tensors["model.layers.0.self_attn.inner_attn_ln.weight"] = np.ones(32, np.float32)


def transpose(tensors):
    tensors[UP] = np.ascontiguousarray(tensors[UP].T)


def to_integers(tensors):
    tensors["model.norm.weight"] = np.ones(32, np.int32)


BROKEN = [
    (drop_norm, MissingError, r"model\.norm\.weight is not there\. The file is incomplete"),
    (transpose, FormatError, r"up_proj\.weight has shape \[32, 64\], .* asks for \[64, 32\]"),
    (add_variant, UnsupportedError, r"inner_attn_ln\.weight' has no place in a llama model"),
    (to_integers, FormatError, r"model\.norm\.weight: holds i32, and weights are floats"),
]


@pytest.mark.parametrize(
    ("change", "error", "message"), BROKEN, ids=lambda v: getattr(v, "__name__", "")
)
def test_files_that_do_not_fit_are_refused_in_one_line(change, error, message, tmp_path):
    models.save(built(), tmp_path)
    change_tensors(tmp_path, change)
    with pytest.raises(error, match=message) as caught:
        models.load(tmp_path)
    assert "\n" not in str(caught.value)


def test_spare_tensors_that_the_config_explains_are_fine(tmp_path):
    """The head of tied embeddings, and the frequencies that old checkpoints hold."""
    models.save(built(), tmp_path)

    def add(tensors):
        tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"]
        tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = np.ones(4, np.float32)

    change_tensors(tmp_path, add)
    assert torch.equal(models.load(tmp_path)(TOKENS), built()(TOKENS))


UNKNOWN_WEIGHT = {"name": "x", "layers": {"body": {"weight": "int9"}}}
STANDING = {"rope_type": "linear", "factor": 0}
MISFITS = [
    ({"onebit_scheme": UNKNOWN_WEIGHT}, OptionError, "weight is 'int9'; accepted: fp, ternary"),
    ({"onebit_scheme": 5}, OptionError, "expected a table with a name and layers"),
    ({"model_type": "mamba"}, UnsupportedError, "model_type is 'mamba'"),
    ({"num_hidden_layers": 3}, MissingError, r"layers\.2\.\S+ is not there, nor are 8 others"),
    ({"vocab_size": 30}, FormatError, r"embed_tokens\.weight has shape \[29, 32\]"),
    ({"rope_parameters": STANDING}, OptionError, "rope factor is 0"),
]


@pytest.mark.parametrize(("fields", "error", "message"), MISFITS)
def test_configs_that_do_not_fit_are_refused_in_one_line(fields, error, message, tmp_path):
    models.save(built(), tmp_path)
    change_config(tmp_path, **fields)
    with pytest.raises(error, match=message) as caught:
        models.load(tmp_path)
    assert "\n" not in str(caught.value)


def test_inner_norms_with_another_epsilon_are_refused(tmp_path):
    models.save(built(SCHEMES["bitnet-b1.58-norm"]), tmp_path)
    hf = json.loads((tmp_path / "config.json").read_text())["quantization_config"]
    assert hf["use_rms_norm"] is True
    change_config(tmp_path, quantization_config=hf | {"rms_norm_eps": 1e-3})
    with pytest.raises(UnsupportedError, match=r"rms_norm_eps is 0\.001 and rms_norm_eps 1e-05"):
        models.load(tmp_path)


def test_weights_of_another_format_are_not_rounded_a_second_time(tmp_path):
    """int4 codes under a ternary scheme: neither its codes nor float masters."""
    models.save(built(), tmp_path)
    q = quant.integer.quantize(built().get_parameter(UP), 4, 16)

    def put(tensors):
        rows = pack.FORMATS["i4"].pack(Unpacked(q.codes_NK.numpy(), q.scale_NG.numpy()))
        tensors[UP] = rows.reshape(64, -1)
        tensors[packed.scale_name(UP)] = q.scale_NG.numpy()

    shapes = {UP: packed.Packed("i4", (64, 32))}
    change_tensors(tmp_path, put, {packed.TENSORS_KEY: packed.to_json(shapes)})
    with pytest.raises(NotTernaryError, match="packed as i4, and its values are no codes"):
        models.load(tmp_path)
    int4 = Scheme("int4", {"body": LinearScheme("int4", "absmax", "group:16")})
    change_config(tmp_path, onebit_scheme=int4.to_dict())
    layer = dict(bit_linears(models.load(tmp_path)))[UP.removesuffix(".weight")]
    assert torch.equal(layer.codes().codes_NK, q.codes_NK)


def test_a_damaged_packed_tensor_is_named(tmp_path):
    models.save(built(), tmp_path)

    def put(tensors):
        tensors[UP] = np.full((64, 8), 0xFF, np.uint8)
        tensors[packed.scale_name(UP)] = np.ones(1, np.float32)

    shapes = {UP: packed.Packed("t2", (64, 32))}
    change_tensors(tmp_path, put, {packed.TENSORS_KEY: packed.to_json(shapes)})
    with pytest.raises(OnebitError, match=rf"{UP}: t2: byte 0 of row 0 is 0xff") as caught:
        models.load(tmp_path)
    assert "\n" not in str(caught.value)


def test_nothing_there(tmp_path):
    with pytest.raises(MissingError, match="there is no such file or folder"):
        models.load(tmp_path / "nothing")


def test_save_refuses_what_is_no_float(tmp_path):
    model = built(SCHEMES["fp"]).double()
    with pytest.raises(OptionError, match=r"is torch\.float64; accepted: torch\.float32"):
        models.save(model, tmp_path)


def test_a_place_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OnebitError, match="cannot be made"):
        models.save(built(), tmp_path / "file" / "model")


def test_packed_layers_are_not_saved_as_nothing(tmp_path):
    pytest.importorskip("onebit.kernels.cpu")
    with pytest.raises(OptionError, match=r"q_proj is packed .*Save the model before"):
        models.save(pack_linears(built()), tmp_path)
    assert not list(tmp_path.iterdir())
