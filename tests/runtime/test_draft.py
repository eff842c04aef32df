"""Prompt lookup: what is guessed, and that guessing changes the speed and nothing else."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from onebit import LLM
from onebit.errors import OptionError
from onebit.runtime.draft import LONGEST, SHORTEST, PromptLookup

REPETITIVE = "the age of wisdom, the age of foolishness, the age of wisdom, the age of"


@pytest.fixture
def always(monkeypatch):
    """Every guess is drafted whole."""
    monkeypatch.setattr("onebit.runtime.draft.WORTH_A_TRY", 0.0)


def guess(tokens, most=8, room=100):
    return PromptLookup(tokens, most).draft(room)


@pytest.mark.usefixtures("always")
class TestGuesses:
    def test_what_followed_the_last_tokens_is_guessed(self):
        assert guess([1, 2, 3, 4, 5, 6, 1, 2], most=4) == [3, 4, 5, 6]

    def test_a_longer_match_wins_over_a_newer_one(self):
        assert guess([9, 1, 2, 7, 7, 8, 1, 2, 5, 5, 9, 1, 2], most=2) == [7, 7]

    def test_of_equal_matches_the_newest_wins(self):
        assert guess([1, 2, 7, 3, 1, 2, 8, 3, 1, 2], most=1) == [8]

    def test_a_text_that_repeats_itself_is_guessed_to_go_on(self):
        assert guess([5, 1, 2, 1, 2], most=5) == [1, 2, 1, 2, 1]

    def test_nothing_is_guessed_without_a_reason(self):
        assert guess([]) == guess([1]) == guess([1, 1]) == guess([1, 2, 3, 2]) == []

    def test_room_and_most_bound_a_draft(self):
        text = [1, 2, 3, 4, 5, 6, 1, 2]
        assert guess(text, most=3) == [3, 4, 5]
        assert guess(text, room=1) == [3]
        assert guess(text, room=0) == guess(text, room=-1) == []

    @given(st.lists(st.integers(0, 3), max_size=40))
    @settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
    def test_the_index_finds_what_a_search_finds(self, text):
        """The table is kept up as the text grows; a search looks at all of it every time."""
        growing = []
        lookup = PromptLookup(growing, 1)
        for token in text:
            growing.append(token)
            expected = []
            for n in range(LONGEST, SHORTEST - 1, -1):
                ends = [e for e in range(n, len(growing)) if growing[e - n : e] == growing[-n:]]
                if ends and not expected:
                    expected = [growing[ends[-1]]]
            assert lookup.draft(1) == expected


def test_drafts_grow_where_guesses_come_true_and_end_where_they_do_not():
    text = [1, 2, 3, 4, 5] * 3
    lookup = PromptLookup(text, 64)
    lengths = []
    for _ in range(30):
        draft = lookup.draft(100)
        lengths.append(len(draft))
        text += draft or [text[-5]]
    assert 0 < lengths[0] < 16
    assert lengths[-1] == 64
    rng = np.random.default_rng(0)
    for _ in range(40):  # the beginning is that of before, the end is not
        text += [1, 2, 3, int(rng.integers(100, 10**9))]
        lookup.draft(100)
        text.append(int(rng.integers(100, 10**9)))
        text += [1, 2, 3]
        lengths.append(len(lookup.draft(100)))
    assert lengths[-10:] == [0] * 10


def test_guesses_are_watched_where_nothing_is_drafted():
    """What is not worth a try at first becomes it when it would have been right again and again."""
    text = [1, 2, 9, 9, 1, 2]
    lookup = PromptLookup(text, 8)
    assert lookup.draft(8) == []
    for i in range(20):
        text += [9, 100 + i, 1, 2]
        draft = lookup.draft(8)
    assert draft[:1] == [9]


def test_a_draft_out_of_range_is_refused(llm):
    for draft in (-1, 65, 1.5):
        with pytest.raises(OptionError, match=r"draft is .*; accepted: .* from 0 to 64"):
            llm.stream(REPETITIVE, draft=draft)


OPTIONS = [
    {},
    {"temperature": 0.4, "seed": 3},
    {"temperature": 1.0, "top_p": 0.9, "seed": 4},
    {"repetition_penalty": 1.3},
    {"logprobs": 3},
    {"temperature": 0.7, "seed": 5, "logprobs": 2, "repetition_penalty": 0.7},
]


def plain(generation):
    """Everything but the times."""
    return generation.text, generation.token_ids, generation.finish_reason, generation.logprobs


@pytest.mark.parametrize("draft", [1, 4, 64])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_drafts_change_nothing(llm, options, draft):
    expected = llm.generate(REPETITIVE, max_tokens=50, **options)
    drafted = llm.generate(REPETITIVE, max_tokens=50, draft=draft, **options)
    assert plain(drafted) == plain(expected)
    assert expected.timing.drafted_tokens == expected.timing.accepted_tokens == 0


def test_drafts_are_taken_where_a_text_repeats_itself(llm):
    """A repetition penalty below 1 makes the random model repeat itself without end."""
    options = {"max_tokens": 60, "repetition_penalty": 0.1}
    generation = llm.generate(REPETITIVE, draft=8, **options)
    timing = generation.timing
    assert 0 < timing.accepted_tokens <= timing.drafted_tokens
    assert timing.accepted_tokens > 30
    assert timing.generated_tokens == 60
    assert plain(generation) == plain(llm.generate(REPETITIVE, **options))


class Always:
    """Drafts the right tokens, or wrong ones from a certain place on, at every step."""

    def __init__(self, answer, truth, length, right):
        self.answer, self.truth, self.length, self.right = answer, truth, length, right

    def draft(self, room):
        done = len(self.answer.tokens)
        guess = self.truth[done : done + min(self.length, room)]
        return [t if i < self.right else (t + 1) % 300 for i, t in enumerate(guess)]


def drafted(llm, prompt, truth, length, right, **options):
    stream = llm.stream(prompt, draft=1, **options)
    stream._answer._lookup = Always(stream._answer, truth, length, right)
    pieces = list(stream)
    assert "".join(pieces) == stream.generation.text
    return stream.generation


@pytest.mark.parametrize("right", [0, 1, 2, 9])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_any_draft_gives_the_same_answer(llm, right, temperature):
    options = {"max_tokens": 30, "temperature": temperature, "seed": 8}
    prompt = llm.encode("It was the best")
    expected = llm.generate(prompt, **options)
    truth = [*prompt, *expected.token_ids]
    generation = drafted(llm, prompt, truth, 5, right, **options)
    assert plain(generation) == plain(expected)
    assert (generation.timing.accepted_tokens > 0) == (right > 0)


@pytest.mark.parametrize("right", [1, 9])
def test_ends_inside_a_draft(llm, tiny, monkeypatch, right):
    prompt = llm.encode("It was the best")
    options = {"max_tokens": 30, "temperature": 1.0, "seed": 5}
    whole = llm.generate(prompt, **options)
    truth = [*prompt, *whole.token_ids]

    stop = {"stop": [whole.text[7:11]]}
    expected = llm.generate(prompt, **options, **stop)
    assert plain(drafted(llm, prompt, truth, 8, right, **options, **stop)) == plain(expected)

    for most in range(1, 6):  # max_tokens
        short = options | {"max_tokens": most}
        got = drafted(llm, prompt, truth, 8, right, **short)
        assert plain(got) == plain(llm.generate(prompt, **short))

    with LLM(tiny, threads=1, kv_bits=32, context=len(prompt) + 6) as small:
        got = drafted(small, prompt, truth, 8, right, **options)
        assert got.finish_reason == "context"
        assert got.token_ids == whole.token_ids[:6]

    monkeypatch.setattr(type(llm.tokenizer), "eos_ids", (whole.token_ids[9],))
    expected = llm.generate(prompt, **options)
    assert expected.finish_reason == "stop"
    assert plain(drafted(llm, prompt, truth, 8, right, **options)) == plain(expected)


def test_refused_tokens_leave_the_cache(llm):
    """After a step whose draft was refused, the next prompt sees only what was chosen."""
    prompt = llm.encode("It was the best")
    expected = llm.generate(prompt, max_tokens=12)
    truth = [*prompt, *expected.token_ids]
    drafted(llm, prompt, truth, 6, 2, max_tokens=12)
    after, reused = llm.logits_after(truth)
    assert reused > len(prompt)
    llm.forget()
    np.testing.assert_array_equal(after, llm.logits_after(truth)[0])


def test_streams_that_draft_may_take_turns(llm):
    options = {"max_tokens": 40, "repetition_penalty": 0.1, "draft": 8}
    prompts = [REPETITIVE, "It was the best", REPETITIVE[:20]]
    expected = [plain(llm.generate(prompt, **options)) for prompt in prompts]
    streams = [llm.stream(prompt, **options) for prompt in prompts]
    for _ in range(45):
        for stream in streams:
            next(stream, None)
    assert [plain(stream.generation) for stream in streams] == expected
