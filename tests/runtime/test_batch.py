"""Batches: every answer is the one that its prompt gets alone, to the bit, whoever is beside it."""

import numpy as np
import pytest

from onebit import LLM, Batch
from onebit.errors import FormatError, InputError, OptionError
from onebit.runtime import batch as batch_module
from onebit.scheme import KV_BITS

PROMPTS = [
    "It was the best of times",
    [7],
    "the age of wisdom, the age of foolishness, the age of wisdom, the age of",
    list(range(40, 110)),
    "It was the worst of times",
    [9, 9, 9],
]
OPTIONS = [
    {"max_tokens": 12},
    {"max_tokens": 25, "temperature": 1.0, "seed": 3},
    {"max_tokens": 30, "repetition_penalty": 0.1, "draft": 6},
    {"max_tokens": 20, "logprobs": 2},
    {"max_tokens": 1},
    {"max_tokens": 40, "temperature": 0.3, "seed": 1, "draft": 3, "stop": ["qq"], "logprobs": 1},
]


def plain(generation):
    """Everything but the times."""
    return generation.text, generation.token_ids, generation.finish_reason, generation.logprobs


@pytest.fixture
def alone(llm):
    """The answer to a prompt without a batch."""
    return lambda prompt, **options: plain(llm.generate(prompt, **options))


def run(batch):
    """Step until nothing is left; return how many steps that took."""
    steps = 0
    while batch.busy:
        batch.step()
        steps += 1
    return steps


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_a_batch_gives_what_each_prompt_gives_alone(llm, alone, options):
    with Batch(llm) as batch:
        answers = batch.generate(PROMPTS, **options)
    assert [plain(a) for a in answers] == [alone(p, **options) for p in PROMPTS]


@pytest.mark.parametrize("sequences", [1, 2, 5])
@pytest.mark.parametrize("prompt_tokens", [1, 7, 500])
def test_any_mixture_in_any_order_gives_the_same(llm, alone, sequences, prompt_tokens):
    """Prompts join at random steps, and wait where there is no room; some leave early."""
    rng = np.random.default_rng(sequences * 1000 + prompt_tokens)
    wanted = [(PROMPTS[i], OPTIONS[i]) for i in rng.permutation(6)] * 2
    requests = []
    with Batch(llm, sequences, prompt_tokens) as batch:
        while len(requests) < len(wanted) or batch.busy:
            for prompt, options in wanted[len(requests) : len(requests) + rng.integers(0, 3)]:
                requests.append(batch.add(prompt, **options))
            batch.step()
            if rng.random() < 0.1:
                extra = batch.add(PROMPTS[3], max_tokens=40)
                batch.step()
                extra.cancel()
    for request, (prompt, options) in zip(requests, wanted, strict=True):
        assert plain(request.generation) == alone(prompt, **options)


def test_streams_of_the_model_and_a_batch_do_not_disturb_each_other(llm, alone):
    expected = [alone(prompt, max_tokens=20) for prompt in PROMPTS]
    with Batch(llm) as batch:
        requests = [batch.add(prompt, max_tokens=20) for prompt in PROMPTS]
        stream = llm.stream(PROMPTS[0], max_tokens=20)
        while batch.busy:
            batch.step()
            next(stream, None)
    assert [plain(r.generation) for r in requests] == expected
    assert plain(stream.generation) == expected[0]


def test_what_a_step_returns_is_what_came(llm):
    texts = {}
    with Batch(llm) as batch:
        requests = [batch.add(p, max_tokens=9, temperature=1.0, seed=2) for p in PROMPTS]
        assert batch.step()
        while batch.busy:
            for request in batch.step():
                piece = request.take()
                assert piece or request.finished
                texts[request] = texts.get(request, "") + piece
        assert batch.step() == []
    for request in requests:
        assert request.finished
        assert texts[request].endswith(request.generation.text[-3:])
        assert request.take() == ""


def test_a_request_reads_like_a_stream(llm, alone):
    with Batch(llm) as batch:
        others = [batch.add(p, max_tokens=30) for p in PROMPTS[:3]]
        request = batch.add(PROMPTS[3], max_tokens=8)
        text = "".join(request)
        assert (text, *plain(request.generation)[1:]) == alone(PROMPTS[3], max_tokens=8)
        assert not all(other.finished for other in others)


