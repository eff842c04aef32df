"""A model with a recurrent state in the LLM and in a batch: the answers of the same model computed
from scratch, whatever is reused; no limit of context by memory; and what a state cannot do."""

import itertools

import numpy as np
import pytest
import torch
from tests.runtime.conftest import RECURRENT, stir

from onebit import LLM, SCHEMES, Architecture, Batch, models
from onebit.architecture import NO_LIMIT
from onebit.errors import OnebitError, OptionError
from onebit.eval import perplexity, speed
from onebit.runtime.state import StateSequence

SHAPE = RECURRENT | {
    "vocab_size": 90,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
}
FORMS = {"code": {}, "unbounded": {"lower_bounds": False}, "paper": {"mlgru": "paper"}}
TEXT = [5, 6, 7, 8, 9, 5, 6, 7, 8, 30, 5, 6, 7, 8, 9, 5, 6]


def saved(folder, scheme="fp", **changes):
    """Save a model whose every parameter matters; return it."""
    model = models.build(Architecture(**SHAPE | changes), SCHEMES[scheme], seed=3).eval()
    models.save(stir(model, seed=4, factor=6), folder)
    return model


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("recurrent") / "model"
    saved(folder)
    return folder


@pytest.fixture
def llm(folder):
    with LLM(folder, threads=1) as opened:
        yield opened


@pytest.fixture(scope="module")
def naive(folder):
    """A function that continues a text greedily, every token computed from scratch."""
    known = {}

    def continued(tokens, count):
        tokens = list(tokens)
        with LLM(folder, threads=1) as llm:
            for _ in range(count):
                key = tuple(tokens)
                if key not in known:
                    known[key] = int(llm.logits(tokens)[-1].argmax())
                tokens.append(known[key])
        return tuple(tokens[-count:])

    return continued


@pytest.fixture
def drafts(monkeypatch):
    """Every guess is drafted whole."""
    monkeypatch.setattr("onebit.runtime.draft.WORTH_A_TRY", 0.0)


@pytest.mark.parametrize("form", FORMS)
def test_logits_are_those_of_torch(tmp_path, form):
    model = saved(tmp_path / "model", **FORMS[form])
    tokens = np.random.default_rng(0).integers(0, 90, 40).tolist()
    with LLM(tmp_path / "model", threads=1) as llm, torch.no_grad():
        logits_TV = llm.logits(tokens)
        wanted_TV = model(torch.tensor([tokens]))[0].numpy()
    np.testing.assert_allclose(logits_TV, wanted_TV, rtol=0, atol=2e-4 * np.abs(wanted_TV).max())
    np.testing.assert_array_equal(logits_TV.argmax(1), wanted_TV.argmax(1))


@pytest.mark.usefixtures("drafts")
@pytest.mark.parametrize("scheme", ["fp", "matmulfree"])
@pytest.mark.parametrize("form", FORMS)
def test_tokens_are_those_of_torch(tmp_path, form, scheme):
    """Alone and in batches, with drafts and without, from scratch and behind what is held."""
    model = saved(tmp_path / "model", scheme, **FORMS[form])
    path = tmp_path / "model"
    if scheme != "fp":
        path = tmp_path / "packed"
        models.export(tmp_path / "model", path, "t1_6", embed="f32")

    def greedy(tokens, count):
        tokens = list(tokens)
        for _ in range(count):
            with torch.no_grad():
                tokens.append(int(model(torch.tensor([tokens]))[0, -1].argmax()))
        return tuple(tokens[-count:])

    prompts = [TEXT, TEXT[:5], [*TEXT[:5], 40, 41], [1]]
    wanted = [greedy(prompt, 8) for prompt in prompts]
    longer = [*prompts[-1], *wanted[-1], 11]
    after = greedy(longer, 6)
    with LLM(path, threads=1) as llm:
        for draft in (0, 4):
            answers = [llm.generate(prompt, max_tokens=8, draft=draft) for prompt in prompts]
            assert [answer.token_ids for answer in answers] == wanted
            answer = llm.generate(longer, max_tokens=6, draft=draft)
            assert answer.timing.reused_tokens > 0
            assert answer.token_ids == after
            with Batch(llm, sequences=3, prompt_tokens=20) as batch:
                answers = batch.generate(prompts, max_tokens=8, draft=draft)
                assert [answer.token_ids for answer in answers] == wanted
                [answer] = batch.generate([longer], max_tokens=6, draft=draft)
                assert answer.token_ids == after


def test_an_answer_is_that_of_the_model_computed_from_scratch(llm, naive):
    assert llm.generate(TEXT, max_tokens=20).token_ids == naive(TEXT, 20)
    speed.check(llm)


