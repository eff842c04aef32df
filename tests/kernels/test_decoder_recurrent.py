"""The decoder with recurrent layers against a plain NumPy MatMul-free LM that is written out here,
and against itself: a prompt at once, in pieces, token by token, and beside other sequences; with
other threads and instruction sets. Its memory is a state, of which little can be asked."""

import subprocess
import sys

import numpy as np
import pytest

from onebit.kernels import cpu, ops, reference

SHAPE = {
    "vocab_size": 61,
    "hidden_size": 144,  # a block of channels and a part of one
    "intermediate_size": 80,
    "num_hidden_layers": 3,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": False,
    "recurrent": True,
    "lower_bounds": True,
    "mlgru": "code",
}
FORMS = {
    "code": {},
    "unbounded": {"lower_bounds": False},
    "paper": {"mlgru": "paper", "lower_bounds": False},
    "tied": {"tie_word_embeddings": True},
}
TOKENS = np.random.default_rng(2).integers(0, 61, 40).astype(np.int32)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


class Model:
    """Random ternary weights, the native decoder made from them, and its plain NumPy twin."""

    def __init__(self, seed=0, **changes):
        self.a = a = SHAPE | changes
        self.rng = np.random.default_rng(seed)
        self.decoder = cpu.Decoder(a)
        self.codes, self.scale, self.n = {}, {}, {}
        d, ff, V, L = (a[x] for x in [*list(SHAPE)[1:3], "vocab_size", "num_hidden_layers"])
        self.embedding_VK = self.rng.standard_normal((V, d)).astype("f4")
        self.decoder.set_matrix("model.embed_tokens", ops.repack_floats(self.embedding_VK))
        for i in range(L):
            for name in "ifgo":
                self._matrix(f"model.layers.{i}.attn.{name}_proj", d, d)
            self._matrix(f"model.layers.{i}.mlp.gate_proj", 2 * ff, d)
            self._matrix(f"model.layers.{i}.mlp.down_proj", d, ff)
            for name in ["attn_norm", "mlp_norm"] + ["attn.g_norm"] * (a["mlgru"] == "code"):
                self._norm(f"model.layers.{i}.{name}", d)
            if a["lower_bounds"]:
                bound = np.float32(i) * self.rng.uniform(0, 0.45, d).astype("f4")
                self.n[f"model.layers.{i}.attn.lower_bound"] = bound
                self.decoder.set_norm(f"model.layers.{i}.attn.lower_bound", bound)
        self._norm("model.norm", d)
        if not a["tie_word_embeddings"]:
            self._matrix("lm_head", V, d)
        self.decoder.finish()

    def _matrix(self, name, N, K):
        self.codes[name] = self.rng.integers(-1, 2, (N, K)).astype(np.int8)
        self.scale[name] = np.float32(1.4 / np.sqrt(K))
        norm = (1 + self.rng.standard_normal(K) / 10).astype("f4")
        self.n[f"{name}.norm"] = norm
        scale_N1 = np.full((N, 1), self.scale[name])
        matrix = cpu.Matrix.from_codes("t2", self.codes[name], scale_N1)
        self.decoder.set_matrix(name, matrix, "int8_absmax", norm)

    def _norm(self, name, size):
        self.n[name] = (1 + self.rng.standard_normal(size) / 10).astype("f4")
        self.decoder.set_norm(name, self.n[name])

    def memory(self):
        return self.decoder.new_cache(1, 16)

    def run(self, tokens, pieces=()):
        """Logits (T, V) of the native decoder, the tokens given in pieces."""
        state = self.memory()
        given = [piece for piece in np.split(tokens, pieces) if len(piece)]
        return np.concatenate([self.decoder.forward(piece, state, "all") for piece in given])

    # The twin: float64, but for the codes of activations, which are as the kernels round them.

    def rms(self, x_TK, name):
        mean_T1 = (x_TK.astype("f8") ** 2).mean(-1, keepdims=True)
        return x_TK / np.sqrt(mean_T1 + self.a["rms_norm_eps"]) * self.n[name]

    def linear(self, x_TK, name):
        normed_TK = self.rms(x_TK, f"{name}.norm").astype("f4")
        codes_TK, scale_T1 = reference.quantize_i8(normed_TK)
        sums_TN = codes_TK.astype(np.int64) @ self.codes[name].astype(np.int64).T
        return sums_TN * (scale_T1.astype("f8") * self.scale[name])

    def mlgru(self, x_TK, at):
        i_TK, f_TK, g_TK = (self.linear(x_TK, f"{at}.{name}_proj") for name in "ifg")
        f_TK = sigmoid(f_TK)
        if self.a["lower_bounds"]:
            low_K = self.n[f"{at}.lower_bound"]
            f_TK = low_K + (1 - low_K) * f_TK
        h_K, rows = np.zeros(x_TK.shape[1]), []
        for f_K, i_K in zip(f_TK, i_TK, strict=True):
            h_K = f_K * h_K + (1 - f_K) * (i_K * sigmoid(i_K))
            rows.append(h_K)
        h_TK = np.array(rows)
        if self.a["mlgru"] == "paper":
            return self.linear(g_TK * sigmoid(h_TK), f"{at}.o_proj")
        gated_TK = self.rms(g_TK, f"{at}.g_norm") * (h_TK * sigmoid(h_TK))
        return self.linear(gated_TK, f"{at}.o_proj")

    def twin(self, tokens):
        stream_TK = self.embedding_VK[tokens].astype("f8")
        for i in range(self.a["num_hidden_layers"]):
            at = f"model.layers.{i}"
            stream_TK += self.mlgru(self.rms(stream_TK, f"{at}.attn_norm"), f"{at}.attn")
            both = self.linear(self.rms(stream_TK, f"{at}.mlp_norm"), f"{at}.mlp.gate_proj")
            gate, up = np.split(both, 2, axis=1)
            stream_TK += self.linear(gate * sigmoid(gate) * up, f"{at}.mlp.down_proj")
        out_TK = self.rms(stream_TK, "model.norm")
        if not self.a["tie_word_embeddings"]:
            return self.linear(out_TK, "lm_head")
        return out_TK @ self.embedding_VK.astype("f8").T


