"""Exports: what comes back is what went in, others can run it, and what is wrong is one line."""

import hashlib
import json
import math
import re
import subprocess
import sys

import numpy as np
import pytest
import torch

from onebit import models, pack
from onebit.architecture import Architecture
from onebit.data import Tokenizer
from onebit.errors import FileError, InputError, MissingError, NotTernaryError, OnebitError
from onebit.io import open_checkpoint
from onebit.models import export_weights
from onebit.nn import bit_linears
from onebit.scheme import FP, SCHEMES, LinearScheme, Scheme

# what importing transformers' compiled quantizers says of torch itself
pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.script_method. is deprecated")

TEXT = "the cat sat on the mat and the dog sat on the log. a fox ran to the box by the sea. "
B158 = SCHEMES["bitnet-b1.58"]
EXACT = ["t1_6.gguf", "t2.gguf", "i2_s.gguf", "f32.gguf", "t1_6", "t2", "hf_2bit", "f32"]
ROUNDED = ["tq1_0.gguf", "tq2_0.gguf", "q8_0.gguf", "f16.gguf", "f16"]  # the scale, to float16


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.train([TEXT], 290)


def tiny(tokenizer, scheme=B158, **changes):
    shape = {
        "vocab_size": tokenizer.vocab_size,
        "hidden_size": 256,
        "intermediate_size": 512,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 64,
        "max_position_embeddings": 256,
    }
    return models.build(Architecture(**(shape | changes)), scheme, seed=1)


def saved(model, folder, tokenizer):
    models.save(model, folder, tokenizer)
    return folder


@pytest.fixture(scope="module")
def trained(tokenizer, tmp_path_factory):
    """A ternary llama that knows TEXT, so that its likeliest token is clearly the likeliest."""
    model = tiny(tokenizer)
    ids = torch.tensor(tokenizer.encode(TEXT))
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(60):
        logits = model(ids[None, :-1])[0]
        loss = torch.nn.functional.cross_entropy(logits, ids[1:])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.2
    return saved(model, tmp_path_factory.mktemp("trained") / "model", tokenizer)


def logits_of(path, tokenizer):
    with torch.no_grad():
        return models.load(path)(torch.tensor([tokenizer.encode(TEXT)]))[0]


def format_of(name):
    return name.partition(".")[0]


@pytest.mark.parametrize("name", EXACT)
def test_the_same_logits_to_the_bit(trained, tokenizer, tmp_path, name):
    report = models.export(trained, tmp_path / name, format_of(name), embed="f32")
    assert report.format == format_of(name)
    assert torch.equal(logits_of(tmp_path / name, tokenizer), logits_of(trained, tokenizer))


@pytest.mark.parametrize("name", EXACT + ROUNDED)
def test_codes_are_kept_and_scales_to_float16(trained, tmp_path, name):
    models.export(trained, tmp_path / name, format_of(name))
    ours = dict(bit_linears(models.load(tmp_path / name)))
    assert ours
    for module, layer in bit_linears(models.load(trained)):
        wanted, found = layer.codes(), ours[module].codes()
        assert torch.equal(found.codes_NK, wanted.codes_NK)
        scale = wanted.scale_NG.half().float() if name in ROUNDED else wanted.scale_NG
        assert torch.equal(found.scale_NG.expand_as(scale), scale)


@pytest.mark.parametrize("name", ["t1_6.gguf", "tq2_0.gguf", "hf_2bit"])
def test_exporting_twice_gives_the_same_bytes(trained, tmp_path, name):
    def digest(path):
        files = sorted(path.iterdir()) if path.is_dir() else [path]
        return [hashlib.sha256(file.read_bytes()).hexdigest() for file in files]

    first, second = tmp_path / "a" / name, tmp_path / "b" / name
    models.export(trained, first, format_of(name))
    models.export(trained, second, format_of(name))
    assert digest(first) == digest(second)


