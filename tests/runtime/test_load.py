"""From a checkpoint to the decoder: which tensors, which bytes, and what is refused."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from onebit import LLM, SCHEMES, tensors
from onebit.errors import MissingError, OnebitError, ShapeError, UnsupportedError
from onebit.runtime import load
from onebit.scheme import LinearScheme

FAMILIES = [
    {"model_type": "llama"},
    {"model_type": "llama", "qkv_bias": True, "out_bias": True, "mlp_bias": True},
    {"model_type": "qwen2", "qkv_bias": True, "tie_word_embeddings": False},
    {"model_type": "qwen3", "qk_norm": True, "head_dim": 24},
    {"model_type": "bitnet", "sub_norms": True, "hidden_act": "relu2"},
    {"model_type": "gemma3_text", "qk_norm": True, "post_norms": True, "sliding_window": 8},
]


@pytest.mark.parametrize("changes", FAMILIES, ids=lambda c: f"{c['model_type']}{len(c)}")
def test_the_tensors_asked_for_are_those_of_the_torch_model(architecture, changes):
    from onebit import models

    a = architecture(**changes)
    expected = models.build(a, SCHEMES["fp"], seed=0).state_dict()
    asked = tensors.shapes(a, SCHEMES["fp"])
    assert asked == {name: tuple(tensor.shape) for name, tensor in expected.items()}


@pytest.fixture
def ternary(tmp_path, architecture):
    """The folder of a ternary model's float masters."""
    from onebit import models

    models.save(models.build(architecture(), SCHEMES["bitnet-b1.58"], seed=1), tmp_path / "masters")
    return tmp_path / "masters"


def test_float_masters_are_refused_with_the_way_out(ternary):
    with pytest.raises(UnsupportedError) as caught:
        LLM(ternary)
    assert f"{ternary} holds float masters of scheme bitnet-b1.58" in str(caught.value)
    assert f"run `onebit export {ternary} -o model.gguf` first" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_floats_that_are_already_ternary_keep_codes_and_scale(ternary, architecture, tmp_path):
    """Masters put on their grid by hand run like the packed export of the same masters."""
    import torch

    from onebit import models, quant

    model = models.load(ternary)
    for name, parameter in model.named_parameters():
        how = model.scheme.linear(name.removesuffix(".weight"))
        if parameter.ndim == 2 and how.weight == "ternary":
            with torch.no_grad():
                parameter.copy_(quant.dequantize(quant.quantize_weight(parameter, how)))
    models.save(model, tmp_path / "on_grid")
    models.export(ternary, tmp_path / "packed", "t1_6", embed="f32")
    tokens = [1, 2, 3, 250, 7]
    with LLM(tmp_path / "on_grid") as grid, LLM(tmp_path / "packed") as packed:
        np.testing.assert_array_equal(grid.logits(tokens), packed.logits(tokens))
        assert grid.size_bytes == packed.size_bytes  # two bits a weight in memory, both


@pytest.mark.parametrize("kind", ["tensor", "row", "group:4"])
def test_the_grid_of_each_share_is_found_exactly(kind):
    rng = np.random.default_rng(0)
    codes = rng.integers(-1, 2, (6, 8)).astype(np.int8)
    shape = {"tensor": (1, 1), "row": (6, 1), "group:4": (6, 2)}[kind]
    scale = np.broadcast_to(rng.uniform(0.1, 1, shape), (6, shape[1])).astype(np.float32)
    codes[:, [0, 4]] = 1  # every share has a weight that is not zero
    w = (codes.reshape(6, shape[1], -1) * scale[..., None]).reshape(6, 8)
    found = load.ternary_grid(w, LinearScheme("ternary", weight_scale=kind))
    np.testing.assert_array_equal(found.codes_NK, codes)
    np.testing.assert_array_equal(found.scale_NG, scale)
    w[2, 3] = np.nextafter(np.float32(0.05), np.float32(1))
    assert load.ternary_grid(w, LinearScheme("ternary", weight_scale=kind)) is None


def test_a_grid_of_one_scale_is_not_one_of_two():
    w = np.array([[1, -1], [2, 0]], np.float32)
    assert load.ternary_grid(w, LinearScheme("ternary")) is None
    assert load.ternary_grid(w, LinearScheme("ternary", weight_scale="row")) is not None


def test_values_that_are_not_finite_are_on_no_grid():
    w = np.array([[1, np.nan], [np.inf, 0]], np.float32)
    assert load.ternary_grid(w, LinearScheme("ternary")) is None


