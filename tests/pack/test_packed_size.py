"""A ternary model of 2.7 billion parameters takes less than 600 MB: the sum, tensor by tensor.

docs/formats/t1_6.md shows the same sums.
"""

from math import prod

import numpy as np
import pytest

from onebit.pack import FORMATS, Unpacked

LAYERS, HIDDEN, INNER, VOCAB = 32, 2560, 6912, 32_000
SCALE_BYTES = 4  # float32, one per tensor
TOKENIZER_BYTES = 1_000_000  # 32,000 entries with scores: well under this


def size(tensors):
    """Bytes and parameters of [(count, format, shape)]; vectors are float32."""
    total = parameters = 0
    for count, form, shape in tensors:
        if form == "f32":
            one = 4 * prod(shape)
        else:
            one = FORMATS[form].size_bytes(*shape)
            one += 0 if FORMATS[form].scale_inside else SCALE_BYTES
        total += count * one
        parameters += count * prod(shape)
    return total, parameters


def matmulfree(embedding):
    """i, f, g and o; gate and up in one matrix; down; a norm in each of these six. Ternary head."""
    return [
        (4 * LAYERS, "t1_6", (HIDDEN, HIDDEN)),
        (LAYERS, "t1_6", (2 * INNER, HIDDEN)),
        (LAYERS, "t1_6", (HIDDEN, INNER)),
        (1, "t1_6", (VOCAB, HIDDEN)),
        (1, embedding, (VOCAB, HIDDEN)),
        # norms: in i, f, g, o and gate; two of the block and that of g; in down
        (8 * LAYERS, "f32", (HIDDEN,)),
        (LAYERS, "f32", (INNER,)),
        (LAYERS, "f32", (HIDDEN,)),  # lower bounds
        (2, "f32", (HIDDEN,)),  # the last norm and that in the head
    ]


def bitnet(embedding):
    """q, k, v, o; gate, up, down; sub-norms; the head is the embedding."""
    return [
        (4 * LAYERS, "t1_6", (HIDDEN, HIDDEN)),
        (2 * LAYERS, "t1_6", (INNER, HIDDEN)),
        (LAYERS, "t1_6", (HIDDEN, INNER)),
        (1, embedding, (VOCAB, HIDDEN)),
        (3 * LAYERS + 1, "f32", (HIDDEN,)),
        (LAYERS, "f32", (INNER,)),
    ]


@pytest.mark.parametrize(
    ("model", "embedding", "parameters", "wanted"),
    [
        (matmulfree, "q6_k", 2_702_357_504, 594_999_044),
        (matmulfree, "i4", 2_702_357_504, 568_759_048),
        (bitnet, "q6_k", 2_619_943_424, 576_638_848),
        (bitnet, "i4", 2_619_943_424, 550_398_852),
    ],
)
def test_2_7_billion_parameters_under_600_megabytes(model, embedding, parameters, wanted):
    total, counted = size(model(embedding))
    assert counted == parameters
    assert total == wanted
    assert total + TOKENIZER_BYTES < 600_000_000


def test_the_size_that_is_claimed_is_the_size_that_is_packed():
    rng = np.random.default_rng(0)
    for N, K in [(HIDDEN // 8, HIDDEN), (HIDDEN // 8, INNER)]:
        codes_NK = rng.integers(-1, 2, (N, K)).astype(np.int8)
        packed = FORMATS["t1_6"].pack(Unpacked(codes_NK, np.ones((N, 1), np.float32)))
        assert 8 * packed.nbytes == FORMATS["t1_6"].size_bytes(8 * N, K)
