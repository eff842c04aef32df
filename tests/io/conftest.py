"""Small checkpoints to open, bend and break."""

import json

import numpy as np
import pytest

from onebit.io import gguf, gguf_names, packed, rope_rows, safetensors

N_HEADS, N_KV_HEADS, HEAD, HIDDEN, INNER, VOCAB = 4, 2, 64, 256, 512, 96

CONFIG = {
    "model_type": "llama",
    "vocab_size": VOCAB,
    "hidden_size": HIDDEN,
    "intermediate_size": INNER,
    "num_hidden_layers": 1,
    "num_attention_heads": N_HEADS,
    "num_key_value_heads": N_KV_HEADS,
    "head_dim": HEAD,
    "rms_norm_eps": 1e-5,
}
SHAPES = {
    "model.embed_tokens.weight": (VOCAB, HIDDEN),
    "model.norm.weight": (HIDDEN,),
    "model.layers.0.input_layernorm.weight": (HIDDEN,),
    "model.layers.0.post_attention_layernorm.weight": (HIDDEN,),
    "model.layers.0.self_attn.q_proj.weight": (HIDDEN, HIDDEN),
    "model.layers.0.self_attn.q_proj.bias": (HIDDEN,),
    "model.layers.0.self_attn.k_proj.weight": (N_KV_HEADS * HEAD, HIDDEN),
    "model.layers.0.self_attn.v_proj.weight": (N_KV_HEADS * HEAD, HIDDEN),
    "model.layers.0.self_attn.o_proj.weight": (HIDDEN, HIDDEN),
    "model.layers.0.mlp.gate_proj.weight": (INNER, HIDDEN),
    "model.layers.0.mlp.up_proj.weight": (INNER, HIDDEN),
    "model.layers.0.mlp.down_proj.weight": (HIDDEN, INNER),
}
# block and bytes of the types that the small models use, written down apart from the code
BYTES = {
    "f32": (1, 4),
    "f16": (1, 2),
    "q8_0": (32, 34),
    "tq1_0": (256, 54),
    "tq2_0": (256, 66),
    "iq4_nl": (32, 18),
    "nvfp4": (64, 36),
}


@pytest.fixture(scope="session")
def small():
    """The config and the shapes of the small model."""
    return CONFIG, SHAPES


def stored_bytes(form, shape, rng):
    """Random bytes of a tensor, and for i2_s its tail."""
    count = int(np.prod(shape))
    if form == "i2_s":
        return rng.integers(0, 256, count // 4 + 32, dtype=np.uint8)
    block, size = BYTES[form]
    if form == "f32":
        return rng.normal(size=count).astype(np.float32).view(np.uint8)
    return rng.integers(0, 256, count // block * size, dtype=np.uint8)


@pytest.fixture
def write_gguf():
    """A function that writes the small model as GGUF and returns what tensors must come back.

    linear: the type of the linear layers, or "packed" for a format of onebit's own. Rows of q and
    k are written in llama.cpp's order; what is returned is in Hugging Face's.
    """

    def write(path, linear="q8_0", arch="llama", metadata=None, skip=(), also=None):
        rng = np.random.default_rng(0)
        wanted, declared, contents, entries = {}, [], {}, {}
        for name, shape in SHAPES.items():
            if name in skip:
                continue
            own = gguf_names.to_gguf(name)
            form = linear if "_proj.weight" in name else "f32"
            heads = {"q_proj": N_HEADS, "k_proj": N_KV_HEADS}.get(name.split(".")[-2], 0)
            heads = heads if arch == "llama" else 0
            order = rope_rows.permute(np.arange(shape[0]), heads) if heads else slice(None)
            if form == "packed":
                codes = rng.integers(0, 256, (shape[0], 64), dtype=np.uint8)
                scale = rng.random(shape[0], dtype=np.float32)
                entries[own] = packed.Packed("t2", shape)
                add = {own: ("i8", codes), packed.scale_name(own): ("f32", scale)}
                wanted[name] = ("t2", codes.reshape(-1), scale)
            else:
                raw = stored_bytes(form, shape, rng)
                tail = 32 if form == "i2_s" else 0
                rows = raw[: raw.size - tail].reshape(shape[0], -1)
                if tail:
                    raw_rows = np.concatenate([rows[order].reshape(-1), raw[rows.size :]])
                    declared.append(gguf.Declared(own, form, shape))
                    contents[own], add = raw_rows, {}
                else:
                    declared.append(gguf.Declared(own, form, shape))
                    contents[own], add = rows[order].reshape(-1), {}
                wanted[name] = (form, raw, None)
            for key, (kind, array) in add.items():
                declared.append(gguf.Declared(key, kind, array.shape))
                contents[key] = array[order]
        keys = _metadata(arch) | ({packed.TENSORS_KEY: packed.to_json(entries)} if entries else {})
        for name, array in (also or {}).items():
            declared.append(gguf.Declared(name, "f32", array.shape))
            contents[name] = array
        with gguf.Writer(path, keys | (metadata or {}), declared) as writer:
            for own, raw in contents.items():
                writer.write(own, raw)
        return wanted

    return write


def _metadata(arch):
    return {
        "general.architecture": arch,
        f"{arch}.embedding_length": HIDDEN,
        f"{arch}.feed_forward_length": INNER,
        f"{arch}.block_count": 1,
        f"{arch}.attention.head_count": N_HEADS,
        f"{arch}.attention.head_count_kv": N_KV_HEADS,
        f"{arch}.attention.layer_norm_rms_epsilon": 1e-5,
        f"{arch}.context_length": 64,
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.tokens": [f"t{i}" for i in range(VOCAB)],
        "tokenizer.ggml.token_type": [1] * VOCAB,
        "tokenizer.ggml.scores": [-float(i) for i in range(VOCAB)],
        "tokenizer.ggml.eos_token_id": 3,
    }


@pytest.fixture
def write_folder():
    """A function that writes arrays, name -> (dtype, array), as a Hugging Face folder."""

    def write(folder, arrays, config=None, metadata=None):
        folder.mkdir(exist_ok=True)
        (folder / "config.json").write_text(json.dumps(CONFIG | (config or {})))
        declared = [safetensors.Declared(n, d, a.shape) for n, (d, a) in arrays.items()]
        with safetensors.Writer(folder / "model.safetensors", declared, metadata) as writer:
            for name, (_, array) in arrays.items():
                writer.write(name, array)
        return folder

    return write
