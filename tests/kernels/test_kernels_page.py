"""docs/kernels.md says what the code does: its example runs, its tables are complete."""

import doctest
import re
from pathlib import Path

import numpy as np
import pytest

from onebit.kernels import ops
from onebit.pack import FORMATS

PAGE = Path(__file__).parents[2] / "docs" / "kernels.md"
ROWS = dict(re.findall(r"^\| ([\w, ]+) \| `(\w+)` \|$", PAGE.read_text("utf-8"), re.MULTILINE))
LAYOUT_OF = {name: layout for names, layout in ROWS.items() for name in names.split(", ")}


def test_the_example_runs():
    assert doctest.testfile(str(PAGE), module_relative=False).failed == 0


def test_every_format_has_its_layout():
    assert set(LAYOUT_OF) == set(FORMATS)


@pytest.mark.parametrize("name", FORMATS)
def test_codes_of_a_format_take_the_layout_that_is_named(name):
    least, greatest = FORMATS[name].codes
    codes = np.arange(least, greatest + 1, dtype=np.int8)
    if name in ("b1", "q1_0"):
        codes = codes[codes != 0]
    assert ops.layout_of(codes[None]) == LAYOUT_OF[name]


def test_every_instruction_set_is_named():
    named = re.findall(
        r"^\| `(\w+)` \| .* \| `csrc/(\w+)\.cpp` \|$", PAGE.read_text(), re.MULTILINE
    )
    assert all(isa == file for isa, file in named)
    assert {isa for isa, _ in named} >= set(ops.isas())