def test_the_report_adds_up(trained, tokenizer, tmp_path):
    report = models.export(trained, tmp_path / "m.gguf", "t1_6")
    body = 2 * (2 * 256 * 256 + 2 * 128 * 256 + 3 * 256 * 512)  # two layers
    rows = 2 * ((256 + 128 + 128 + 256 + 512 + 512) * 52 + 256 * 103)  # of 5 trits a byte
    assert report.body_weights == body
    assert report.part_bytes["body"] == rows + 4 * 14  # and a scale for each of 14 matrices
    assert report.body_bits_per_weight == pytest.approx(8 * (rows + 56) / body)
    assert report.embed == "q8_0"
    assert report.part_bytes["embed"] == tokenizer.vocab_size * 8 * 34
    assert report.part_bytes["head"] == 0
    assert report.part_bytes["other"] == 5 * 256 * 4
    assert report.size_bytes == (tmp_path / "m.gguf").stat().st_size


# Other people's engines


@pytest.mark.parametrize("format", ["tq1_0", "tq2_0"])
def test_llama_cpp_writes_the_same_text(trained, tokenizer, tmp_path, format):
    """llama.cpp rounds activations in blocks of 256 where we round them per token, so the texts are
    held together while our two likeliest tokens are clearly apart."""
    xllamacpp = pytest.importorskip("xllamacpp")
    path = tmp_path / "m.gguf"
    models.export(trained, path, format)
    parameters = xllamacpp.CommonParams()
    parameters.model.path = str(path)
    parameters.n_ctx, parameters.n_parallel, parameters.warmup = 128, 1, False
    parameters.cpuparams.n_threads = parameters.cpuparams_batch.n_threads = 1
    parameters.fit_params, parameters.verbosity = False, 0
    server = xllamacpp.Server(parameters)
    model = models.load(trained)
    for prompt in ("the cat", "the cat sat on the mat", TEXT[:32]):
        ours = clear_continuation(model, tokenizer, prompt, count=24)
        assert len(ours) > 12
        request = {"prompt": prompt, "n_predict": 24, "temperature": 0, "n_probs": 1}
        choice = server.handle_completions(request)["choices"][0]
        theirs = [token["id"] for token in choice["logprobs"]["content"]]
        assert theirs[: len(ours)] == ours


@torch.no_grad()
def clear_continuation(model, tokenizer, prompt, count, margin=0.5):
    """Return our likeliest tokens, up to the first that leads by less than `margin`."""
    ids = tokenizer.encode(prompt)
    start = len(ids)
    while len(ids) < start + count:
        best = model(torch.tensor([ids]))[0, -1].topk(2)
        if best.values[0] - best.values[1] < margin:
            break
        ids.append(int(best.indices[0]))
    return ids[start:]


@pytest.mark.parametrize(
    ("family", "changes"),
    [
        ("Llama", {"tie_word_embeddings": False}),
        ("BitNet", {"model_type": "bitnet", "hidden_act": "relu2", "sub_norms": True}),
    ],
)
def test_transformers_reads_hf_2bit(tokenizer, tmp_path, monkeypatch, family, changes):
    transformers = pytest.importorskip("transformers")
    from transformers.quantizers import quantizer_bitnet

    # asked for before BitNet is loaded, and not needed on one CPU
    monkeypatch.setattr(quantizer_bitnet, "is_accelerate_available", lambda: True)
    model = saved(tiny(tokenizer, **changes), tmp_path / "m", tokenizer)
    models.export(model, tmp_path / "hf", "hf_2bit", embed="f32")
    theirs = getattr(transformers, f"{family}ForCausalLM").from_pretrained(tmp_path / "hf")
    assert theirs.model.layers[0].mlp.down_proj.weight_scale.item() < 1  # it multiplies
    ids = torch.tensor([tokenizer.encode(TEXT)])
    with torch.compiler.set_stance("force_eager"), torch.no_grad():
        logits = theirs(ids).logits[0]
    torch.testing.assert_close(logits, logits_of(model, tokenizer), atol=1e-4, rtol=0)


# From one form to another


@pytest.mark.parametrize("through", ["tq2_0.gguf", "i2_s.gguf", "hf_2bit", "f32"])
def test_packing_again_changes_nothing(trained, tokenizer, tmp_path, through):
    """What is packed is only packed anew: an exported model exports like its masters."""
    models.export(trained, tmp_path / through, format_of(through), embed="f32")
    models.export(tmp_path / through, tmp_path / "again.gguf", "t1_6", embed="f32")
    wanted = logits_of(tmp_path / through, tokenizer)
    assert torch.equal(logits_of(tmp_path / "again.gguf", tokenizer), wanted)