@pytest.mark.usefixtures("drafts")
@pytest.mark.parametrize("draft", [1, 3, 8])
def test_drafts_change_nothing(llm, naive, draft):
    answer = llm.generate(TEXT, max_tokens=30, draft=draft)
    assert answer.token_ids == naive(TEXT, 30)
    assert answer.timing.drafted_tokens > answer.timing.accepted_tokens
    again = llm.generate([*TEXT, *answer.token_ids, 3], max_tokens=5)
    assert again.token_ids == naive([*TEXT, *answer.token_ids, 3], 5)


@pytest.mark.usefixtures("drafts")
def test_a_batch_gives_what_each_prompt_gives_alone(llm, naive):
    prompts = [TEXT, TEXT[:5], TEXT * 9, [*TEXT[:5], 40, 41], [1]]
    for most, draft in itertools.product((1, 2, 5), (0, 4)):
        with Batch(llm, sequences=most, prompt_tokens=20) as batch:
            answers = batch.generate(prompts, max_tokens=12, draft=draft)
            assert [a.token_ids for a in answers] == [naive(prompt, 12) for prompt in prompts]


def test_a_text_that_goes_on_with_the_whole_state_is_not_computed_again(llm, naive):
    first = llm.generate(TEXT, max_tokens=6)
    whole = [*TEXT, *first.token_ids]
    longer = llm.generate([*whole, 11, 12], max_tokens=6)
    assert longer.timing.reused_tokens == len(whole) - 1
    assert longer.token_ids == naive([*whole, 11, 12], 6)
    other = llm.generate([*whole[:-3], 13], max_tokens=6)  # from the middle of what is held
    assert other.timing.reused_tokens == 0
    assert other.token_ids == naive([*whole[:-3], 13], 6)


def test_the_pool_lends_whole_states_only(llm, naive):
    with Batch(llm, sequences=3) as batch:
        [first] = batch.generate([TEXT], max_tokens=4)
        whole = [*TEXT, *first.token_ids]
        answers = batch.generate([[*whole, 11], [*whole, 12], TEXT[:9]], max_tokens=4)
        assert [a.token_ids for a in answers] == [
            naive([*whole, 11], 4),
            naive([*whole, 12], 4),
            naive(TEXT[:9], 4),
        ]
        assert max(a.timing.reused_tokens for a in answers) == len(whole) - 1
        assert answers[2].timing.reused_tokens == 0


@pytest.fixture
def computed(monkeypatch):
    """The number of tokens of each native call."""
    seen = []
    forward = StateSequence._forward
    monkeypatch.setattr(
        StateSequence,
        "_forward",
        lambda self, tokens, logits: seen.append(len(tokens)) or forward(self, tokens, logits),
    )
    return seen


@pytest.mark.parametrize(
    ("options", "most"),
    {
        "of one token": ([[3], [4], [5], [4]], 17),
        "of two": ([[3, 4], [5, 6], [5, 7], [3, 4]], 16 + 4 * 2),  # the text's last and the first
        "one, then more": ([[3], [4, 5], [6, 7, 8], [9]], 17 + 0 + 1 + 2 + 0),
        "more, then one": ([[4, 5], [3], [6, 7], [9]], 16 + 2 + 1 + 1 + 0),
    }.values(),
)
def test_continuations_of_one_text_compute_it_once(folder, llm, computed, options, most):
    with LLM(folder, threads=1) as other:
        wanted = [other.logprobs([*TEXT, *then])[-len(then) :] for then in options]
    computed.clear()
    for then, logprobs in zip(options, wanted, strict=True):
        np.testing.assert_array_equal(llm.logprobs_after(TEXT, then), logprobs)
    assert len(TEXT) == 17
    assert sum(computed) == most


@pytest.mark.usefixtures("drafts")
@pytest.mark.parametrize("draft", [0, 4])
def test_the_same_prompt_again_is_not_computed(llm, naive, computed, draft):
    first = llm.generate(TEXT, max_tokens=6, draft=draft)
    count = sum(computed)
    again = llm.generate(TEXT, max_tokens=6, draft=draft)
    assert sum(computed) == 2 * count - len(TEXT)
    assert (again.token_ids, first.token_ids) == (naive(TEXT, 6),) * 2
    assert (first.timing.reused_tokens, again.timing.reused_tokens) == (0, len(TEXT))
    other = llm.generate([*TEXT, 40], max_tokens=6, draft=draft)  # the prompt, and another turn
    assert other.timing.reused_tokens == len(TEXT)
    assert other.token_ids == naive([*TEXT, 40], 6)


def test_logits_that_are_kept_are_nobody_elses(llm):
    first, _ = llm.logits_after(TEXT)
    wanted = first.copy()
    for _ in range(2):
        first[:] = 0
        first, reused = llm.logits_after(TEXT)
        assert reused == len(TEXT)
        np.testing.assert_array_equal(first, wanted)