@pytest.fixture(scope="module")
def model():
    return Model()


@pytest.mark.parametrize("form", FORMS)
def test_logits_and_tokens_are_those_of_a_plain_matmulfree_lm(form):
    model = Model(**FORMS[form])
    got_TV, wanted_TV = model.run(TOKENS), model.twin(TOKENS)
    # Until an activation that lies between two codes goes the other way, all is equal; then close.
    error_T = np.abs(got_TV - wanted_TV).max(axis=1) / wanted_TV.std()
    assert error_T[:4].max() < 1e-5
    assert error_T.mean() < 0.05
    np.testing.assert_array_equal(got_TV.argmax(1), wanted_TV.argmax(1))


def test_the_forms_are_not_the_same():
    results = [Model(**changes).run(TOKENS[:8]) for changes in FORMS.values()]
    for k, one in enumerate(results):
        for other in results[:k]:
            assert np.abs(one - other).max() > 0.01


def test_a_prompt_in_pieces_gives_the_bits_of_a_prompt_at_once(isa, model):
    whole = model.run(TOKENS)
    for pieces in (range(1, 40), [13], [1, 2, 30], range(4, 40, 7)):
        np.testing.assert_array_equal(model.run(TOKENS, list(pieces)), whole)


def test_every_instruction_set_gives_the_same_bits(isa, model, monkeypatch):
    got = model.run(TOKENS)
    monkeypatch.setenv("ONEBIT_ISA", "scalar")
    np.testing.assert_array_equal(got, model.run(TOKENS))


def test_a_prompt_of_several_chunks_gives_the_bits_of_single_tokens():
    model = Model(num_hidden_layers=1, hidden_size=48)
    tokens = np.random.default_rng(3).integers(0, 61, 300).astype(np.int32)  # chunks are of 132
    np.testing.assert_array_equal(model.run(tokens), model.run(tokens, list(range(1, 300))))