def test_a_long_prompt_is_read_in_pieces_while_others_write(llm):
    with Batch(llm, prompt_tokens=10) as batch:
        first = batch.add([5, 6], max_tokens=60)
        batch.step()
        second = batch.add(list(range(50, 120)), max_tokens=4)
        before = len(first.generation.token_ids)
        steps = 0
        while not second.generation.token_ids:
            batch.step()
            steps += 1
        assert steps == 7
        assert len(first.generation.token_ids) == before + 7


def test_conversations_are_answered(llm):
    with Batch(llm) as batch:
        requests = [batch.add_chat(text, max_tokens=6) for text in ("Age?", "Wisdom?")]
        run(batch)
    for request, text in zip(requests, ("Age?", "Wisdom?"), strict=True):
        assert plain(request.generation) == plain(llm.chat(text, max_tokens=6))


def test_prompts_that_begin_alike_are_computed_once(llm, alone):
    head = list(range(20, 80))
    prompts = [[*head, tail, 5] for tail in range(100, 104)]
    with Batch(llm) as batch:
        answers = batch.generate(prompts, max_tokens=6)
    assert [plain(a) for a in answers] == [alone(p, max_tokens=6) for p in prompts]
    assert [a.timing.reused_tokens for a in answers] == [0, 60, 60, 60]


@pytest.mark.parametrize("kv_bits", KV_BITS)
def test_beginnings_are_shared_at_every_width(tiny, kv_bits):
    head = list(range(20, 57))
    prompts = [[*head, *tail] for tail in ([5], [6, 7], [8] * 20, [5, 9])]
    with LLM(tiny, threads=2, kv_bits=kv_bits) as llm, Batch(llm, prompt_tokens=11) as batch:
        answers = batch.generate(prompts, max_tokens=12, draft=4, logprobs=1)
        assert sum(a.timing.reused_tokens for a in answers) >= 3 * len(head)
        for answer, prompt in zip(answers, prompts, strict=True):
            llm.forget()
            assert plain(answer) == plain(llm.generate(prompt, max_tokens=12, logprobs=1))


def test_a_live_sequence_lends_its_beginning(llm, alone):
    with Batch(llm, prompt_tokens=16) as batch:
        first = batch.add(list(range(20, 60)), max_tokens=50)
        while len(first.generation.token_ids) < 5:
            batch.step()
        text = [*range(20, 60), *first.generation.token_ids[:3]]
        second = batch.add([*text, 250, 251], max_tokens=8)
        run(batch)
    assert second.generation.timing.reused_tokens == 43
    assert plain(second.generation) == alone([*text, 250, 251], max_tokens=8)
    assert plain(first.generation) == alone(list(range(20, 60)), max_tokens=50)


def test_a_finished_sequence_is_gone_on_with_and_the_oldest_makes_room(llm):
    a, b, c = [10] * 30, [11] * 30, [12] * 30

    def reused(batch, prompt):
        return batch.generate([prompt], max_tokens=2)[0].timing.reused_tokens

    with Batch(llm, sequences=2) as batch:
        assert [reused(batch, p) for p in (a, b, a)] == [0, 0, 29]
        assert reused(batch, c) == 0  # where b was
        assert [reused(batch, p) for p in (a, b, a)] == [29, 0, 29]


def test_memory_bounds_the_sequences(llm, alone):
    one = llm.new_sequence().cache.size_bytes
    with Batch(llm, cache_bytes=2 * one + 5) as batch:
        requests = [batch.add(p, max_tokens=6) for p in PROMPTS]
        run(batch)
        assert len(batch._pool) == 2
    assert [plain(r.generation) for r in requests] == [alone(p, max_tokens=6) for p in PROMPTS]
    with pytest.raises(OptionError, match=f"cache_bytes is {one - 1}; accepted: {one}, which"):
        Batch(llm, cache_bytes=one - 1)


def test_no_memory_for_one_more_sequence_lets_it_wait(llm, alone, monkeypatch):
    expected = [alone(p, max_tokens=6) for p in PROMPTS]
    made = []
    new_sequence = llm.new_sequence

    def refuse_the_fourth():
        if len(made) == 3:
            raise OptionError("context is too much for this machine.")
        made.append(new_sequence())
        return made[-1]

    monkeypatch.setattr(llm, "new_sequence", refuse_the_fourth)
    with Batch(llm) as batch:
        answers = batch.generate(PROMPTS, max_tokens=6)
        assert [plain(a) for a in answers] == expected
    with pytest.raises(OptionError, match="too much for this machine"):
        Batch(llm)


