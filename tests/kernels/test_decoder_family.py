"""What the schemes of the BitNet family add to the decoder, against a plain NumPy decoder: norms
inside the layers and none outside, turned inputs with signs, parts, a temperature, few-bit queries.
"""

import numpy as np
import pytest

from onebit.kernels import cpu, ops, reference

SHAPE = {
    "vocab_size": 61,
    "hidden_size": 64,
    "intermediate_size": 192,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "hidden_act": "relu2",
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": True,
    "qkv_bias": False,
    "out_bias": True,
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
TOKENS = np.array([3, 60, 0, 7, 7, 41, 12, 5, 33, 2, 58, 19, 4, 4, 1], np.int32)
LINEARS = [f"self_attn.{name}" for name in "qkvo"] + ["mlp.gate", "mlp.up", "mlp.down"]
# name -> changes to the shape, and to how the layers take their inputs
VARIANTS = {
    "layer_norm": ({}, {"norm": "layer"}),
    "layer_norm_of_parts": ({}, {"norm": "layer", "parts": 2}),
    "rms_of_parts": ({}, {"norm": "rms", "parts": 2}),
    "signs": ({}, {"hadamard": True}),
    "shared_signs": ({}, {"hadamard": "shared"}),
    "signs_after_rms": ({}, {"norm": "rms", "hadamard": True}),
    "signs_after_layer_norm": ({}, {"norm": "layer", "hadamard": True}),
    "no_pre_norms": ({"pre_norms": False}, {"norm": "layer"}),
    "no_norms": ({"pre_norms": False}, {}),
    "temperature": ({"softmax_temperature": 0.3}, {}),
    "learned_temperature": ({"learned_temperature": True, "softmax_temperature": 5.0}, {}),
    "all": (
        {"pre_norms": False, "learned_temperature": True},
        {"norm": "layer", "hadamard": True, "parts": 2},
    ),
}


class Model:
    """Random weights, float or ternary by `rule`, in the native decoder and in a NumPy twin."""

    def __init__(self, shape=None, norm="none", hadamard=False, parts=1, rule="fp"):
        self.a = a = SHAPE | (shape or {})
        self.norm, self.hadamard, self.parts, self.rule = norm, hadamard, parts, rule
        rng = np.random.default_rng(0)
        self.inv_freq = (100.0 ** (-np.arange(0, 16, 2) / 16)).astype("f4")
        self.decoder = cpu.Decoder(a | {"inv_freq": self.inv_freq})
        self.w, self.n, self.signs = {}, {}, {}
        sizes = {"q": (64, 64), "k": (32, 64), "v": (32, 64), "o": (64, 64)}
        sizes |= {"gate": (192, 64), "up": (192, 64), "down": (64, 192)}
        self.w["model.embed_tokens"] = rng.standard_normal((61, 64)).astype("f4")
        embedding = ops.repack_floats(self.w["model.embed_tokens"])
        self.decoder.set_matrix("model.embed_tokens", embedding)
        norms = {"model.norm": 64}
        for i in range(a["num_hidden_layers"]):
            at = f"model.layers.{i}."
            for part in LINEARS:
                self._linear(f"{at}{part}_proj", *sizes[part.rpartition(".")[2]], rng)
            if a["pre_norms"]:
                norms |= {f"{at}input_layernorm": 64, f"{at}post_attention_layernorm": 64}
            if a["learned_temperature"]:
                norms[f"{at}self_attn.temperature"] = 4
        for name, size in norms.items():
            self.n[name] = (1 + rng.standard_normal(size) / 10).astype("f4")
            self.decoder.set_norm(name, self.n[name])
        self.decoder.finish()

    def _linear(self, name, N, K, rng):
        w = (rng.standard_normal((N, K)) / np.sqrt(K)).astype("f4")
        matrix = ops.repack_floats(w)
        if self.rule != "fp":
            codes = np.clip(np.round(w * np.sqrt(K)), -1, 1).astype(np.int8)
            matrix = cpu.Matrix.from_codes("t2", codes, np.full((N, 1), K**-0.5, np.float32))
            w = codes * np.float32(K**-0.5)
        self.w[name] = w
        norm = (1 + rng.standard_normal(K) / 10).astype("f4") if self.norm == "rms" else None
        bias = rng.standard_normal(N).astype("f4") if name.endswith("o_proj") else None
        signs_rng = np.random.default_rng(K) if self.hadamard == "shared" else rng
        signs = signs_rng.choice(np.array([-1, 1], np.float32), K) if self.hadamard else None
        self.n[f"{name}.norm"], self.n[f"{name}.bias"], self.signs[name] = norm, bias, signs
        self.decoder.set_matrix(
            name, matrix, self.rule, norm, bias, signs, self.norm == "layer", self.parts
        )

    def run(self, pieces=(), kv_bits=32):
        cache = self.decoder.new_cache(len(TOKENS), kv_bits)
        pieces = np.split(TOKENS, list(pieces))
        return np.concatenate([self.decoder.forward(p, cache, "all") for p in pieces])

    # The twin, in float64; h (T, d).

    def rms(self, x, w, parts=1):
        cut = x.reshape(len(x), parts, -1)
        cut = cut / np.sqrt((cut**2).mean(-1, keepdims=True) + self.a["rms_norm_eps"])
        return cut.reshape(x.shape) * w.astype("f8")

    def outer(self, x, name):
        return self.rms(x, self.n[name]) if self.a["pre_norms"] else x

    def linear(self, x, name):
        if self.norm == "rms":
            x = self.rms(x, self.n[f"{name}.norm"], self.parts)
        elif self.norm == "layer":
            x = reference.layer_norm(x, self.a["rms_norm_eps"], self.parts)
        if self.hadamard:
            x = reference.hadamard(x, self.signs[name])
        if self.rule != "fp":
            rule = self.rule.removesuffix("_tensor")  # per token in the decoder
            codes, scale, minimum = reference.quantize(x.astype("f4"), rule, self.parts)
            width = x.shape[1] // self.parts
            x = codes * np.repeat(scale, width, axis=1).astype("f8")
            if minimum is not None:
                x += np.repeat(minimum, width, axis=1)
        y = x @ self.w[name].astype("f8").T
        bias = self.n[f"{name}.bias"]
        return y if bias is None else y + bias

    def rotate(self, x):
        angle = np.outer(np.arange(len(x)), self.inv_freq.astype("f8"))[:, None]
        a, b = np.split(x, 2, axis=-1)
        cos, sin = np.cos(angle), np.sin(angle)
        return np.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1)

    def attend(self, x, at):
        a, T = self.a, len(x)
        q, k, v = (self.linear(x, f"{at}{n}_proj").reshape(T, -1, 16) for n in "qkv")
        q, k = self.rotate(q), self.rotate(k)
        if a["q_bits"] < 16:
            codes, scale, _ = reference.quantize(
                q.reshape(-1, 16).astype("f4"), f"int{a['q_bits']}_absmax"
            )
            q = (codes * scale.astype("f8")).reshape(q.shape)
        t = np.full(4, a["softmax_temperature"])
        if a["learned_temperature"]:
            t = self.n[f"{at}temperature"].astype("f8")
        q = q / t[:, None]
        k, v = (np.repeat(x, 2, axis=1) for x in (k, v))
        scores = np.einsum("qhd,khd->hqk", q, k) / 4
        scores[:, np.triu_indices(T, 1)[0], np.triu_indices(T, 1)[1]] = -np.inf
        p = np.exp(scores - scores.max(-1, keepdims=True))
        y = np.einsum("hqk,khd->qhd", p / p.sum(-1, keepdims=True), v).reshape(T, -1)
        return self.linear(y, f"{at}o_proj")

    def mlp(self, x, at):
        gate, up = self.linear(x, f"{at}gate_proj"), self.linear(x, f"{at}up_proj")
        return self.linear(np.maximum(gate, 0) ** 2 * up, f"{at}down_proj")

    def expected(self):
        h = self.w["model.embed_tokens"][TOKENS].astype("f8")
        for i in range(self.a["num_hidden_layers"]):
            at = f"model.layers.{i}."
            h = h + self.attend(self.outer(h, f"{at}input_layernorm"), f"{at}self_attn.")
            h = h + self.mlp(self.outer(h, f"{at}post_attention_layernorm"), f"{at}mlp.")
        return self.rms(h, self.n["model.norm"]) @ self.w["model.embed_tokens"].astype("f8").T