def edit_config(folder, tmp_path, **changes):
    (tmp_path / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes())
    config = json.loads((folder / "config.json").read_text()) | changes
    (tmp_path / "config.json").write_text(json.dumps(config))
    return tmp_path


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"intermediate_size": 128}, ShapeError, r"mlp.gate_proj.weight has shape \(96, 64\)"),
        ({"num_hidden_layers": 3}, MissingError, r"model\.layers\.2\."),
        ({"tie_word_embeddings": False}, MissingError, "lm_head"),
        ({"model_type": "gpt2"}, UnsupportedError, "model_type is 'gpt2'"),
        ({"vocab_size": -1}, OnebitError, "vocab_size is -1"),
    ],
)
def test_a_config_that_does_not_fit_is_one_line(tiny, tmp_path, changes, error, message):
    with pytest.raises(error, match=message) as caught:
        LLM(edit_config(tiny, tmp_path, **changes))
    assert "\n" not in str(caught.value)


def test_a_tensor_that_would_not_be_used_is_refused(tiny, tmp_path):
    """A variant with more parts than we know must not run without them."""
    edit_config(tiny, tmp_path)
    stored = load_file(tmp_path / "model.safetensors")
    spare = {"model.layers.0.self_attn.rotary_emb.inv_freq": np.ones(4, np.float32)}
    save_file(stored | spare, tmp_path / "model.safetensors")
    LLM(tmp_path).close()  # this one follows from the config
    spare["model.layers.1.self_attn.inner_attn_ln.weight"] = np.ones(64, np.float32)
    save_file(stored | spare, tmp_path / "model.safetensors")
    with pytest.raises(UnsupportedError, match=r"layers\.1\.self_attn\.inner_attn_ln.*no place"):
        LLM(tmp_path)


def test_sizes_are_those_of_the_matrices(tiny, tmp_path, architecture):
    with LLM(tiny) as llm:
        weights = sum(linear.N * linear.K for linear in tensors.linears(llm.architecture))
        assert 4 * weights <= llm.size_bytes <= 4 * weights * 1.2  # rows are padded to tiles
        assert llm.token_bytes == llm.size_bytes


def test_an_embedding_that_is_no_head_costs_a_row_a_token(tmp_path, architecture):
    from onebit import models

    a = architecture(tie_word_embeddings=False)
    models.save(models.build(a, SCHEMES["fp"], seed=0), tmp_path)
    with LLM(tmp_path) as llm:
        assert llm.size_bytes - llm.token_bytes == pytest.approx(4 * 299 * 64, rel=0.1)


@pytest.mark.parametrize("parts", [3, 4, 7])
def test_parts_that_the_kernels_do_not_take_are_one_line(ternary, tmp_path, parts):
    """Of 64 columns only two are whole multiples of 32."""
    from onebit import models
    from onebit.io import open_checkpoint
    from onebit.scheme import Scheme

    models.export(ternary, tmp_path / "packed")
    checkpoint = open_checkpoint(tmp_path / "packed")
    body = LinearScheme("ternary", activation="int8_absmax", split=f"in:{parts}")
    checkpoint.config["onebit_scheme"] = Scheme("s", {"body": body}).to_dict()
    with pytest.raises(ShapeError, match=f"64 columns in {parts} parts.*multiple of 32") as caught:
        load.load(checkpoint)
    assert "\n" not in str(caught.value)


def test_binary_weights_have_no_zero():
    w = np.array([[1, -1], [1, 0]], np.float32)
    assert load.ternary_grid(w, LinearScheme("binary")) is None
    assert load.ternary_grid(w, LinearScheme("ternary")) is not None


@pytest.mark.parametrize(
    ("split", "scales"), [("in:2", [[1, 2]] * 4), ("out:2", [[1], [1], [2], [2]])]
)
def test_the_grid_of_each_part_is_found(split, scales):
    scale = np.array(scales, np.float32)
    w = np.repeat(scale, 4 // scale.shape[1], axis=1) * np.array([1, -1, -1, 1], np.float32)
    found = load.ternary_grid(w, LinearScheme("binary", split=split))
    np.testing.assert_array_equal(found.scale_NG, scale)
    np.testing.assert_array_equal(found.values(), w)
    assert load.ternary_grid(w, LinearScheme("binary")) is None


def test_a_group_wider_than_the_matrix_is_no_grid():
    how = LinearScheme("ternary", weight_scale="group:999")
    assert load.ternary_grid(np.ones((4, 64), np.float32), how) is None


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 0.0])
def test_a_temperature_that_nothing_can_be_divided_by_is_refused(save_tiny, tmp_path, bad):
    folder = save_tiny("the cat sat on the mat. ", learned_temperature=True)
    tensors_there = load_file(folder / "model.safetensors")
    tensors_there["model.layers.0.self_attn.temperature"][1] = bad
    save_file(tensors_there, folder / "model.safetensors")
    with pytest.raises(OnebitError, match="nothing can be computed with"):
        LLM(folder)