@pytest.mark.parametrize("name", ["m.gguf", "m"])
@pytest.mark.parametrize(
    "changes",
    [
        {"model_type": "qwen2", "qkv_bias": True},
        {"model_type": "qwen3", "qk_norm": True, "head_dim": 32},
        {"qkv_bias": True, "out_bias": True, "mlp_bias": True},
        {"model_type": "bitnet", "hidden_act": "relu2", "sub_norms": True},
        {
            "model_type": "gemma3_text",
            "hidden_act": "gelu_pytorch_tanh",
            "qk_norm": True,
            "post_norms": True,
            "sliding_window": 5,
            "global_every": 6,
        },
        {
            "rope_scaling": {
                "rope_type": "llama3",
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 8192,
            }
        },
    ],
    ids=["qwen2", "qwen3", "biases", "bitnet", "gemma3", "llama3 rope"],
)
def test_every_family_comes_back(tokenizer, tmp_path, changes, name):
    """With a scale per row, which has to follow the rows of q and k where GGUF permutes them."""
    rows = LinearScheme("ternary", weight_scale="row", activation="int8_absmax", norm="rms")
    model = tiny(tokenizer, Scheme("rows", {"body": rows}), **changes)
    for parameter in model.parameters():
        if parameter.ndim == 1:
            torch.nn.init.uniform_(parameter, 0.5, 1.5)
    source = saved(model, tmp_path / "source", tokenizer)
    models.export(source, tmp_path / name, "t2", embed="f32")
    assert torch.equal(logits_of(tmp_path / name, tokenizer), logits_of(source, tokenizer))


@pytest.mark.parametrize("name", ["t1_6.gguf", "tq2_0.gguf", "hf_2bit", "t2"])
def test_layers_that_the_scheme_leaves_float_stay_float(tokenizer, tmp_path, name):
    mixed = Scheme("mixed", {"model.layers.0.*": FP, **B158.layers})
    source = saved(tiny(tokenizer, mixed), tmp_path / "source", tokenizer)
    models.export(source, tmp_path / name, format_of(name), embed="f32")
    formats = [
        open_checkpoint(tmp_path / name).tensor(f"model.layers.{i}.mlp.up_proj.weight").format
        for i in range(2)
    ]
    assert formats == ["f32", format_of(name)]
    difference = logits_of(tmp_path / name, tokenizer) - logits_of(source, tokenizer)
    assert difference.abs().max() < (0.05 if name == "tq2_0.gguf" else 1e-9)


def test_bitnet_has_the_architecture_name_of_the_official_file(tokenizer, tmp_path):
    changes = {"model_type": "bitnet", "hidden_act": "relu2", "sub_norms": True}
    source = saved(tiny(tokenizer, **changes), tmp_path / "source", tokenizer)
    models.export(source, tmp_path / "m.gguf", "i2_s")
    metadata = open_checkpoint(tmp_path / "m.gguf").metadata
    assert metadata["general.architecture"] == "bitnet-b1.58"
    assert json.loads(metadata["onebit.scheme"]) == B158.to_dict()


@pytest.mark.parametrize("format", ["q8_0", "f16", "bf16", "f32"])
def test_a_float_model(tokenizer, tmp_path, format):
    source = saved(tiny(tokenizer, SCHEMES["fp"]), tmp_path / "source", tokenizer)
    models.export(source, tmp_path / "m.gguf", format, embed="f32")
    error = logits_of(tmp_path / "m.gguf", tokenizer) - logits_of(source, tokenizer)
    bound = {"q8_0": 0.01, "f16": 1e-3, "bf16": 0.01, "f32": 0.0}[format]
    assert error.norm() <= bound * logits_of(source, tokenizer).norm()


