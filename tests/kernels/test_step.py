"""Many sequences in one step: each gets the bits that it gets alone, whoever is beside it, and a
step that is refused changes no cache."""

import numpy as np
import pytest

from onebit import Architecture
from onebit.kernels import cpu, ops
from onebit.tensors import linears, norms

SMALL = {
    "vocab_size": 61,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 10,
}
VARIANTS = {
    "qk_norm": {"model_type": "qwen3", "qk_norm": True, "head_dim": 16},
    "bitnet": {"model_type": "bitnet", "hidden_act": "relu2", "sub_norms": True},
    "gemma3": {
        "model_type": "gemma3_text",
        "hidden_act": "gelu_pytorch_tanh",
        "qk_norm": True,
        "post_norms": True,
        "sliding_window": 20,
        "global_every": 2,
    },
    "untied": {"tie_word_embeddings": False, "model_type": "qwen2", "qkv_bias": True},
}


class Model:
    """A decoder of random weights: floats, or ternary where `quantize` names an activation."""

    def __init__(self, quantize=None, **changes):
        rng = np.random.default_rng(0)
        a = Architecture(**(SMALL | changes))
        self.decoder = cpu.Decoder(a.native() | {"q_bits": 16})
        for linear in linears(a):
            w = (rng.standard_normal((linear.N, linear.K)) / np.sqrt(linear.K)).astype("f4")
            bias = rng.standard_normal(linear.N).astype("f4") if linear.bias else None
            if quantize and linear.name.startswith("model.layers"):
                codes = np.clip(np.round(w * np.sqrt(linear.K)), -1, 1).astype(np.int8)
                scale = np.full((linear.N, 1), linear.K**-0.5, np.float32)
                matrix = cpu.Matrix.from_codes("t2", codes, scale)
                self.decoder.set_matrix(linear.name, matrix, quantize, None, bias)
            else:
                self.decoder.set_matrix(linear.name, ops.repack_floats(w), "fp", None, bias)
        for name, size in norms(a):
            self.decoder.set_norm(name, (1 + rng.standard_normal(size) / 10).astype("f4"))
        self.decoder.finish()

    def alone(self, tokens):
        """Logits (T, V) of one sequence, token by token."""
        cache = self.decoder.new_cache(len(tokens), 16)
        return np.concatenate([self.decoder.forward(t, cache, "all") for t in tokens[:, None]])


class Run:
    """A sequence with its cache, and the logits that it got."""

    def __init__(self, model, tokens):
        self.tokens = np.asarray(tokens, np.int32)
        self.cache = model.decoder.new_cache(len(tokens), 16)
        self.rows = []

    @property
    def left(self):
        return len(self.tokens) - self.cache.length

    def next(self, n):
        return self.tokens[self.cache.length : self.cache.length + n]


def sequences(*lengths, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.integers(0, 61, n).astype(np.int32) for n in lengths]


def step(model, turns):
    """turns: (run, tokens to append). All logits are kept with their run."""
    out = model.decoder.step(
        [run.cache for run, _ in turns], [run.next(n) for run, n in turns], ["all"] * len(turns)
    )
    for run, n in turns:
        run.rows.append(out[:n])
        out = out[n:]
    assert not len(out)


def together(model, tokens):
    """Sequences of any length that join late, leave when done, and append 1 to 40 at a time."""
    rng = np.random.default_rng(7)
    runs = [Run(model, t) for t in tokens]
    waiting, live = list(runs), []
    while waiting or live:
        live += waiting[:1]
        del waiting[:1]
        step(model, [(run, min(run.left, int(rng.choice([1, 1, 3, 40])))) for run in live])
        live = [run for run in live if run.left]
    return [np.concatenate(run.rows) for run in runs]


@pytest.mark.parametrize("quantize", [None, "int8_absmax", "int4_absmean"])
@pytest.mark.parametrize("variant", ["qk_norm", "bitnet", "gemma3", "untied"])
def test_beside_others_a_sequence_gets_the_bits_it_gets_alone(isa, variant, quantize):
    model = Model(quantize=quantize, **VARIANTS[variant])
    tokens = sequences(1, 30, 7, 64, 2, 19)
    for got, alone in zip(together(model, tokens), tokens, strict=True):
        np.testing.assert_array_equal(got, model.alone(alone))


