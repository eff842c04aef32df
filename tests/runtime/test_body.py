"""Ternary weights at 2 or 1.6 bits in memory: the same numbers; and memory that is given back."""

import mmap
import time
from pathlib import Path

import numpy as np
import pytest

from onebit import LLM
from onebit.errors import OptionError
from onebit.io import mapped
from onebit.kernels import ops
from onebit.runtime import load


@pytest.fixture(scope="module", params=["t1_6", "tq2_0"])
def ternary(request, tmp_path_factory, architecture, tokenizer):
    from onebit import SCHEMES, models

    sizes = {"hidden_size": 256, "intermediate_size": 512, "head_dim": 64}
    folder = tmp_path_factory.mktemp("ternary")
    model = models.build(architecture(**sizes), SCHEMES["bitnet-b1.58"], seed=1)
    models.save(model, folder / "masters", tokenizer)
    path = folder / f"{request.param}.gguf"
    models.export(folder / "masters", path, request.param, embed="f16")
    return path


def test_both_layouts_give_the_same_bits(ternary, isa):
    tokens = [1, 2, 3, 250, 7]
    with LLM(ternary, body="t2") as wide, LLM(ternary, body="t1_6") as narrow:
        assert (wide.body, narrow.body) == ("t2", "t1_6")
        assert narrow.size_bytes < wide.size_bytes
        np.testing.assert_array_equal(narrow.logits(tokens), wide.logits(tokens))
        one, two = (llm.generate(tokens, max_tokens=9) for llm in (narrow, wide))
        assert one.token_ids == two.token_ids


def test_a_small_model_is_not_measured(ternary, monkeypatch):
    monkeypatch.setattr(ops, "faster_ternary", lambda data: pytest.fail("it was measured"))
    with LLM(ternary) as llm:
        assert llm.body == "t2"


@pytest.mark.parametrize("faster", ["t2", "t1_6"])
def test_what_is_faster_is_taken(ternary, monkeypatch, faster):
    sizes = []
    monkeypatch.setattr(load, "SMALL_BODY_BYTES", 0)
    monkeypatch.setattr(ops, "faster_ternary", lambda data: sizes.append(data.size) or faster)
    with LLM(ternary) as llm:
        assert llm.body == faster
    assert sizes == [ternary.stat().st_size]  # once, on the whole file


def test_other_words_are_refused(ternary):
    with pytest.raises(OptionError, match="body is 't3'; accepted: auto, t2, t1_6"):
        LLM(ternary, body="t3")


def test_the_measurement_is_short_and_takes_any_bytes(isa):
    data = np.random.default_rng(0).integers(0, 256, (64 << 20) + 5, dtype=np.uint8)
    assert ops.faster_ternary(data[5:]) in ("t2", "t1_6")
    assert ops.faster_ternary(data[:1000]) == "t2"


def test_settling_changes_no_weight(monkeypatch):
    """64 MB of weights are moved to large pages while they are read."""
    monkeypatch.setattr(ops, "_SETTLE_DELAY_S", 0.0)
    data = np.random.default_rng(0).integers(0, 256, 34 * 2048 * 1000, dtype=np.uint8)
    blocks = data.reshape(-1, 34)
    blocks[:, :2] = np.array([0.5], "<f2").view(np.uint8)
    shape = (2048, 32_000)
    matrices = [ops.repack_stored("q8_0", data, shape)]
    ops.settle_weights()
    row = np.array([0, 1000, 2047], np.int32)
    wanted = blocks.reshape(2048, 1000, 34)[row][:, :, 2:].view(np.int8).reshape(3, -1) * 0.5
    end = time.monotonic() + 1
    while time.monotonic() < end:
        np.testing.assert_array_equal(matrices[0].rows(row), wanted)
    ops.settle_weights()  # nothing is left to do
    matrices.append(ops.repack_stored("q8_0", data, shape))
    ops.settle_weights()
    del matrices[:]  # while it is being settled


def resident_of(path):
    """The resident bytes of a file's mapping in this process."""
    total, inside = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if "-" in line.split(" ")[0]:
            inside = line.endswith(str(path))
        elif inside and line.startswith("Rss:"):
            total += int(line.split()[1]) * 1024
    return total


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="needs /proc")
def test_pages_of_a_file_are_given_back(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(bytes(range(256)) * 4096)
    data = mapped.map_file(path)
    part = data[5000:900_000][100:]
    assert mapped.whole(part) is data
    mapped.read_ahead(part)
    assert part.sum() > 0
    assert resident_of(path) > 800_000
    mapped.drop(part)
    assert resident_of(path) < 200_000
    assert part[:10].tolist() == [(5100 + i) % 256 for i in range(10)]  # as before


def test_what_is_no_file_is_left_alone():
    data = np.arange(20_000, dtype=np.uint8)
    mapped.drop(data[3:])
    mapped.read_ahead(data)
    assert data[3:6].tolist() == [3, 4, 5]
    anonymous = mmap.mmap(-1, 8192)
    anonymous[:] = b"x" * 8192
    mapped.drop(np.frombuffer(bytes(anonymous), np.uint8))
    assert anonymous[:1] == b"x"