def test_weights_that_are_ternary_without_a_scheme_keep_their_scale(trained, tmp_path):
    """The float copy of a ternary model that others made: on its grid, and nothing says so."""
    models.export(trained, tmp_path / "float", "f32")
    config = json.loads((tmp_path / "float" / "config.json").read_text())
    del config["onebit_scheme"]
    (tmp_path / "float" / "config.json").write_text(json.dumps(config))
    models.export(tmp_path / "float", tmp_path / "m.gguf", "t1_6")
    name = "model.layers.1.mlp.up_proj.weight"
    packed = open_checkpoint(tmp_path / "m.gguf").tensor(name)
    masters = export_weights.linear(open_checkpoint(trained).tensor(name), B158.layers["body"])
    assert packed.scale[0] == masters.scale_NG[0, 0]
    assert open_checkpoint(tmp_path / "m.gguf").config["onebit_scheme"]["name"] == "ternary-weights"


def test_q8_0_embedding_is_kept_when_it_is_q8_0_already(trained, tmp_path):
    models.export(trained, tmp_path / "a.gguf", "t2", embed="q8_0")
    models.export(tmp_path / "a.gguf", tmp_path / "b.gguf", "t1_6", embed="q8_0")
    a, b = (
        open_checkpoint(tmp_path / f"{x}.gguf").tensor("model.embed_tokens.weight") for x in "ab"
    )
    assert a.format == b.format == "q8_0"
    np.testing.assert_array_equal(a.data, b.data)


def test_a_q8_0_embedding_has_ggmls_bytes(trained, tmp_path):
    libgguf = pytest.importorskip("libgguf")
    name = "model.embed_tokens.weight"
    masters = open_checkpoint(trained).tensor(name)
    w = pack.decode(masters.format, masters.data, masters.shape)
    models.export(trained, tmp_path / "m.gguf", "t2", embed="q8_0")
    theirs = libgguf.quantize_rows(w, libgguf.GGMLQuantizationType.Q8_0)
    stored = open_checkpoint(tmp_path / "m.gguf").tensor(name)
    np.testing.assert_array_equal(stored.data, np.asarray(theirs).view(np.uint8).reshape(-1))


def test_a_row_of_almost_nothing_in_q8_0_is_zero(tokenizer, tmp_path):
    model = tiny(tokenizer)
    with torch.no_grad():
        model.model.embed_tokens.weight[7] = 1e-9
    models.export(saved(model, tmp_path / "s", tokenizer), tmp_path / "m.gguf", "t2", embed="q8_0")
    stored = open_checkpoint(tmp_path / "m.gguf").tensor("model.embed_tokens.weight")
    w = pack.decode(stored.format, stored.data, stored.shape)
    assert (w[7] == 0).all()
    assert (w[8] != 0).any()


def test_the_vocabulary_is_filled_up_to_the_embedding(tokenizer, tmp_path):
    source = saved(tiny(tokenizer, vocab_size=320), tmp_path / "source", tokenizer)
    models.export(source, tmp_path / "m.gguf", "t1_6")
    checkpoint = open_checkpoint(tmp_path / "m.gguf")
    assert len(checkpoint.metadata["tokenizer.ggml.tokens"]) == 320
    loaded = Tokenizer.load(checkpoint.tokenizer.source)
    assert loaded.encode(TEXT) == tokenizer.encode(TEXT)


# What is refused


def refused(kind, match, *args, **options):
    with pytest.raises(kind, match=match) as caught:
        models.export(*args, **options)
    assert isinstance(caught.value, OnebitError)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["tq2_0.gguf", "i2_s.gguf", "t1_6.gguf", "t2"])
def test_weights_that_are_not_ternary_are_refused(tokenizer, tmp_path, name):
    source = saved(tiny(tokenizer, SCHEMES["fp"]), tmp_path / "source", tokenizer)
    match = r"model\.layers\.0\.\S+: [\d,]+ distinct values, and \S+ holds -1, 0 and \+1"
    refused(NotTernaryError, match, source, tmp_path / name, format_of(name))
    assert not (tmp_path / name).exists()
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


@pytest.mark.parametrize(
    ("format", "blocks", "fits"),
    [
        ("tq1_0", 256, "t1_6, t2, i2, i3, i4, i5, i6, i7, i8, i2_s, q8_0, q5_1"),
        ("i2_s", 128, "t1_6, t2, i2, i3, i4, i5, i6, i7, i8, q8_0, q5_1"),
    ],
)
def test_widths_that_fit_no_block_are_named(tokenizer, tmp_path, format, blocks, fits):
    model = tiny(tokenizer, intermediate_size=384 if blocks == 256 else 448)
    source = saved(model, tmp_path / "source", tokenizer)
    match = rf"layers\.0\.mlp\.down_proj.*do not fill {format}'s blocks of {blocks}.*: {fits}"
    refused(InputError, match, source, tmp_path / "m.gguf", format)


