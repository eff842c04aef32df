"""What opening a model does not need, it does not load."""

import subprocess
import sys

import pytest

from onebit import LLM
from onebit.errors import FormatError, OnebitError


def test_token_ids_run_without_the_libraries_of_text(tiny):
    code = f"""
import sys
from onebit import LLM
with LLM({str(tiny)!r}) as llm:
    llm.logits_after([1])
slow = ("tokenizers", "jinja2", "torch", "rich", "safetensors", "importlib.metadata", "json.tool")
print([name for name in slow if name in sys.modules])
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120
    )
    assert done.stdout.strip() == "[]"


def test_a_damaged_tokenizer_is_told_when_text_is_asked_for(tiny, tmp_path):
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_bytes((tiny / name).read_bytes())
    (tmp_path / "tokenizer.json").write_text('{"model": {}}')
    with LLM(tmp_path) as llm:
        assert len(llm.logits([1, 2])) == 2
        for _ in range(2):
            with pytest.raises(FormatError) as caught:
                llm.generate("text")
            assert "\n" not in str(caught.value)
        with pytest.raises(OnebitError):
            llm.generate([1, 2])  # whose answer has a text too
