"""A text of a few kilobytes, for tables of trained models."""

import random

import pytest

TEXT = "the people of this union ask the congress for peace and a good year of work"


@pytest.fixture
def text_folder(tmp_path):
    """Return a folder of eight files."""
    chance = random.Random(0)
    (tmp_path / "text").mkdir()
    for number in range(8):
        words = " ".join(chance.choices(TEXT.split(), k=120))
        (tmp_path / "text" / f"{number}.txt").write_text(f"{words}.")
    return str(tmp_path / "text")
