"""The Python of the README and of docs/run.md runs as it stands; the README's commands exist."""

import re
from pathlib import Path

import pytest

from onebit.cli import COMMANDS

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
RUN = (ROOT / "docs/run.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", README + RUN, flags=re.S)


@pytest.mark.slow
@pytest.mark.parametrize("code", BLOCKS, ids=range(len(BLOCKS)))
def test_python_runs(code, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "README.md", "exec"), {})


def test_commands_exist():
    named = set(re.findall(r"^\s*(?:\$ )?onebit (\w+)", README, flags=re.M))
    assert named
    assert named <= set(COMMANDS)
