"""Memory after thousands of short generations is what it was after the first hundreds."""

import gc
import os
import sys
from pathlib import Path

import pytest

from onebit import LLM, Batch

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
SLACK_BYTES = 4 << 20
"""What allocators may do; a cache of this model takes 64 KiB, 10,000 lists of a token 1 MB."""


def resident_bytes():
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def grown(work, rounds):
    """Return by how much memory grew over `rounds` calls, after a fifth as many to warm up."""
    for i in range(rounds // 5):
        work(i)
    before = resident_bytes()
    for i in range(rounds):
        work(i)
    return resident_bytes() - before


def test_generations(llm):
    options = [{}, {"temperature": 1.0, "seed": 1}, {"draft": 4}, {"stop": ["zz"], "logprobs": 1}]

    def generate(i):
        llm.generate([i % 300, i // 300], max_tokens=2, **options[i % 4])

    assert grown(generate, 10_000) < SLACK_BYTES


def test_generations_in_batches(llm):
    with Batch(llm, sequences=8) as batch:

        def generate(i):
            prompts = [[i % 300, j, i // 300] for j in range(10)]
            batch.generate(prompts, max_tokens=2, draft=i % 2)
            batch.add([i % 300] * 20, max_tokens=9)
            batch.step()
            for request in list(batch._requests):
                request.cancel()

        assert grown(generate, 1000) < SLACK_BYTES


def test_streams_that_are_left_unfinished(llm):
    def leave(i):
        next(llm.stream([i % 300, 7], max_tokens=50, draft=i % 2), None)

    assert grown(leave, 2000) < SLACK_BYTES


def test_models_and_batches_that_are_opened_and_closed(tiny):
    def use(i):
        with LLM(tiny, threads=1) as llm, Batch(llm, sequences=2) as batch:
            batch.generate([[5], [6]], max_tokens=2)

    assert grown(use, 60) < SLACK_BYTES
