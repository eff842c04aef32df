"""The examples run as they stand and say what they promise. (The demo is run by `make demo`.)"""

import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"

# what the output must hold
PROMISES = {
    "layer.py": "codes [-1, 0, 1]",
    "pack.py": "1.6000 bits a weight",
    "quantize.py": "on_grid keeps the scale: True",
    "run.py": "torch loaded: False",
    "train.py": "that Jack built.",
}


def test_every_example_is_run():
    assert {f.name for f in EXAMPLES.glob("*.py")} == {*PROMISES, "demo.py"}


@pytest.mark.parametrize("name", PROMISES)
def test_example(name):
    done = subprocess.run(
        [sys.executable, EXAMPLES / name], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert PROMISES[name] in done.stdout