def test_scales_by_row_do_not_fit_one_scale(tokenizer, tmp_path):
    rows = Scheme("rows", {"body": LinearScheme("ternary", weight_scale="row")})
    source = saved(tiny(tokenizer, rows), tmp_path / "source", tokenizer)
    refused(InputError, "one scale per row", source, tmp_path / "m.gguf", "i2_s")


def test_hf_2bit_would_round_the_activations_of_a_plain_ternary_model(tokenizer, tmp_path):
    model = tiny(tokenizer, SCHEMES["ternary-weights"])
    source = saved(model, tmp_path / "source", tokenizer)
    refused(OnebitError, "round their input to int8", source, tmp_path / "hf", "hf_2bit")


def test_a_grid_that_is_not_the_scheme_s_is_not_rounded_again(tokenizer, tmp_path):
    rows = Scheme("rows", {"body": LinearScheme("ternary", weight_scale="row")})
    models.export(
        saved(tiny(tokenizer, rows), tmp_path / "source", tokenizer), tmp_path / "f", "f32"
    )
    config = json.loads((tmp_path / "f" / "config.json").read_text())
    config["onebit_scheme"] = B158.to_dict()
    (tmp_path / "f" / "config.json").write_text(json.dumps(config))
    refused(InputError, "already on a ternary grid", tmp_path / "f", tmp_path / "m.gguf", "t1_6")


def test_a_gguf_file_needs_a_tokenizer(tokenizer, tmp_path):
    models.save(tiny(tokenizer), tmp_path / "source")
    refused(MissingError, "no tokenizer", tmp_path / "source", tmp_path / "m.gguf", "t1_6")
    assert models.export(tmp_path / "source", tmp_path / "m", "t1_6").container == "safetensors"


def test_another_model_s_tokenizer_is_refused(tokenizer, tmp_path):
    source = saved(tiny(tokenizer, vocab_size=260), tmp_path / "source", tokenizer)
    refused(OnebitError, "another model's", source, tmp_path / "m.gguf", "t1_6")


@pytest.mark.parametrize(("embed", "value"), [("f16", 1e6), ("q8_0", 1e7), ("q8_0", math.nan)])
def test_a_float_beyond_the_format_is_refused(tokenizer, tmp_path, embed, value):
    model = tiny(tokenizer)
    with torch.no_grad():
        model.model.embed_tokens.weight[3, 5] = value
    source = saved(model, tmp_path / "source", tokenizer)
    what = "a number that is not finite" if math.isnan(value) else f"{value:g}, and {embed}"
    match = re.escape(f"embed_tokens.weight: holds {what}")
    refused(InputError, match, source, tmp_path / "m.gguf", "t2", embed=embed)


@pytest.mark.parametrize(
    ("out", "options", "match"),
    [
        ("m.gguf", {"format": "hf_2bit"}, "a gguf file takes t1_6, t2, b1"),
        ("m", {"format": "tq2_0"}, "a safetensors file takes t1_6, t2, b1"),
        ("m.gguf", {"format": "q8_k"}, "format is 'q8_k'"),
        ("m.gguf", {"format": "q4_k"}, "ternary, and q4_k would only make it larger"),
        ("m", {"embed": "q6_k"}, "embed is 'q6_k'"),
        ("m.safetensors", {}, "name a new folder"),
        ("..", {}, "name a new folder"),
    ],
)
def test_unknown_formats_are_refused(trained, tmp_path, out, options, match):
    refused(InputError, match, trained, tmp_path / out, **options)


def test_nothing_is_overwritten_unless_forced(trained, tmp_path):
    for name in ("m.gguf", "m"):
        models.export(trained, tmp_path / name, "t2")
        refused(InputError, "exists.*--force", trained, tmp_path / name, "t1_6")
        models.export(trained, tmp_path / name, "t1_6", force=True)
        stored = open_checkpoint(tmp_path / name).tensor("model.layers.0.mlp.up_proj.weight")
        assert stored.format == "t1_6"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m", "m.gguf"]