def test_same_bits_for_every_instruction_set_and_thread_count(monkeypatch):
    model = Model(quantize="int8_absmax", **VARIANTS["bitnet"])
    tokens, before, results = sequences(5, 40, 1, 17), cpu.threads(), []
    try:
        for isa in cpu.isas():
            monkeypatch.setenv("ONEBIT_ISA", isa)
            for threads in (1, 2):
                cpu.set_threads(threads)
                results.append(np.concatenate(together(model, tokens)))
    finally:
        cpu.set_threads(before)
    for result in results[1:]:
        np.testing.assert_array_equal(result, results[0])


def test_prompts_of_many_sequences_are_cut_into_chunks_that_do_not_show():
    model = Model(quantize="int8_absmax")
    tokens = sequences(300, 1, 130, 77)
    runs = [Run(model, t) for t in tokens]
    step(model, [(run, run.left) for run in runs])
    for run in runs:
        np.testing.assert_array_equal(run.rows[0], model.alone(run.tokens))


def test_logits_only_where_they_are_wanted():
    model = Model(quantize="int8_absmax")
    tokens = sequences(20, 3, 150, 1, 9)
    wanted = ["last", "all", "none", "last", "none"]
    caches = [model.decoder.new_cache(200, 16) for _ in tokens]
    got = model.decoder.step(caches, tokens, wanted)
    full = [model.alone(t) for t in tokens]
    expected = np.concatenate([full[0][-1:], full[1], full[3]])
    np.testing.assert_array_equal(got, expected)
    assert [cache.length for cache in caches] == [20, 3, 150, 1, 9]
    # the keys and values of those that wanted none are there all the same
    more = np.array([5], np.int32)
    after = model.decoder.step([caches[2], caches[4]], [more, more], ["last", "last"])
    for row, i in zip(after, (2, 4), strict=True):
        alone = model.alone(np.append(tokens[i], more))
        np.testing.assert_array_equal(row, alone[-1])


@pytest.mark.parametrize(
    ("second", "message"),
    [
        ([1, 61], "sequence 1: decoder: token id 61 at position 1 is outside 0 to 60"),
        ([1] * 5, "sequence 1: cache: 5 more tokens do not fit; it holds 4 of 8"),
        ([], "sequence 1: decoder: no tokens"),
    ],
)
def test_a_refused_sequence_leaves_all_caches_as_they_were(second, message):
    model = Model()
    caches = [model.decoder.new_cache(8, 16) for _ in range(2)]
    first = np.arange(4, dtype=np.int32)
    model.decoder.step(caches, [first, first], ["none", "none"])
    with pytest.raises(ValueError, match=message):
        model.decoder.step(caches, [first, np.array(second, np.int32)], ["last", "last"])
    assert [cache.length for cache in caches] == [4, 4]
    got = model.decoder.step(caches, [first[:1], first[:2]], ["last", "last"])
    alone = model.alone(np.append(first, first[:2]))
    np.testing.assert_array_equal(got, alone[4:])


def test_wrong_steps_are_refused():
    model, other = Model(), Model()
    decoder, one = model.decoder, np.array([1], np.int32)
    cache, foreign = decoder.new_cache(8, 16), other.decoder.new_cache(8, 16)
    for caches, message in (
        ([cache, foreign], "sequence 1: decoder: the cache belongs to another decoder"),
        ([cache, cache], "a cache appears twice"),
        ([cache, None], "sequence 1: decoder: None is no cache"),
    ):
        with pytest.raises(ValueError, match=message):
            decoder.step(caches, [one, one], ["last", "last"])
    with pytest.raises(ValueError, match="at least one sequence"):
        decoder.step([], [], [])
    with pytest.raises(ValueError, match="1 caches, 2 rows of tokens and 1 of logits"):
        decoder.step([cache], [one, one], ["last"])
    with pytest.raises(ValueError, match="accepted: last, all, none"):
        decoder.step([cache], [one], ["first"])
    with pytest.raises(ValueError, match="tokens_T has 2 dimensions"):
        decoder.step([cache], [one[None]], ["last"])
    assert (cache.length, foreign.length) == (0, 0)
