"""The pages on methods: what they show in Python comes out as they say."""

import doctest
from pathlib import Path

import pytest

PAGES = Path(__file__).parents[2] / "docs" / "methods"


@pytest.mark.parametrize(
    "page",
    [
        "ternary",
        "binary",
        "integer",
        "blockwise",
        "activation",
        "hadamard",
        "kv_cache",
        "qat",
        "clipping",
        "k-quants",
        "ternary-ptq",
        "hqq",
        "mixed-precision",
        "gptq",
    ],
)
def test_examples(page):
    failed, tried = doctest.testfile(str(PAGES / f"{page}.md"), module_relative=False)
    assert tried > 0
    assert failed == 0