@pytest.mark.parametrize("variant", VARIANTS)
def test_equals_the_plain_decoder(isa, variant):
    shape, how = VARIANTS[variant]
    model = Model(shape, **how)
    y = model.expected()
    np.testing.assert_allclose(model.run(), y, rtol=0, atol=2e-5 * np.abs(y).max())


RULES = [*(rule for rule in ops.ACTIVATIONS if rule != "fp"), "dynamic:3.2"]


@pytest.mark.parametrize("rule", RULES)
def test_rounded_inputs_follow_the_plain_decoder(isa, rule):
    """A float that ends beside a tie may round the other way: a code or two of each layer."""
    how = {"norm": "layer"} if "b1" in rule else {"norm": "rms", "hadamard": True}
    model = Model(rule=rule, **how)
    y, mine = model.expected(), model.run()
    assert np.sqrt(((mine - y) ** 2).mean() / (y**2).mean()) < 0.01
    for pieces in ([1], [7], range(1, len(TOKENS))):
        np.testing.assert_array_equal(model.run(pieces), mine)


@pytest.mark.parametrize("q_bits", [8, 4, 3])
def test_queries_in_few_bits_follow_the_plain_decoder(isa, q_bits):
    model = Model({"q_bits": q_bits, "learned_temperature": True})
    y, mine = model.expected(), model.run()
    error, size = np.abs(mine - y), np.abs(y).max()
    assert np.quantile(error, 0.9) < 2e-5 * size  # a tie may go the other way in some token
    assert error.max() < 1e-3 * size
    plain = Model({"learned_temperature": True}).run()
    assert np.quantile(np.abs(plain - mine), 0.9) > 1e-4 * size


