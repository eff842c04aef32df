"""The native decoder against a plain NumPy decoder that is written out here, and against itself:
a prompt at once, in pieces and token by token; with other threads and instruction sets.
"""

import subprocess
import sys
import threading

import numpy as np
import pytest

from onebit.kernels import cpu, ops, reference

SMALL = {
    "vocab_size": 61,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 10,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": True,
    "qkv_bias": False,
    "out_bias": False,
    "mlp_bias": False,
    "qk_norm": False,
    "sub_norms": False,
    "pre_norms": True,
    "softmax_temperature": 1.0,
    "learned_temperature": False,
    "post_norms": False,
    "embedding_scale": 1.0,
    "sliding_window": 0,
    "q_bits": 16,
}
VARIANTS = {
    "plain": {},
    "biases": {"qkv_bias": True, "out_bias": True, "mlp_bias": True},
    "qk_norm": {"qk_norm": True, "head_dim": 16},
    "bitnet": {"sub_norms": True, "hidden_act": "relu2", "num_key_value_heads": 1},
    "untied": {"tie_word_embeddings": False, "num_key_value_heads": 4},
}
TOKENS = np.array([3, 60, 0, 7, 7, 41, 12, 5, 33, 2, 58, 19, 4, 4, 1, 27, 30, 44, 9], np.int32)


