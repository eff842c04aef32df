"""The cache of a decoder: rewound, and begun with the prefix of another, at every kv_bits."""

import numpy as np
import pytest

from onebit import Architecture
from onebit.kernels import cpu, ops
from onebit.scheme import KV_BITS
from onebit.tensors import linears, norms

SHAPE = Architecture(
    vocab_size=50,
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=24,
)
TOKENS = np.random.default_rng(1).integers(0, 50, 100).astype(np.int32)


def small_decoder(seed=0):
    rng = np.random.default_rng(seed)
    decoder = cpu.Decoder(SHAPE.native() | {"q_bits": 16})
    for linear in linears(SHAPE):
        values = rng.standard_normal((linear.N, linear.K), np.float32) / np.float32(linear.K**0.5)
        decoder.set_matrix(linear.name, ops.repack_floats(values))
    for name, size in norms(SHAPE):
        decoder.set_norm(name, np.ones(size, np.float32))
    decoder.finish()
    return decoder


@pytest.fixture(scope="module")
def decoder():
    return small_decoder()


def logits(decoder, kv_bits, tokens=TOKENS):
    return decoder.forward(tokens, decoder.new_cache(len(tokens), kv_bits), "all")


@pytest.mark.parametrize("kv_bits", KV_BITS)
@pytest.mark.parametrize("n", [0, 1, 15, 16, 37, 99])
def test_a_prefix_of_another_cache_is_as_good_as_computed(decoder, kv_bits, n):
    source = decoder.new_cache(120, kv_bits)
    decoder.forward(TOKENS, source, "none")
    cache = decoder.new_cache(100, kv_bits)
    decoder.forward(TOKENS[::-1][:50].copy(), cache, "none")  # to be overwritten
    cache.copy_prefix(source, n)
    assert (cache.length, cache.kv_bits) == (n, kv_bits)
    whole = logits(decoder, kv_bits)
    np.testing.assert_array_equal(decoder.forward(TOKENS[n:], cache, "all"), whole[n:])
    assert source.length == 100
    source.copy_prefix(source, n)
    np.testing.assert_array_equal(decoder.forward(TOKENS[n:], source, "all"), whole[n:])


@pytest.mark.parametrize("kv_bits", KV_BITS)
def test_what_was_forgotten_leaves_no_trace(decoder, kv_bits):
    whole = logits(decoder, kv_bits)
    cache = decoder.new_cache(100, kv_bits)
    decoder.forward(TOKENS[::-1].copy(), cache, "none")
    for length in (0, 7, 30):
        cache.length = length
        last = 100 if length == 30 else length + 40
        np.testing.assert_array_equal(
            decoder.forward(TOKENS[length:last], cache, "all"), whole[length:last]
        )


def test_fewer_bits_take_less_memory(decoder):
    sizes = [decoder.new_cache(512, kv_bits).size_bytes for kv_bits in KV_BITS]
    assert sizes == sorted(set(sizes), reverse=True)


def test_a_prefix_that_does_not_fit_is_refused(decoder):
    source = decoder.new_cache(40, 16)
    decoder.forward(TOKENS[:20], source, "none")
    cache = decoder.new_cache(10, 16)
    for other, n, message in (
        (source, 21, "20 that the other cache holds|the 10 that fit"),
        (source, 11, "a prefix of 11 tokens is more than the 10 that fit"),
        (source, -1, "cannot be negative"),
        (decoder.new_cache(10, 8), 0, "of 8 bits does not fit a cache of 16"),
        (small_decoder(1).new_cache(10, 16), 0, "belongs to another decoder"),
    ):
        with pytest.raises(ValueError, match=message):
            cache.copy_prefix(other, n)
    assert cache.length == 0
    with pytest.raises(ValueError, match="more than the 20 that the other cache holds"):
        decoder.new_cache(40, 16).copy_prefix(source, 21)
