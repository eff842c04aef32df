"""The code on docs/data.md runs as it stands, and its tables name what there is."""

import re
from pathlib import Path

import pytest

from onebit.data import bpe, corpus
from onebit.data.split import RULES
from onebit.errors import MissingError

PAGE = (Path(__file__).parents[2] / "docs" / "data.md").read_text("utf-8")


def test_code_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for block in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL):
        try:
            exec(block, names)
        except MissingError as error:
            pytest.skip(str(error))
    assert names["batch"].shape == (8, 129)
    assert (names["inputs"][:, 1:] == names["targets"][:, :-1]).all()


def test_tables_are_complete():
    for name in [*(f"package:{key}" for key in corpus.PACKAGES), *bpe.EXPRESSIONS]:
        assert f"`{name}`" in PAGE
    for rule in RULES:
        assert f"| `{rule}:" in PAGE
    for _, requirement, _ in corpus.PACKAGES.values():
        assert requirement in PAGE