class Model:
    """Random weights, the native decoder made from them, and its plain NumPy twin."""

    def __init__(self, seed=0, inside=False, quantize=None, hadamard=False, **changes):
        self.a = a = SMALL | changes
        self.rng = np.random.default_rng(seed)
        self.hadamard = hadamard
        self.inv_freq = (10000.0 ** (-np.arange(0, a["head_dim"], 2) / a["head_dim"])).astype("f4")
        self.decoder = cpu.Decoder(a | {"inv_freq": self.inv_freq})
        self.w, self.b, self.n = {}, {}, {}
        q, kv = (a[f"num_{x}_heads"] * a["head_dim"] for x in ("attention", "key_value"))
        d, ff, V = a["hidden_size"], a["intermediate_size"], a["vocab_size"]
        self._matrix("model.embed_tokens", V, d, False, None, False)
        for i in range(a["num_hidden_layers"]):
            at = f"model.layers.{i}."
            for name, N in (("q", q), ("k", kv), ("v", kv)):
                self._matrix(f"{at}self_attn.{name}_proj", N, d, a["qkv_bias"], quantize, inside)
            self._matrix(f"{at}self_attn.o_proj", d, q, a["out_bias"], quantize, inside)
            for name in ("gate", "up"):
                self._matrix(f"{at}mlp.{name}_proj", ff, d, a["mlp_bias"], quantize, inside)
            self._matrix(f"{at}mlp.down_proj", d, ff, a["mlp_bias"], quantize, inside)
            for name in ("input_layernorm", "post_attention_layernorm"):
                self._norm(at + name, d)
            for name in ("q_norm", "k_norm") * a["qk_norm"]:
                self._norm(f"{at}self_attn.{name}", a["head_dim"])
            if a["sub_norms"]:
                self._norm(f"{at}self_attn.attn_sub_norm", q)
                self._norm(f"{at}mlp.ffn_sub_norm", ff)
        self._norm("model.norm", d)
        if not a["tie_word_embeddings"]:
            self._matrix("lm_head", V, d, False, None, False)
        self.decoder.finish()

    def _matrix(self, name, N, K, bias, quantize, inside):
        self.w[name] = (self.rng.standard_normal((N, K)) / np.sqrt(K)).astype("f4")
        self.b[name] = self.rng.standard_normal(N).astype("f4") if bias else None
        norm = (1 + self.rng.standard_normal(K) / 10).astype("f4") if inside else None
        self.n[f"{name}.norm"] = norm
        matrix, activation = ops.repack_floats(self.w[name]), "fp"
        if quantize:
            codes = np.clip(np.round(self.w[name] * np.sqrt(K)), -1, 1).astype(np.int8)
            scale = np.full((N, 1), K**-0.5, np.float32)
            matrix, activation = cpu.Matrix.from_codes("t2", codes, scale), quantize
        transform = self.hadamard and name.startswith("model.layers")
        signs = np.ones(K, np.float32) if transform else None
        self.decoder.set_matrix(name, matrix, activation, norm, self.b[name], signs)

    def _norm(self, name, size):
        self.n[name] = (1 + self.rng.standard_normal(size) / 10).astype("f4")
        self.decoder.set_norm(name, self.n[name])

    def run(self, tokens, pieces=None, logits="all", kv_bits=32):
        """Logits (T, V) of the native decoder, the tokens given in pieces."""
        cache = self.decoder.new_cache(len(tokens), kv_bits)
        pieces = np.split(tokens, pieces) if pieces is not None else [tokens]
        return np.concatenate([self.decoder.forward(p, cache, logits) for p in pieces])

    # The twin. Everything in float64; h (T, d).

    def rms(self, x, name):
        w = self.n[name].astype("f8")
        return x / np.sqrt((x**2).mean(-1, keepdims=True) + self.a["rms_norm_eps"]) * w

    def linear(self, x, name):
        if self.n.get(f"{name}.norm") is not None:
            x = self.rms(x, f"{name}.norm")
        if self.hadamard and name.startswith("model.layers"):
            x = reference.hadamard(x)
        y = x @ self.w[name].astype("f8").T
        return y if self.b[name] is None else y + self.b[name]

    def rotate(self, x):
        """RoPE over (T, heads, head_dim), position = row."""
        angle = np.outer(np.arange(len(x)), self.inv_freq.astype("f8"))[:, None]
        a, b = np.split(x, 2, axis=-1)
        cos, sin = np.cos(angle), np.sin(angle)
        return np.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1)

    def attend(self, x, at):
        a, T, D = self.a, len(x), self.a["head_dim"]
        q, k, v = (self.linear(x, f"{at}{n}_proj").reshape(T, -1, D) for n in "qkv")
        if a["qk_norm"]:
            q, k = self.rms(q, f"{at}q_norm"), self.rms(k, f"{at}k_norm")
        q, k = self.rotate(q), self.rotate(k)
        k, v = (np.repeat(t, q.shape[1] // t.shape[1], axis=1) for t in (k, v))
        scores = np.einsum("qhd,khd->hqk", q, k) / np.sqrt(D)
        scores[:, np.triu_indices(T, 1)[0], np.triu_indices(T, 1)[1]] = -np.inf
        p = np.exp(scores - scores.max(-1, keepdims=True))
        y = np.einsum("hqk,khd->qhd", p / p.sum(-1, keepdims=True), v).reshape(T, -1)
        return self.linear(
            self.rms(y, f"{at}attn_sub_norm") if a["sub_norms"] else y, f"{at}o_proj"
        )

    def mlp(self, x, at):
        gate, up = self.linear(x, f"{at}gate_proj"), self.linear(x, f"{at}up_proj")
        relu2 = self.a["hidden_act"] == "relu2"
        y = (np.maximum(gate, 0) ** 2 if relu2 else gate / (1 + np.exp(-gate))) * up
        return self.linear(self.rms(y, f"{at}ffn_sub_norm") if relu2 else y, f"{at}down_proj")

    def expected(self, tokens):
        h = self.w["model.embed_tokens"][tokens].astype("f8")
        for i in range(self.a["num_hidden_layers"]):
            at = f"model.layers.{i}."
            h = h + self.attend(self.rms(h, f"{at}input_layernorm"), f"{at}self_attn.")
            h = h + self.mlp(self.rms(h, f"{at}post_attention_layernorm"), f"{at}mlp.")
        tied = self.a["tie_word_embeddings"]
        return self.linear(self.rms(h, "model.norm"), "model.embed_tokens" if tied else "lm_head")


@pytest.mark.parametrize("inside", [False, True], ids=["", "norm_inside"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_equals_the_plain_decoder(isa, variant, inside):
    model = Model(inside=inside, **VARIANTS[variant])
    np.testing.assert_allclose(model.run(TOKENS), model.expected(TOKENS), atol=1e-4)


@pytest.mark.parametrize("inside", [False, True], ids=["", "norm_inside"])
def test_layers_may_transform_their_input(isa, inside):
    model = Model(inside=inside, hadamard=True, **VARIANTS["bitnet"])
    np.testing.assert_allclose(model.run(TOKENS), model.expected(TOKENS), atol=1e-4)
    rounded = Model(inside=inside, hadamard=True, quantize="int8_absmax", **VARIANTS["bitnet"])
    np.testing.assert_array_equal(rounded.run(TOKENS, [4, 5]), rounded.run(TOKENS))


def test_half_precision_cache_stays_close():
    model = Model()
    error = model.run(TOKENS, kv_bits=16) - model.run(TOKENS, kv_bits=32)
    assert 0 < np.abs(error).max() < 0.01


@pytest.mark.parametrize("quantize", [None, "int8_absmax", "int8_absmax_tensor", "int4_absmean"])
@pytest.mark.parametrize("kv_bits", [3, 4, 8, 16, 32])
def test_pieces_give_the_same_bits(isa, quantize, kv_bits):
    model = Model(quantize=quantize)
    whole = model.run(TOKENS, kv_bits=kv_bits)
    for pieces in ([1], [5, 16], range(1, len(TOKENS))):
        np.testing.assert_array_equal(model.run(TOKENS, pieces, kv_bits=kv_bits), whole)


def test_long_prompts_are_cut_into_chunks_that_do_not_show():
    model = Model(quantize="int8_absmax")
    tokens = np.random.default_rng(0).integers(0, 61, 300).astype(np.int32)
    whole = model.run(tokens)
    np.testing.assert_array_equal(model.run(tokens, [299], logits="all"), whole)
    np.testing.assert_array_equal(model.run(tokens, logits="last"), whole[-1:])


@pytest.mark.parametrize("quantize", [None, "int8_absmax", "fp"])
def test_same_bits_for_every_instruction_set_and_thread_count(quantize, monkeypatch):
    model = Model(quantize=quantize, **VARIANTS["bitnet"])
    results = []
    before = cpu.threads()
    try:
        for isa in cpu.isas():
            monkeypatch.setenv("ONEBIT_ISA", isa)
            for threads in (1, 2, 3):
                cpu.set_threads(threads)
                results.append(model.run(TOKENS, [17], kv_bits=16))
    finally:
        cpu.set_threads(before)
    for result in results[1:]:
        np.testing.assert_array_equal(result, results[0])


def test_cache_can_be_rewound():
    model = Model()
    whole = model.run(TOKENS)
    cache = model.decoder.new_cache(len(TOKENS), 32)
    assert (cache.length, cache.capacity) == (0, len(TOKENS))
    assert cache.size_bytes == 2 * 2 * 32 * (10 + 16) * 4  # layers, heads, positions, k + v, bytes
    model.decoder.forward(TOKENS[::-1].copy(), cache, "none")
    assert cache.length == len(TOKENS)
    cache.length = 0
    assert model.decoder.forward(TOKENS[:9], cache, "none").shape == (0, 61)
    model.decoder.forward(TOKENS[:4], cache, "none")
    cache.length = 9
    np.testing.assert_array_equal(model.decoder.forward(TOKENS[9:], cache, "all"), whole[9:])
    with pytest.raises(ValueError, match="more than the 19 tokens held"):
        cache.length = 20
    with pytest.raises(ValueError, match="negative"):
        cache.length = -1


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        ([1, 61], "token id 61 at position 1 is outside 0 to 60"),
        ([-1], "token id -1"),
        ([1] * 5, "5 more tokens do not fit; it holds 4 of 8"),
        ([], "no tokens"),
    ],
)
def test_bad_tokens_leave_the_cache_as_it_was(tokens, message):
    model = Model()
    cache = model.decoder.new_cache(8, 16)
    model.decoder.forward(TOKENS[:4], cache, "none")
    with pytest.raises(ValueError, match=message):
        model.decoder.forward(np.array(tokens, np.int32), cache, "last")
    assert cache.length == 4


def test_wrong_arguments_are_refused():
    model, other = Model(), Model()
    decoder = model.decoder
    with pytest.raises(ValueError, match="belongs to another decoder"):
        decoder.forward(TOKENS, other.decoder.new_cache(32, 16), "last")
    with pytest.raises(ValueError, match="accepted: last, all, none"):
        decoder.forward(TOKENS, decoder.new_cache(32, 16), "some")
    for capacity, bits, message in ((0, 16, "capacity is 0"), (8, 5, "accepted: 32, 16, 8, 4, 3")):
        with pytest.raises(ValueError, match=message):
            decoder.new_cache(capacity, bits)
    for capacity in (1 << 46, 1 << 62):
        with pytest.raises(MemoryError, match="no memory for"):
            decoder.new_cache(capacity, 32)


@pytest.mark.skipif(sys.platform != "linux", reason="the system does not say what is left")
def test_a_cache_larger_than_memory_is_refused_before_it_is_used():
    decoder = Model().decoder
    with open("/proc/meminfo") as file:
        total = 1024 * int(file.readline().split()[1])
    position = 2 * 2 * (10 + 16) * 4  # bytes: layers, heads, k + v
    with pytest.raises(MemoryError, match="choose a smaller capacity"):
        decoder.new_cache(int(1.1 * total / position), 32)
    decoder.forward(TOKENS, decoder.new_cache(len(TOKENS), 32), "last")


def test_parts_must_fit_and_be_complete():
    decoder = Model().decoder
    matrix = ops.repack_floats(np.zeros((48, 48), np.float32))
    for name in ("model.layers.2.mlp.up_proj", "model.layers.x.mlp.up_proj", "mlp", "lm_heads"):
        with pytest.raises(ValueError, match=r"no matrix|has 2 layers"):
            decoder.set_matrix(name, matrix)
    with pytest.raises(ValueError, match=r"is \(48, 48\); the architecture needs \(80, 48\)"):
        decoder.set_matrix("model.layers.0.mlp.up_proj", matrix)
    o = ops.repack_floats(np.zeros((48, 40), np.float32))
    for options, message in (
        ({"bias": np.zeros(48, np.float32)}, "no bias here"),
        ({"norm": np.ones(41, np.float32)}, "41 weights for 40 columns"),
        ({"activation": "int3"}, "activation int3 is unknown"),
    ):
        with pytest.raises(ValueError, match=message):
            decoder.set_matrix("model.layers.0.self_attn.o_proj", o, **options)
    with pytest.raises(ValueError, match="no norm of this"):
        decoder.set_norm("model.layers.0.self_attn.q_norm", np.ones(10, np.float32))
    with pytest.raises(ValueError, match="has 47 weights; the architecture needs 48"):
        decoder.set_norm("model.norm", np.ones(47, np.float32))
    empty = cpu.Decoder(SMALL | {"inv_freq": np.ones(5, np.float32)})
    with pytest.raises(ValueError, match="embed_tokens is missing"):
        empty.finish()
    empty.set_matrix("model.embed_tokens", ops.repack_floats(np.zeros((61, 48), np.float32)))
    with pytest.raises(ValueError, match=r"model\.norm is missing"):
        empty.finish()
    with pytest.raises(ValueError, match="call finish"):
        empty.forward(TOKENS, empty.new_cache(32, 16), "last")


@pytest.mark.parametrize(
    "change", [{"head_dim": 0}, {"vocab_size": 1 << 23}, {"head_dim": 9}, {"hidden_act": "gelu"}]
)
def test_absurd_architectures_are_refused(change):
    with pytest.raises(ValueError, match="architecture: "):
        cpu.Decoder(SMALL | {"inv_freq": np.ones(5, np.float32)} | change)


def test_an_architecture_without_a_field_is_refused():
    with pytest.raises(KeyError, match="head_dim"):
        cpu.Decoder({name: value for name, value in SMALL.items() if name != "head_dim"})


def test_threads_may_share_a_decoder():
    model = Model(quantize="int8_absmax")
    expected, results = model.run(TOKENS), [None] * 4

    def work(i):
        for _ in range(5):
            results[i] = model.run(TOKENS, [i + 1])

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for result in results:
        np.testing.assert_array_equal(result, expected)


def test_a_decoder_may_be_set_by_two_threads():
    """A matrix that is replaced is freed with the GIL, under the lock that the other waits for."""
    code = """
import threading
import numpy as np
from onebit.kernels import cpu
fields = dict(vocab_size=8, hidden_size=8, intermediate_size=8, num_hidden_layers=1,
              num_attention_heads=1, num_key_value_heads=1, head_dim=8, hidden_act="silu",
              rms_norm_eps=1e-5, tie_word_embeddings=True, qkv_bias=False, out_bias=False,
              mlp_bias=False, qk_norm=False, sub_norms=False, pre_norms=True,
              post_norms=False, embedding_scale=1.0, sliding_window=0,
              softmax_temperature=1.0, learned_temperature=False, q_bits=16,
              inv_freq=np.ones(4, np.float32))
decoder = cpu.Decoder(fields)
values = np.ones((8, 8), np.float32)

def matrices():
    for _ in range(20000):
        decoder.set_matrix("model.embed_tokens", cpu.Matrix.from_floats(values))

def norms():
    for _ in range(20000):
        decoder.set_norm("model.norm", values[0])

threads = [threading.Thread(target=f, daemon=True) for f in (matrices, norms)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=30)
