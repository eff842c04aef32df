"""Random MatMul-free models in the published shapes: what they weigh, that engine and torch read
the file alike, and the transformer of equal size beside them."""

import numpy as np
import pytest
import torch

from onebit import LLM, SCHEMES, models
from onebit.analyze.verify import verify
from onebit.errors import OptionError
from onebit.eval import shapes
from onebit.eval.random_model import model_of_shape, random_model
from onebit.eval.speed import check

TINY = shapes.SHAPES["matmulfree-tiny"]
SCHEME = SCHEMES["matmulfree"]
PUBLISHED = {
    "matmulfree-370m": (24, 1024, 2816, 308_281_344),
    "matmulfree-1.3b": (24, 2048, 5632, 1_233_125_376),
    "matmulfree-2.7b": (32, 2560, 6912, 2_537_553_920),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_matmulfree_shapes_are_the_published_ones(name):
    layers, hidden, width, weights = PUBLISHED[name]
    shape = shapes.find(name)
    assert (shape.num_hidden_layers, shape.hidden_size, shape.intermediate_size) == (
        layers,
        hidden,
        width,
    )
    assert (shape.vocab_size, shape.recurrent, shape.tie_word_embeddings) == (32000, True, False)
    assert shapes.body_weights(shape) == weights
    twin = shapes.transformer_twin(shape)
    assert shapes.body_weights(twin) == weights
    assert not twin.recurrent


def test_the_ternary_body_of_2_7b_is_under_600_mb():
    shape = shapes.find("matmulfree-2.7b")
    body = sum(shapes.matrix_bytes(linear, "t1_6") for linear in shapes.body(shape))
    assert body == 507_560_704  # a byte for five weights of a row, a scale for each matrix
    whole = shapes.tensor_bytes(shape, "t1_6", "q6_k", SCHEME)
    norms = 4 * 2560 * (32 * (3 + 5 + 1) + 2) + 4 * 6912 * 32  # 9 are of the width: bounds as well
    embedding, head = 32000 * 2560 * 210 // 256, 32000 * 2560 // 5 + 4
    assert whole == body + norms + embedding + head


def test_a_random_matmulfree_model_is_what_it_claims(tmp_path):
    path = tmp_path / "model.gguf"
    random_model(path, TINY, "t1_6", "q8_0", scheme=SCHEME)
    size = shapes.tensor_bytes(TINY, "t1_6", "q8_0", SCHEME)
    assert size <= path.stat().st_size < size + 8192
    report = verify(path)
    assert report.ok, [t.findings for t in report.tensors if not t.ok] + list(report.findings)
    with LLM(path, threads=1) as llm:
        check(llm)  # whole, token by token and in a batch alike
        logits_TV = llm.logits(list(range(64)))
    assert 1.5 < np.std(logits_TV) < 3.5
    with torch.no_grad():
        wanted_TV = models.load(path).eval()(torch.arange(64)[None])[0].float().numpy()
    error_T = np.abs(logits_TV - wanted_TV).max(axis=1) / wanted_TV.std()
    assert error_T[:4].max() < 1e-4  # until an input between two codes is rounded the other way
    assert error_T.mean() < 0.05


def test_matmulfree_is_the_scheme_of_its_shapes(tmp_path):
    assert model_of_shape(tmp_path / "a", "matmulfree-tiny") == "matmulfree-tiny tq2_0 q6_k"
    assert model_of_shape(tmp_path / "a", "matmulfree-tiny") == "matmulfree-tiny tq2_0 q6_k"
    own = model_of_shape(tmp_path / "b", "matmulfree-tiny", scheme="bitnet-b1.58")
    assert own == "matmulfree-tiny bitnet-b1.58 tq2_0 q6_k"
    with pytest.raises(OptionError, match="is another model than matmulfree-tiny tq2_0 q6_k"):
        model_of_shape(tmp_path / "b", "matmulfree-tiny")
    with pytest.raises(OptionError, match=r"llama\.cpp runs none of scheme matmulfree"):
        model_of_shape(tmp_path / "c", "matmulfree-tiny", llama=True)
    with pytest.raises(OptionError, match=r"llama\.cpp runs no MatMul-free model"):
        model_of_shape(tmp_path / "c", "matmulfree-tiny", llama=True, scheme="bitnet-b1.58")


def test_a_twin_wants_heads_that_divide_its_width():
    with pytest.raises(OptionError, match="Heads of 96 do not divide a width of 256"):
        shapes.transformer_twin(TINY, 96)
