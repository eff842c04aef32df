"""Damaged models from file to text: each runs, or is refused in one line.

No crash, no hang, no memory out of proportion, and no exception of another kind. test_io_fuzz.py
does the same to the readers alone, many more times.
"""

import subprocess
import sys
from pathlib import Path

import pytest

from onebit import models

TRIES = 100
TIMEOUT_S = 120
FORMATS = ["t1_6.gguf", "tq2_0.gguf", "i2_s.gguf", "q8_0.gguf", "hf_2bit", "t1_6"]


TEMPLATE = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
TEXT = "It was the best of times, it was the worst of times. "


@pytest.fixture(scope="module")
def masters(save_tiny):
    sizes = {"hidden_size": 256, "intermediate_size": 256, "num_key_value_heads": 2}
    return save_tiny(TEXT, scheme="bitnet-b1.58", chat_template=TEMPLATE, head_dim=128, **sizes)


@pytest.mark.parametrize("name", FORMATS)
def test_a_damaged_model_runs_or_is_refused(masters, tmp_path, name):
    models.export(masters, tmp_path / name, name.removesuffix(".gguf"))
    hit(tmp_path / name)


@pytest.mark.parametrize("name", ["t1_6.gguf", "t1_6"])
def test_a_damaged_model_with_a_state_runs_or_is_refused(save_tiny, tmp_path, name):
    a = dict.fromkeys(("num_attention_heads", "num_key_value_heads", "head_dim"), 0)
    a |= {"model_type": "hgrn_bit", "tie_word_embeddings": False}
    masters = save_tiny(TEXT, scheme="matmulfree", chat_template=TEMPLATE, **a)
    models.export(masters, tmp_path / name)
    hit(tmp_path / name)


def hit(path):
    """Damage a model, again and again, in a process of its own."""
    worker = Path(__file__).with_name("damaged_models.py")
    done = subprocess.run(
        [sys.executable, "-X", "faulthandler", worker, path, "1", str(TRIES)],
        capture_output=True,
        text=True,
        check=False,
        timeout=TIMEOUT_S,
    )
    last = done.stdout.splitlines()[-1:]
    assert done.returncode == 0, f"{last}: {done.stderr[-2000:]}"
    refused = int(last[0].removeprefix("refused "))
    assert TRIES // 4 < refused < TRIES  # most of them hit something that matters
