"""Damaged files, thousands of them: each opens and gives its tensors, or is refused in one line.

No other exception, and no memory beyond a bound that does not depend on what the file claims.
"""

import json
import struct
import tracemalloc

import numpy as np
import pytest
import safetensors as safetensors_library

from onebit.errors import OnebitError
from onebit.io import gguf, open_checkpoint, packed, safetensors

ROUNDS = 400
MAX_PEAK_BYTES = 16 << 20
HUGE = (0, 1, 0xFF, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**62, 2**63 - 1, 2**63, 2**64 - 1)

CONFIG = {
    "model_type": "llama",
    **{"vocab_size": 6, "hidden_size": 256, "intermediate_size": 32, "num_hidden_layers": 1},
    **{"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 4, "rms_norm_eps": 1e-5},
    "quantization_config": {"quant_method": "bitnet"},
}
GGUF_TENSORS = [
    *(("token_embd.weight", "q8_0", (6, 256)), ("output_norm.weight", "f32", (256,))),
    *(("blk.0.attn_q.weight", "tq2_0", (8, 256)), ("blk.0.attn_k.weight", "tq1_0", (4, 256))),
    *(("blk.0.attn_v.weight", "q4_k", (4, 256)), ("blk.0.attn_output.weight", "f16", (256, 8))),
    *(("blk.0.ffn_gate.weight", "i2_s", (32, 256)), ("blk.0.ffn_down.weight", "q4_0", (256, 32))),
    *(("blk.0.ffn_up.weight", "i8", (32, 64)), ("blk.0.ffn_up.weight_scale", "f32", (32,))),
    ("rope_freqs.weight", "f32", (2,)),
]
GGUF_METADATA = {
    "general.architecture": "llama",
    "general.alignment": 32,
    **{"llama.embedding_length": 256, "llama.feed_forward_length": 32, "llama.block_count": 1},
    **{"llama.attention.head_count": 2, "llama.attention.head_count_kv": [1]},
    **{"llama.attention.key_length": 4, "llama.attention.value_length": 4},
    **{"llama.attention.layer_norm_rms_epsilon": 1e-5, "llama.context_length": 64},
    "onebit.scheme": json.dumps({"name": "mine", "layers": {}}),
    "onebit.tensors": packed.to_json({"blk.0.ffn_up.weight": packed.Packed("t2", (32, 256))}),
    "tokenizer.ggml.tokens": ["a", "b", "ü", "<s>", "</s>", ""],
    "tokenizer.ggml.scores": [0.0, -1.0, -2.0, 0.0, 0.0, 0.5],
    "tokenizer.ggml.token_type": [1, 1, 1, 3, 3, 1],
    "tokenizer.ggml.add_bos_token": True,
    "x.flags": [True, False],
    "x.wide": np.array([1, 2**60], np.uint64),
    "x.double": np.float64(0.5),
}


def small_gguf(path):
    declared = [gguf.Declared(*t) for t in GGUF_TENSORS]
    with gguf.Writer(path, GGUF_METADATA, declared) as writer:
        for name, kind, shape in GGUF_TENSORS:
            size = gguf.TENSOR_TYPES[gguf.TENSOR_IDS[kind]].size_bytes(shape)
            writer.write(name, np.ones(size // 4, "<f4") if kind == "f32" else bytes(size))
    return path


def small_folder(folder):
    prefix = "model.layers.0.self_attn."
    tensors = [
        *(("model.embed_tokens.weight", "BF16", (6, 256)), ("model.norm.weight", "F32", (256,))),
        *(
            (prefix + "q_proj.weight", "U8", (2, 256)),
            (prefix + "q_proj.weight_scale", "BF16", (1,)),
        ),
        *(
            (prefix + "k_proj.weight", "U8", (4, 52)),
            (prefix + "k_proj.weight_scale", "F32", (4, 2)),
        ),
        (prefix + "v_proj.weight", "F16", (4, 256)),
    ]
    entries = packed.to_json({prefix + "k_proj.weight": packed.Packed("t1_6", (4, 256))})
    declared = [safetensors.Declared(*t) for t in tensors]
    with safetensors.Writer(
        folder / "model-1.safetensors", declared, {packed.TENSORS_KEY: entries}
    ) as writer:
        for name, dtype, shape in tensors:
            size = safetensors.BITS[dtype] // 8 * int(np.prod(shape))
            writer.write(name, bytes([0x3F]) * size)
    (folder / "config.json").write_text(json.dumps(CONFIG))
    weight_map = {name: "model-1.safetensors" for name, _, _ in tensors}
    (folder / safetensors.INDEX_NAME).write_text(json.dumps({"weight_map": weight_map}))
    return folder


def truncated(raw, head, rng):
    return raw[: rng.integers(0, len(raw))]


def flipped(raw, head, rng):
    changed = bytearray(raw)
    for _ in range(rng.integers(1, 9)):
        changed[rng.integers(0, head)] ^= 1 << rng.integers(0, 8)
    return bytes(changed)


def spliced(raw, head, rng):
    """Put a random piece of the file, or noise, in the place of another piece."""
    a, b = sorted(rng.integers(0, head, 2))
    c, d = sorted(rng.integers(0, head, 2))
    piece = raw[c:d] if rng.integers(0, 2) else rng.bytes(int(d - c) % 64)
    return raw[:a] + piece + raw[min(b, a + 64) :]


def inflated(raw, head, rng):
    """Write a number of 4 or 8 bytes that no count, length or offset should be."""
    at = int(rng.integers(0, head - 8))
    value = HUGE[rng.integers(0, len(HUGE))]
    wide = struct.pack("<Q", value)[: 8 if rng.integers(0, 2) else 4]
    return raw[:at] + wide + raw[at + len(wide) :]


def digits(raw, head, rng):
    """Change a number written in digits, as in JSON."""
    places = np.flatnonzero(np.isin(np.frombuffer(raw, np.uint8, head), list(b"0123456789")))
    if not places.size:
        return flipped(raw, head, rng)
    at = int(rng.choice(places))
    value = (b"-1", b"0", b"1e400", b"9" * 30, b"1.5", b"null", b"[]", b"NaN")[rng.integers(0, 8)]
    return raw[:at] + value + raw[at + 1 :]


MUTATIONS = {f.__name__: f for f in (truncated, flipped, spliced, inflated, digits)}


def read_all(path):
    """Open a checkpoint and read every byte of every tensor."""
    checkpoint = open_checkpoint(path)
    for name in checkpoint.names():
        tensor = checkpoint.tensor(name)
        tensor.data.sum()
        assert tensor.scale is None or np.isfinite(tensor.scale).all()
    return len(checkpoint.names())


def opens_or_is_refused(path):
    """Whether the checkpoint opens; anything but an OnebitError of one line fails the test."""
    tracemalloc.reset_peak()
    refusal = ""
    try:
        read_all(path)
    except OnebitError as error:
        refusal = str(error)
    assert "\n" not in refusal
    assert len(refusal) < 1000 + len(str(path))
    assert tracemalloc.get_traced_memory()[1] < MAX_PEAK_BYTES
    return not refusal


@pytest.fixture
def traced():
    tracemalloc.start()
    yield
    tracemalloc.stop()


@pytest.mark.parametrize("mutation", MUTATIONS)
def test_gguf(tmp_path, traced, mutation):
    path = small_gguf(tmp_path / "m.gguf")
    assert read_all(path) == 9
    raw = path.read_bytes()
    head = min(t.offset for t in gguf.Reader(path).tensors.values())
    rng = np.random.default_rng(sorted(MUTATIONS).index(mutation))
    refused = 0
    for _ in range(ROUNDS):
        where = head if rng.integers(0, 8) else len(raw)
        path.write_bytes(MUTATIONS[mutation](raw, where, rng))
        refused += not opens_or_is_refused(path)
    assert refused > ROUNDS // 4  # most of these hit something that matters


@pytest.mark.parametrize("mutation", MUTATIONS)
@pytest.mark.parametrize("file", ["model-1.safetensors", "config.json", safetensors.INDEX_NAME])
def test_folder(tmp_path, traced, mutation, file):
    folder = small_folder(tmp_path)
    assert read_all(folder) == 5
    raw = (folder / file).read_bytes()
    head = raw.index(b"}}") if file.endswith(".safetensors") else len(raw)
    rng = np.random.default_rng(100 + sorted(MUTATIONS).index(mutation))
    refused = 0
    for _ in range(ROUNDS // 2 if head < len(raw) else ROUNDS // 4):
        where = head if rng.integers(0, 8) else len(raw)
        (folder / file).write_bytes(MUTATIONS[mutation](raw, where, rng))
        refused += not opens_or_is_refused(folder)
    assert refused


@pytest.mark.parametrize("mutation", MUTATIONS)
def test_what_the_safetensors_library_refuses_is_refused(tmp_path, mutation):
    path = small_folder(tmp_path) / "model-1.safetensors"
    raw = path.read_bytes()
    rng = np.random.default_rng(200 + sorted(MUTATIONS).index(mutation))
    refused = 0
    for _ in range(ROUNDS):
        path.write_bytes(MUTATIONS[mutation](raw, raw.index(b"}}"), rng))
        try:
            with safetensors_library.safe_open(path, framework="numpy"):
                continue
        except (safetensors_library.SafetensorError, OSError):
            refused += 1
        with pytest.raises(OnebitError):
            safetensors.Reader(path)
    assert refused