def test_sequences_beside_one_another_get_the_bits_that_they_get_alone(model):
    rng = np.random.default_rng(5)
    texts = [rng.integers(0, 61, n).astype(np.int32) for n in (1, 70, 23, 90)]
    alone = [model.run(text) for text in texts]
    states = [model.memory() for _ in texts]
    firsts = [text[: (len(text) + 1) // 2] for text in texts]
    kinds = ["all", "none", "last", "all"]
    got = model.decoder.step(states, firsts, kinds)
    wanted = [alone[0], alone[2][11:12], alone[3][:45]]
    np.testing.assert_array_equal(got, np.concatenate(wanted))
    left = [(s, text[s.length :]) for s, text in zip(states, texts, strict=True)][1:]
    got = model.decoder.step([s for s, _ in left], [t for _, t in left], ["last"] * 3)
    np.testing.assert_array_equal(got, np.stack([a[-1] for a in alone[1:]]))
    assert [s.length for s in states] == [1, 70, 23, 90]


def test_two_threads_give_the_bits_of_one():
    script = (
        "import sys; sys.path.insert(0, 'tests/kernels');"
        "import test_decoder_recurrent as t; from onebit.kernels import cpu; m = t.Model();"
        "cpu.set_threads(1); one = m.run(t.TOKENS); single = m.run(t.TOKENS, list(range(1, 40)));"
        "cpu.set_threads(2); two = m.run(t.TOKENS);"
        "assert (one == two).all() and (one == single).all(); print('equal')"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout == "equal\n", done.stderr


def test_a_state_has_one_size_however_many_tokens_it_took(model):
    state = model.memory()
    assert isinstance(state, cpu.State)
    assert isinstance(state, cpu.Memory)
    assert not isinstance(state, cpu.Cache)
    size = state.size_bytes
    assert size == 3 * 144 * 4 == model.decoder.new_cache(100_000, 16).size_bytes
    for _ in range(10):
        model.decoder.forward(TOKENS, state, "none")
    assert (state.length, state.size_bytes) == (400, size)
    assert state.capacity > 1 << 40


def test_what_was_forgotten_leaves_no_trace(model):
    state = model.memory()
    model.decoder.forward(TOKENS[::-1].copy(), state, "none")
    state.length = 40  # as it is
    state.length = 0
    np.testing.assert_array_equal(model.decoder.forward(TOKENS, state, "all"), model.run(TOKENS))


def test_a_copy_of_a_state_goes_on_as_the_state_does(model):
    whole, state, copy = model.run(TOKENS), model.memory(), model.memory()
    model.decoder.forward(TOKENS[:25], state, "none")
    model.decoder.forward(TOKENS[5:], copy, "none")  # to be overwritten
    copy.copy_prefix(state, 25)
    np.testing.assert_array_equal(model.decoder.forward(TOKENS[25:], state, "all"), whole[25:])
    assert copy.length == 25
    np.testing.assert_array_equal(model.decoder.forward(TOKENS[25:], copy, "all"), whole[25:])
    copy.copy_prefix(state, 0)
    np.testing.assert_array_equal(model.decoder.forward(TOKENS, copy, "all"), whole)


def test_what_a_state_cannot_do_is_said_in_one_line(model):
    state, foreign = model.memory(), Model(seed=1).memory()
    model.decoder.forward(TOKENS, state, "none")
    with pytest.raises(ValueError, match=r"^state: length 7 of 40 tokens; .* copy the state"):
        state.length = 7
    with pytest.raises(ValueError, match=r"^state: length 41 of 40"):
        state.length = 41
    with pytest.raises(ValueError, match="7 tokens cannot be taken out of a state of 40"):
        model.memory().copy_prefix(state, 7)
    with pytest.raises(ValueError, match="belongs to another decoder"):
        foreign.copy_prefix(state, 40)
    with pytest.raises(ValueError, match="belongs to another decoder"):
        model.decoder.forward(TOKENS, foreign, "last")
    with pytest.raises(ValueError, match="token id 61 at position 1 is outside"):
        model.decoder.forward(np.array([3, 61], np.int32), state, "last")
    assert state.length == 40


def test_missing_and_misplaced_parts_are_named():
    decoder = cpu.Decoder(SHAPE)
    floats = ops.repack_floats(np.zeros((144, 144), np.float32))
    with pytest.raises(ValueError, match=r"self_attn.q_proj is no matrix of this architecture"):
        decoder.set_matrix("model.layers.0.self_attn.q_proj", floats)
    with pytest.raises(ValueError, match=r"gate_proj: the matrix is \(144, 144\); .* \(160, 144\)"):
        decoder.set_matrix("model.layers.0.mlp.gate_proj", floats)
    with pytest.raises(ValueError, match="input_layernorm is no norm of this architecture"):
        decoder.set_norm("model.layers.0.input_layernorm", np.zeros(144, np.float32))
    with pytest.raises(ValueError, match="g_norm is no norm of this architecture"):
        cpu.Decoder(SHAPE | {"mlgru": "paper"}).set_norm(
            "model.layers.0.attn.g_norm", np.zeros(144, np.float32)
        )
    with pytest.raises(ValueError, match="mlgru is both; accepted: code, paper"):
        cpu.Decoder(SHAPE | {"mlgru": "both"})
    decoder.set_matrix("model.embed_tokens", ops.repack_floats(np.zeros((61, 144), np.float32)))
    decoder.set_matrix("lm_head", ops.repack_floats(np.zeros((61, 144), np.float32)))
    decoder.set_norm("model.norm", np.ones(144, np.float32))
    with pytest.raises(ValueError, match=r"layers.0.attn.i_proj is missing"):
        decoder.finish()
