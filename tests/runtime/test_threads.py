"""Several Python threads that use one model or one batch, and processes that inherit them."""

import os
import sys
import threading

import pytest

from onebit import LLM, Batch

PROMPTS = [[i, 7, i] * (2 + 5 * i) for i in range(6)]
OPTIONS = {"max_tokens": 12, "draft": 2}


@pytest.fixture(autouse=True)
def often():
    """Threads change places at nearly every step of the interpreter."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


def in_threads(work, arguments):
    """Call `work` with each argument, all at once; return the results in order."""
    results = [None] * len(arguments)

    def run(i):
        results[i] = work(arguments[i])

    threads = [threading.Thread(target=run, args=(i,)) for i in range(len(arguments))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def test_generations_of_several_threads_take_turns(llm):
    expected = [llm.generate(p, **OPTIONS).token_ids for p in PROMPTS]

    def work(prompt):
        return [llm.generate(prompt, **OPTIONS).token_ids for _ in range(5)]

    assert in_threads(work, PROMPTS) == [[tokens] * 5 for tokens in expected]


def test_scores_are_not_disturbed(llm):
    """A sequence that is scored piece by piece is one turn."""
    tokens = [i * 7 % 300 for i in range(120)]
    expected = llm.logprobs(tokens).tolist()

    def work(prompt):
        llm.generate(prompt, **OPTIONS)
        return llm.logprobs(tokens).tolist()

    assert in_threads(work, PROMPTS) == [expected] * len(PROMPTS)


def test_a_batch_is_shared(llm):
    expected = [llm.generate(p, **OPTIONS).token_ids for p in PROMPTS]
    with Batch(llm, sequences=3, prompt_tokens=10) as batch:

        def work(prompt):
            batch.add(prompt, **OPTIONS).cancel()
            for _ in batch.add([5] * 30, max_tokens=3):
                pass
            return batch.generate([prompt], **OPTIONS)[0].token_ids

        for _ in range(3):
            assert in_threads(work, PROMPTS) == expected
        assert not batch.busy


@pytest.mark.skipif(not hasattr(os, "fork"), reason="has no fork")
def test_a_child_process_goes_on_with_the_model(tiny):
    with LLM(tiny, threads=3) as llm:
        expected = llm.generate(PROMPTS[3], **OPTIONS).token_ids
        for _ in range(3):
            child = os.fork()
            if not child:
                alike = llm.generate(PROMPTS[3], **OPTIONS).token_ids == expected
                os._exit(0 if alike else 1)
            assert os.waitpid(child, 0)[1] == 0
        assert llm.generate(PROMPTS[3], **OPTIONS).token_ids == expected
