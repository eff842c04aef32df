"""Damaged files, through to the engine: each runs, or is refused in one line; nothing crashes.

`tests/io/test_io_fuzz.py` damages what is read; here what was read becomes a decoder that runs.
"""

import shutil

import numpy as np
import pytest

from onebit import LLM, SCHEMES, models
from onebit.errors import OnebitError
from onebit.io import gguf

ROUNDS = 500  # of each of four files


@pytest.fixture(scope="module")
def forms(tmp_path_factory, architecture, tokenizer):
    """A small ternary model as one GGUF file, and as Hugging Face's packed folder."""
    folder = tmp_path_factory.mktemp("whole")
    model = models.build(architecture(num_hidden_layers=1), SCHEMES["bitnet-b1.58"], seed=2)
    models.save(model, folder / "masters", tokenizer)
    models.export(folder / "masters", folder / "m.gguf", "t1_6")
    models.export(folder / "masters", folder / "hf", "hf_2bit")
    return folder


def damaged(raw, head, rng):
    """Return a file cut off, with flipped bits, or with a piece of itself in another place."""
    kind = rng.integers(0, 8)
    if kind == 0:
        return raw[: rng.integers(0, len(raw))]
    if kind < 5:
        changed = bytearray(raw)
        for _ in range(rng.integers(1, 5)):
            changed[rng.integers(0, head)] ^= 1 << rng.integers(0, 8)
        return bytes(changed)
    to, start, length = rng.integers(0, head, 3)
    piece = raw[start : start + length % 40]
    return raw[:to] + piece + raw[to + len(piece) :]


def runs_or_is_refused(path):
    """Whether the model runs; anything but an OnebitError of one line fails the test."""
    refusal = ""
    try:
        with LLM(path, threads=1, context=32) as llm:
            llm.generate([1, 2, 3], max_tokens=2)
            llm.generate("It was", max_tokens=2)
    except OnebitError as error:
        refusal = str(error)
    assert "\n" not in refusal
    assert len(refusal) < 1000 + len(str(path))
    return not refusal


def test_gguf(forms, tmp_path):
    raw = (forms / "m.gguf").read_bytes()
    head = min(tensor.offset for tensor in gguf.Reader(forms / "m.gguf").tensors.values())
    rng, path, ran = np.random.default_rng(0), tmp_path / "m.gguf", 0
    for _ in range(ROUNDS):
        path.write_bytes(damaged(raw, head if rng.integers(0, 4) else len(raw), rng))
        ran += runs_or_is_refused(path)
    assert 0 < ran < ROUNDS / 2


@pytest.mark.parametrize("file", ["model.safetensors", "config.json", "tokenizer.json"])
def test_folder(forms, tmp_path, file):
    folder = shutil.copytree(forms / "hf", tmp_path / "hf")
    raw = (folder / file).read_bytes()
    head = raw.index(b"}}") if file.endswith(".safetensors") else len(raw)
    rng, ran = np.random.default_rng(1), 0
    for _ in range(ROUNDS):
        (folder / file).write_bytes(damaged(raw, head, rng))
        ran += runs_or_is_refused(folder)
    assert 0 < ran < ROUNDS / 2