def test_a_source_that_is_not_the_model_of_its_config_is_refused(tokenizer, tmp_path):
    source = saved(tiny(tokenizer), tmp_path / "source", tokenizer)
    config = json.loads((source / "config.json").read_text())
    for changes, kind, match in (
        ({"num_hidden_layers": 3}, MissingError, r"layers\.2\.\S+ is not there"),
        ({"num_hidden_layers": 1}, OnebitError, r"layers\.1\.\S+ has no place"),
        ({"intermediate_size": 256}, FileError, r"has shape \[512, 256\].* asks for \[256, 256\]"),
    ):
        (source / "config.json").write_text(json.dumps(config | changes))
        refused(kind, match, source, tmp_path / "m.gguf", "t1_6")
    assert not (tmp_path / "m.gguf").exists()


def test_the_source_and_other_people_s_folders_are_never_replaced(trained, tmp_path):
    refused(InputError, "is the model that is exported", trained, trained, "t2", force=True)
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "to_ada.odt").write_text("Dear Ada")
    refused(InputError, "more than a model", trained, tmp_path / "letters", "t2", force=True)
    assert (tmp_path / "letters" / "to_ada.odt").exists()


def test_the_file_that_a_folder_stands_for_is_not_replaced(trained, tmp_path):
    models.export(trained, tmp_path / "only.gguf", "t1_6")
    before = (tmp_path / "only.gguf").read_bytes()
    again = (tmp_path, tmp_path / "only.gguf", "f16")
    refused(InputError, "is the model that is exported", *again, force=True)
    assert (tmp_path / "only.gguf").read_bytes() == before


def test_a_name_that_the_system_refuses_is_one_line(trained, tmp_path):
    refused(FileError, "cannot be written", trained, tmp_path / ("x" * 300 + ".gguf"), "t1_6")


@pytest.mark.parametrize("name", ["m.gguf", "m"])
def test_a_full_disk_leaves_the_old_file(trained, tokenizer, tmp_path, monkeypatch, name):
    models.export(trained, tmp_path / name, "t2", embed="f32")
    encode, written = export_weights.encode, []

    def fails_later(*args):
        written.append(args[0])
        if len(written) > 5:
            raise FileError(f"{name}: cannot be written (No space left on device).")
        return encode(*args)

    monkeypatch.setattr(export_weights, "encode", fails_later)
    with pytest.raises(FileError, match="No space left"):
        models.export(trained, tmp_path / name, "t1_6", force=True)
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert torch.equal(logits_of(tmp_path / name, tokenizer), logits_of(trained, tokenizer))


KILLED = """
import os, sys
from onebit import models
from onebit.models import export_weights
encode, seen = export_weights.encode, []
def dies(*args):
    seen.append(args[0])
    if len(seen) > 5:
        os._exit(9)
    return encode(*args)
export_weights.encode = dies
models.export(sys.argv[1], sys.argv[2], "t1_6", force=True)
"""


def test_a_kill_leaves_the_old_file(trained, tokenizer, tmp_path):
    path = tmp_path / "m.gguf"
    models.export(trained, path, "t2", embed="f32")
    arguments = [sys.executable, "-c", KILLED, str(trained), str(path)]
    assert subprocess.run(arguments, check=False).returncode == 9
    assert torch.equal(logits_of(path, tokenizer), logits_of(trained, tokenizer))


def test_gguf_s_own_library_reads_the_file(trained, tmp_path):
    gguf = pytest.importorskip("gguf")
    models.export(trained, tmp_path / "m.gguf", "tq1_0")
    reader = gguf.GGUFReader(tmp_path / "m.gguf")
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    ours = open_checkpoint(tmp_path / "m.gguf").tensor("model.layers.0.mlp.down_proj.weight")
    theirs = tensors["blk.0.ffn_down.weight"]
    values = gguf.quants.dequantize(theirs.data, theirs.tensor_type)
    np.testing.assert_array_equal(values, pack.decode(ours.format, ours.data, ours.shape))
    assert re.fullmatch(r"blk\.\d\.attn_q\.weight", next(n for n in tensors if "attn_q" in n))