@pytest.mark.parametrize("at", ["before", "after"])
def test_an_interrupt_leaves_the_model_usable(llm, naive, monkeypatch, at):
    sequence = llm._open_sequence()
    forward = sequence._forward

    def interrupted(tokens, logits):
        if at == "after":
            llm.decoder.forward(np.asarray(tokens, np.int32), sequence.cache, logits)
        raise KeyboardInterrupt

    for prompt in (TEXT, TEXT[:4], [*TEXT, 8]):
        llm.generate(TEXT, max_tokens=3)
        monkeypatch.setattr(sequence, "_forward", interrupted)
        with pytest.raises(KeyboardInterrupt):
            llm.generate(prompt, max_tokens=3)
        monkeypatch.setattr(sequence, "_forward", forward)
        assert llm.generate(prompt, max_tokens=5).token_ids == naive(prompt, 5)


def test_memory_does_not_grow_with_the_context(folder):
    sizes = set()
    for context in (2, 4096, 100_000, None):
        with LLM(folder, threads=1, context=context) as llm:
            assert llm.context == (context or NO_LIMIT)
            sizes.add(llm.new_sequence().size_bytes)
            assert speed.kv_token_bytes(llm) == 0
    assert sizes == {3 * 2 * 64 * 4}  # the state and its copies, two layers of 64 floats


def test_a_context_of_one_token_and_a_long_one(llm, naive):
    assert llm.generate([7], max_tokens=4).token_ids == naive([7], 4)
    long = (TEXT * 400)[:6000]  # beyond the 4096 that keys and values would get
    whole, _ = llm.logits_after(long)
    llm.forget()
    llm.logits_after(long[:4999])
    rest, reused = llm.logits_after(long)
    assert reused == 4999
    np.testing.assert_array_equal(whole, rest)


def test_what_training_saw_is_no_limit(tmp_path):
    """A recipe writes its training context into the config; engine and torch go beyond it."""
    model = saved(tmp_path / "model", max_position_embeddings=10)
    with LLM(tmp_path / "model", threads=1) as llm:
        answer = llm.generate(TEXT, max_tokens=12)
        assert list(answer.token_ids) == models.generate(model, TEXT, 12)
        assert answer.finish_reason == "length"
        for scored in (llm, model):
            assert perplexity(scored, TEXT * 2).window == 512
            assert perplexity(scored, TEXT * 2, 1000).windows == 1
            with pytest.raises(OptionError, match=r"window is 1; .* this model: 2 or more\."):
                perplexity(scored, TEXT, 1)


def test_a_context_that_is_given_is_kept(tmp_path):
    saved(tmp_path / "model", max_position_embeddings=10)
    with LLM(tmp_path / "model", threads=1, context=100_000) as llm:
        assert llm.context == 100_000
    with LLM(tmp_path / "model", threads=1, context=12) as llm:
        with pytest.raises(OnebitError, match="The prompt has 17 tokens and the context holds 12"):
            llm.generate(TEXT)
        assert llm.generate(TEXT[:9], max_tokens=9).finish_reason == "context"
    with pytest.raises(OptionError, match="context is 1; accepted: a whole number from 2"):
        LLM(tmp_path / "model", context=1)


def test_too_few_bytes_for_a_state_are_refused(llm):
    one = llm.new_sequence().size_bytes
    wanted = rf"cache_bytes is {one - 1}; accepted: {one}, which the state of one .* or more\.$"
    with pytest.raises(OptionError, match=wanted):
        Batch(llm, cache_bytes=one - 1)


def test_bits_of_keys_and_values_are_refused(folder):
    with pytest.raises(OptionError, match="kv_bits is 8; this model has a state in place of keys"):
        LLM(folder, kv_bits=8)


@pytest.mark.filterwarnings("error")
def test_large_lower_bounds_are_taken_as_torch_takes_them(tmp_path):
    """Their differences pass the largest float32, and say which layer has the whole share."""
    model = models.build(Architecture(**SHAPE), SCHEMES["fp"], seed=3).eval()
    with torch.no_grad():
        model.model.lower_bounds[0] = 3e38
        model.model.lower_bounds[1] = -3e38
        model.model.lower_bounds[:, ::2] *= -1
    models.save(model, tmp_path / "model")
    with LLM(tmp_path / "model", threads=1) as llm, torch.no_grad():
        wanted_TV = model(torch.tensor([TEXT]))[0].numpy()
        logits_TV = llm.logits(TEXT)
    np.testing.assert_allclose(logits_TV, wanted_TV, rtol=0, atol=2e-4 * np.abs(wanted_TV).max())