@pytest.mark.parametrize("kv_bits", [16, 4])
@pytest.mark.parametrize("rule", ["int8_b1_positive", "int8_top50", "fp4_e2m1", "dynamic:3.2"])
def test_same_bits_on_every_instruction_set_and_thread_count(rule, kv_bits, monkeypatch):
    model = Model({"learned_temperature": True, "q_bits": 4}, "layer", True, 2, rule)
    results = []
    before = cpu.threads()
    try:
        for isa in cpu.isas():
            monkeypatch.setenv("ONEBIT_ISA", isa)
            for threads in (1, 3):
                cpu.set_threads(threads)
                results.append(model.run([9], kv_bits))
    finally:
        cpu.set_threads(before)
    for result in results[1:]:
        np.testing.assert_array_equal(result, results[0])


def test_an_input_that_makes_no_sense_is_refused():
    decoder = Model().decoder
    matrix = ops.repack_floats(np.zeros((64, 192), np.float32))
    ones = np.ones(192, np.float32)
    for options, message in (
        ({"hadamard": ones[:-1]}, "191 signs for a Hadamard transform of 192 columns"),
        ({"hadamard": ones * 0}, "are 1 and -1"),
        ({"norm": ones, "layer_norm": True}, "give one of them"),
        ({"parts": 4}, "192 columns in 4 parts; each needs as many, and a multiple of 32"),
        ({"parts": 5}, "192 columns in 5 parts"),
        ({"parts": 0}, "192 columns in 0 parts"),
        ({"activation": "dynamic:"}, "activation dynamic: is unknown; accepted: fp, fp_int8, int"),
    ):
        with pytest.raises(ValueError, match=f"{message}"):
            decoder.set_matrix("model.layers.0.mlp.down_proj", matrix, **options)
    with pytest.raises(ValueError, match="no norm of this architecture"):
        decoder.set_norm("model.layers.0.self_attn.temperature", ones[:4])
    with pytest.raises(ValueError, match="no norm of this architecture"):
        Model({"pre_norms": False}).decoder.set_norm("model.layers.0.input_layernorm", ones[:64])
    with pytest.raises(ValueError, match="q_bits is 5; accepted: 16, 8, 4, 3"):
        Model({"q_bits": 5})
