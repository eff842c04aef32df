"""The pages on methods: what they show in Python comes out as they say."""

import doctest
from pathlib import Path

import pytest

from onebit import ptq

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
        "rtn",
        "gptq",
        "awq",
        "smoothquant",
        "quarot",
        "spinquant",
    ],
)
def test_examples(page):
    failed, tried = doctest.testfile(str(PAGES / f"{page}.md"), module_relative=False)
    assert tried > 0
    assert failed == 0


def test_every_method_after_training_has_its_page():
    pages = "\n".join(f.read_text(encoding="utf-8") for f in PAGES.glob("*.md"))
    assert [name for name in ptq.METHODS if f"`onebit/ptq/{name}.py`" not in pages] == []
