"""A MatMul-free checkpoint in the published layout, written without the code that reads it."""

import json

import ml_dtypes
import numpy as np
import pytest

LAYERS, HIDDEN, INNER, VOCAB = 3, 64, 256, 300
PUBLISHED = {
    "architectures": ["HGRNBitForCausalLM"],
    "attn_mode": "fused_recurrent",
    "bos_token_id": 0,  # its tokenizer is another: published are 1 and 2
    "conv_size": 4,
    "eos_token_id": 0,
    "expand_ratio": 1,
    "fuse_cross_entropy": True,
    "hidden_act": "swish",
    "hidden_ratio": 4,
    "hidden_size": HIDDEN,
    "initializer_range": 0.02,
    "intermediate_size": None,  # 256 * ceil(int(64 * 4 * 2 / 3) / 256)
    "max_position_embeddings": 2048,
    "model_type": "hgrn_bit",
    "num_heads": 1,
    "num_hidden_layers": LAYERS,
    "rms_norm_eps": 1e-06,
    "share_conv_kernel": True,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "use_cache": True,
    "use_lower_bound": True,
    "use_short_conv": False,
    "vocab_size": VOCAB,
}


def _shapes():
    d = HIDDEN
    yield "model.embeddings.weight", (VOCAB, d)
    yield "model.lower_bounds", (LAYERS, d)
    for layer in range(LAYERS):
        block = f"model.layers.{layer}"
        yield f"{block}.attn_norm.weight", (d,)
        for name in "ifgo":
            yield f"{block}.attn.{name}_proj.weight", (d, d)
            yield f"{block}.attn.{name}_proj.norm.weight", (d,)
        yield f"{block}.attn.g_norm.weight", (d,)
        yield f"{block}.mlp_norm.weight", (d,)
        yield f"{block}.mlp.gate_proj.weight", (2 * INNER, d)
        yield f"{block}.mlp.gate_proj.norm.weight", (d,)
        yield f"{block}.mlp.down_proj.weight", (d, INNER)
        yield f"{block}.mlp.down_proj.norm.weight", (INNER,)
    yield "model.norm.weight", (d,)
    yield "lm_head.weight", (VOCAB, d)
    yield "lm_head.norm.weight", (d,)


def _write_safetensors(path, tensors):
    """Write name -> array of float32 or bfloat16: a length, a table in JSON, the bytes."""
    table, end = {"__metadata__": {"format": "pt"}}, 0
    for name, array in tensors.items():
        kind = "BF16" if array.dtype == ml_dtypes.bfloat16 else "F32"
        place = [end, end := end + array.nbytes]
        table[name] = {"dtype": kind, "shape": list(array.shape), "data_offsets": place}
    head = json.dumps(table).encode()
    head += b" " * (-len(head) % 8)
    data = b"".join(array.tobytes() for array in tensors.values())
    path.write_bytes(len(head).to_bytes(8, "little") + head + data)


@pytest.fixture(scope="session")
def published_weights():
    """name -> bfloat16, all of which matter: norms are not 1, bounds not even."""
    random = np.random.default_rng(11)
    found = {}
    for name, shape in _shapes():
        values = random.standard_normal(shape)
        if len(shape) == 1:
            values = 1 + values / 8
        elif name != "model.lower_bounds":
            values *= 0.7 if "embeddings" in name else 0.1
        found[name] = values.astype(np.float32).astype(ml_dtypes.bfloat16)
    return found


@pytest.fixture(scope="session")
def write_published():
    """A function that writes a folder: weights, a tokenizer, and config.json as published."""
    from onebit.data import Tokenizer

    tokenizer = Tokenizer.train(["It was the best of times, it was the worst of times. "], VOCAB)

    def write(folder, weights):
        folder.mkdir()
        tokenizer.save(folder)
        _write_safetensors(folder / "model.safetensors", weights)
        (folder / "config.json").write_text(json.dumps(PUBLISHED))

    return write


@pytest.fixture(scope="session")
def published(tmp_path_factory, published_weights, write_published):
    folder = tmp_path_factory.mktemp("published") / "MMfreeLM"
    write_published(folder, published_weights)
    return folder