class Played:
    """The decoder, with something played in `step`."""

    def __init__(self, decoder):
        self.decoder = decoder

    def __getattr__(self, name):
        return getattr(self.decoder, name)


class Spoilt(Played):
    """Logits that are not finite for one prompt."""

    token = 299

    def step(self, caches, tokens, logits):
        out = self.decoder.step(caches, tokens, logits)
        row = 0
        for ids, which in zip(tokens, logits, strict=True):
            rows = {"last": 1, "all": len(ids), "none": 0}[which]
            if self.token in ids:
                out[row : row + rows] = np.nan
            row += rows
        return out


def test_what_goes_wrong_with_one_ends_that_one_only(llm, alone, monkeypatch):
    expected = [alone(p, max_tokens=10) for p in PROMPTS]
    others = {token for place in (0, 2, 3, 4, 5) for token in expected[place][1]}
    assert Spoilt.token not in others
    monkeypatch.setattr(llm, "_decoder", Spoilt(llm.decoder))
    with Batch(llm) as batch:
        prompts = [PROMPTS[0], [Spoilt.token], *PROMPTS[2:]]
        requests = [batch.add(p, max_tokens=10) for p in prompts]
        run(batch)
        assert isinstance(requests[1].error, FormatError)
        assert requests[1].generation.finish_reason == "error"
        with pytest.raises(FormatError, match="not finite"):
            list(requests[1])
        for place in (0, 2, 3, 4, 5):
            assert plain(requests[place].generation) == expected[place]
        with pytest.raises(FormatError, match="not finite"):
            batch.generate(prompts, max_tokens=3)
        assert plain(batch.generate([PROMPTS[0]], max_tokens=10)[0]) == expected[0]


def test_a_full_context_ends_that_one_only(tiny):
    prompts = [[5] * 18, [5] * 4, [6] * 10]
    with LLM(tiny, threads=1, kv_bits=32, context=20) as llm, Batch(llm) as batch:
        answers = batch.generate(prompts, max_tokens=12, draft=8)
        assert [a.finish_reason for a in answers] == ["context", "length", "context"]
        assert [plain(a) for a in answers] == [
            plain(llm.generate(p, max_tokens=12)) for p in prompts
        ]


@pytest.mark.parametrize("when", ["before", "after", "choosing"])
@pytest.mark.parametrize("at", [1, 2, 5])
def test_an_interrupt_leaves_the_batch_usable(llm, alone, monkeypatch, when, at):
    expected = [alone(p, max_tokens=12, draft=3) for p in PROMPTS]
    calls = []

    class Interrupted(Played):
        def step(self, *args):
            calls.append(1)
            if when == "before" and len(calls) == at:
                raise KeyboardInterrupt
            out = self.decoder.step(*args)
            if when == "after" and len(calls) == at:
                raise KeyboardInterrupt
            return out

    monkeypatch.setattr(llm, "_decoder", Interrupted(llm.decoder))
    with Batch(llm, prompt_tokens=50) as batch:
        requests = [batch.add(p, max_tokens=12, draft=3) for p in PROMPTS]
        if when == "choosing":
            feed, fed = requests[2].answer._decoder.feed, []

            class Decoder:
                def feed(self, token):
                    fed.append(token)
                    if len(fed) == at:
                        raise KeyboardInterrupt
                    return feed(token)

            requests[2].answer._decoder = Decoder()
        with pytest.raises(KeyboardInterrupt):
            run(batch)
        run(batch)
        for place, request in enumerate(requests):
            if when == "choosing" and place == 2:
                assert request.generation.finish_reason == "closed"
            else:
                assert plain(request.generation) == expected[place]


def test_a_cancelled_request_leaves_at_once(llm, alone):
    with Batch(llm, sequences=2) as batch:
        requests = [batch.add(p, max_tokens=20) for p in PROMPTS[:4]]
        batch.step()
        requests[0].cancel()
        requests[3].cancel()  # still waiting
        requests[0].cancel()
        assert requests[0].finished
        run(batch)
        assert [requests[i].generation.finish_reason for i in (0, 3)] == ["closed", "closed"]
        assert list(requests[3]) == []
    for place in (1, 2):
        assert plain(requests[place].generation) == alone(PROMPTS[place], max_tokens=20)


