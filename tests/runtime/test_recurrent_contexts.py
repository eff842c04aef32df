"""A context of one token and one of 100,000, in a model with a recurrent state: the answers of
torch, which takes its recurrence token by token, and no memory for what was read."""

import os
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.runtime.conftest import RECURRENT, stir

from onebit import LLM, SCHEMES, Architecture, models
from onebit.nn import mlgru
from onebit.nn.recurrence import recurrence

LONG = 100_000
FORMS = {"code": {"num_hidden_layers": 2}, "paper": {"mlgru": "paper", "num_hidden_layers": 1}}
SHAPE = RECURRENT | {"vocab_size": 24, "hidden_size": 16, "intermediate_size": 16}


@pytest.fixture(params=FORMS)
def model(request, tmp_path, monkeypatch):
    """A float model in torch, with the recurrence by its definition; and its folder."""
    a = Architecture(**SHAPE | FORMS[request.param])
    model = stir(models.build(a, SCHEMES["fp"], seed=1).eval(), seed=2, factor=8)
    models.save(model, tmp_path / "model")
    monkeypatch.setattr(mlgru, "recurrence", partial(recurrence, form="sequential"))
    return model, tmp_path / "model"


def logits_of_torch(model, tokens):
    with torch.no_grad():
        return model(torch.tensor([tokens]))[0].numpy()


def assert_torchs(logits_TV, wanted_TV):
    np.testing.assert_allclose(logits_TV, wanted_TV, rtol=0, atol=1e-4 * np.abs(wanted_TV).max())


def test_a_context_of_one_token_is_torchs(model):
    model, folder = model
    with LLM(folder, threads=1) as llm:
        for token in (0, 23):
            assert_torchs(llm.logits([token]), logits_of_torch(model, [token]))
        answer = list(llm.generate([5], max_tokens=6).token_ids)
    wanted_TV = logits_of_torch(model, [5, *answer])
    assert answer == wanted_TV[:-1].argmax(axis=1).tolist()


def test_a_context_of_100_000_tokens_is_torchs(model):
    model, folder = model
    prompt = np.random.default_rng(3).integers(0, 24, LONG).tolist()
    with LLM(folder, threads=1) as llm:
        answer = llm.generate(prompt, max_tokens=4)
        wanted_TV = logits_of_torch(model, [*prompt, *answer.token_ids])
        assert list(answer.token_ids) == wanted_TV[LONG - 1 : -1].argmax(axis=1).tolist()
        llm.forget()
        assert_torchs(llm.logits_after(prompt)[0], wanted_TV[LONG - 1])
        whole_TV = llm.logits(prompt[: LONG // 4])  # an error that grows would show by then
    assert_torchs(whole_TV, wanted_TV[: LONG // 4])


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_long_context_takes_no_memory(model):
    def resident_bytes():
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")

    _, folder = model
    text = np.random.default_rng(4).integers(0, 24, LONG).astype(np.int32)
    with LLM(folder, threads=1) as llm:
        state = llm.decoder.new_cache(1, 16)
        size = state.size_bytes
        llm.decoder.forward(text[:1000], state, "none")
        before = resident_bytes()
        for start in range(1000, LONG, 1000):
            llm.decoder.forward(text[start : start + 1000], state, "none")
        grown = resident_bytes() - before
    assert (state.length, state.size_bytes) == (LONG, size)
    assert grown < 1 << 20  # floats for keys and values of one layer would be 12.8 MB
