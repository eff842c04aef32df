"""The pages in docs/formats say what the code does: examples run, tables hold its numbers."""

import doctest
import re
from pathlib import Path

import pytest

from onebit.pack import FORMATS
from onebit.pack.ggml.block import BlockFormat

PAGES = Path(__file__).parents[2] / "docs" / "formats"


def page_of(name):
    return PAGES / ("ggml.md" if isinstance(FORMATS[name], BlockFormat) else f"{name}.md")


@pytest.mark.parametrize("page", sorted({page_of(name).name for name in FORMATS}))
def test_the_examples_on_the_page_run(page):
    results = doctest.testfile(str(PAGES / page), module_relative=False)
    assert results.attempted > 0
    assert results.failed == 0


def test_the_table_of_block_formats_is_the_codes():
    rows = re.findall(
        r"^\| `(\w+)` \| (\d+) \| (\d+) \| ([\d.]+) \| (\d+) \| .* \| (yes)? ?\|$",
        (PAGES / "ggml.md").read_text(),
        re.MULTILINE,
    )
    in_code = [
        (name, form.columns, form.block_bytes, form.groups, form.packs)
        for name, form in FORMATS.items()
        if isinstance(form, BlockFormat)
    ]
    on_page = [
        (name, int(columns), int(size), int(groups), bool(written))
        for name, columns, size, _, groups, written in rows
    ]
    assert on_page == in_code
    for _, columns, size, bits, _, _ in rows:
        assert float(bits) == 8 * int(size) / int(columns)


@pytest.mark.parametrize(
    "name", [name for name in FORMATS if not isinstance(FORMATS[name], BlockFormat)]
)
def test_the_size_on_the_page_is_the_codes(name):
    formula = re.search(r"^\| size \| (.*) bytes \|$", page_of(name).read_text(), re.MULTILINE)
    assert formula
    python = re.sub(r"ceil\(([\w *]+) / (\d)\)", r"-(-(\1) // \2)", formula[1]).replace(
        " / ", " // "
    )
    for N, K in [(1, 128), (5, 640), (8, 6912)]:
        assert FORMATS[name].size_bytes(N, K) == eval(python, {"N": N, "K": K})