@pytest.mark.parametrize("place", [0, 1, 3])
def test_a_request_may_be_cancelled_in_the_middle_of_a_step(llm, alone, monkeypatch, place):
    """As a handler of Ctrl-C does, or another thread; nobody waits for anybody."""
    with Batch(llm, sequences=3) as batch:
        requests = [batch.add(p, max_tokens=20) for p in PROMPTS[:4]]
        batch.step()

        class Meanwhile(Played):
            def step(self, *args):
                requests[place].cancel()
                return self.decoder.step(*args)

        before = len(requests[place].generation.token_ids)
        monkeypatch.setattr(llm, "_decoder", Meanwhile(llm.decoder))
        assert requests[place] not in batch.step()
        run(batch)
        assert requests[place].generation.finish_reason == "closed"
        assert len(requests[place].generation.token_ids) == before
    for i in {0, 1, 2, 3} - {place}:
        assert plain(requests[i].generation) == alone(PROMPTS[i], max_tokens=20)


def test_requests_may_come_and_all_may_end_in_the_middle_of_a_step(llm, alone, monkeypatch):
    """As a signal's handler does; nobody waits for anybody."""
    with Batch(llm) as batch:
        requests = [batch.add(p, max_tokens=20) for p in PROMPTS[:2]]

        class Meanwhile(Played):
            def step(self, *args):
                if len(requests) < 5:
                    requests.append(batch.add(PROMPTS[len(requests)], max_tokens=20))
                elif closing:
                    batch.close()
                return self.decoder.step(*args)

        closing = False
        monkeypatch.setattr(llm, "_decoder", Meanwhile(llm.decoder))
        run(batch)
        for request, prompt in zip(requests, PROMPTS, strict=False):
            assert plain(request.generation) == alone(prompt, max_tokens=20)
        closing = True
        last = batch.add(PROMPTS[5], max_tokens=20)
        assert batch.step() == []
        assert not batch.busy
        assert last.generation.finish_reason == "closed"
        with pytest.raises(InputError, match="This Batch is closed"):
            batch.step()


def test_bad_prompts_and_options_are_refused_and_change_nothing(llm, alone):
    with Batch(llm) as batch:
        good = batch.add(PROMPTS[0], max_tokens=5)
        for prompt, options, message in [
            ([], {}, "has no tokens"),
            ([300], {}, "Token 300 is not in the vocabulary"),
            (7, {}, "The prompt is 7; accepted: a text, or token ids"),
            ([1] * 128, {}, "has 128 tokens and the context holds 128"),
            ([1], {"top_p": 2}, "top_p is 2"),
        ]:
            with pytest.raises(InputError, match=message):
                batch.add(prompt, **options)
            with pytest.raises(InputError, match=message):
                batch.generate([[1], prompt], **options)
        with pytest.raises(InputError, match="prompts is the text 'one'; give a list of prompts"):
            batch.generate("one")
        run(batch)
        assert plain(good.generation) == alone(PROMPTS[0], max_tokens=5)
    for name, value in [("sequences", 0), ("prompt_tokens", 0), ("cache_bytes", -1)]:
        with pytest.raises(OptionError, match=f"{name} is {value}; accepted: "):
            Batch(llm, **{name: value})


def test_closing_twice_and_use_after_closing(llm, tiny):
    batch = Batch(llm)
    request = batch.add([5], max_tokens=50)
    batch.step()
    batch.close()
    batch.close()
    assert request.generation.finish_reason == "closed"
    assert len("".join(request)) <= len(request.generation.text)
    for use in (batch.step, lambda: batch.add([1]), lambda: batch.generate([[1]])):
        with pytest.raises(InputError, match="This Batch is closed"):
            use()
    gone = LLM(tiny)
    batch = Batch(gone)
    batch.add([5], max_tokens=3)
    gone.close()
    gone.close()
    with pytest.raises(InputError, match="is closed; open it again"):
        batch.step()
    batch.close()


def test_requests_that_wait_for_a_beginning_still_end(llm, monkeypatch):
    """Many alike at once, with hardly any room for prompts: none waits for ever."""
    monkeypatch.setattr(batch_module, "WORTH_WAITING", 1)
    prompts = [[3] * n for n in (50, 40, 50, 3, 50, 49)] + [[4] * 20, [3] * 60]
    with Batch(llm, sequences=3, prompt_tokens=2) as batch:
        answers = batch.generate(prompts, max_tokens=3)
    assert [plain(a) for a in answers] == [plain(llm.generate(p, max_tokens=3)) for p in prompts]
