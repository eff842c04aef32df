"""LLM on a tiny random model: what it generates, when it stops, what its cache may not change."""

import json
import subprocess
import sys

import numpy as np
import pytest

from onebit import LLM
from onebit.errors import InputError, MissingError, OnebitError, OptionError
from onebit.runtime import cache
from onebit.runtime import llm as llm_module
from onebit.runtime.sampling import log_softmax

PROMPT = "It was the best"


def naive(llm, prompt, n):
    """Greedy tokens from scratch logits at every step."""
    ids = list(prompt)
    for _ in range(n):
        ids.append(int(llm.logits(ids)[-1].argmax()))
    return ids[len(prompt) :]


def test_greedy_is_the_naive_generation(llm):
    prompt = llm.encode(PROMPT)
    generation = llm.generate(PROMPT, max_tokens=20)
    assert list(generation.token_ids) == naive(llm, prompt, 20)
    assert generation.finish_reason == "length"


def test_text_is_the_decoded_tokens(llm):
    generation = llm.generate(PROMPT, max_tokens=30)
    decoder = llm.tokenizer.decoder()
    text = "".join([decoder.feed(i) for i in generation.token_ids]) + decoder.flush()
    assert generation.text == text


def test_a_prompt_may_be_token_ids(llm):
    ids = llm.encode(PROMPT)
    assert llm.generate(ids, max_tokens=5).token_ids == llm.generate(PROMPT, max_tokens=5).token_ids


def test_pieces_of_a_stream_are_the_text(llm):
    stream = llm.stream(PROMPT, max_tokens=30, temperature=1.0, seed=5)
    pieces = list(stream)
    assert "".join(pieces) == stream.generation.text
    assert all(pieces)
    assert len(pieces) > 3


def test_a_piece_is_handed_out_before_the_next_token_is_computed(llm, monkeypatch):
    computed = []
    sequence = llm._sequence
    after = sequence.after
    monkeypatch.setattr(sequence, "after", lambda *args: computed.append(1) or after(*args))
    stream = llm.stream(PROMPT, max_tokens=10, temperature=1.0, seed=5)
    assert computed == []
    next(stream)
    assert len(computed) == len(stream.generation.token_ids)


def test_sampling_repeats_with_a_seed_and_differs_without(llm):
    def draw(seed):
        return llm.generate(PROMPT, max_tokens=20, temperature=1.0, seed=seed).token_ids

    assert draw(1) == draw(1)
    assert len({draw(seed) for seed in range(5)}) > 1


def test_top_k_1_is_greedy(llm):
    drawn = llm.generate(PROMPT, max_tokens=12, temperature=2.0, top_k=1, seed=0)
    assert drawn.token_ids == llm.generate(PROMPT, max_tokens=12).token_ids


def test_a_stop_text_ends_the_answer_before_it(llm):
    whole = llm.generate(PROMPT, max_tokens=30, temperature=1.0, seed=5)
    stop = whole.text[7:11]  # wherever tokens begin and end
    stopped = llm.generate(PROMPT, max_tokens=30, temperature=1.0, seed=5, stop=[stop])
    assert stopped.text == whole.text[: whole.text.index(stop)]
    assert stopped.finish_reason == "stop"
    assert whole.token_ids[: len(stopped.token_ids)] == stopped.token_ids


def test_a_stop_text_that_never_comes_changes_nothing(llm):
    whole = llm.generate(PROMPT, max_tokens=20)
    assert llm.generate(PROMPT, max_tokens=20, stop=whole.text[-3:] + "!").text == whole.text


def test_the_end_token_ends_the_answer_and_is_not_in_it(llm, monkeypatch):
    whole = llm.generate(PROMPT, max_tokens=12, temperature=1.0, seed=5)
    end = whole.token_ids[6]
    first = whole.token_ids.index(end)
    monkeypatch.setattr(type(llm.tokenizer), "eos_ids", (end,))
    ended = llm.generate(PROMPT, max_tokens=12, temperature=1.0, seed=5)
    assert ended.token_ids == whole.token_ids[:first]
    assert ended.finish_reason == "stop"


def test_the_context_ends_the_answer(tiny):
    with LLM(tiny, context=12) as llm:
        prompt = [5] * 9
        generation = llm.generate(prompt, max_tokens=100)
    assert len(generation.token_ids) == 3
    assert generation.finish_reason == "context"


def test_logprobs_are_the_models_own(llm):
    generation = llm.generate(PROMPT, max_tokens=4, logprobs=3, temperature=1.0, top_k=2, seed=1)
    ids = llm.encode(PROMPT) + list(generation.token_ids)
    expected = log_softmax(llm.logits(ids[:-1]))[-4:]
    assert len(generation.logprobs) == 4
    for row, token in zip(expected, generation.logprobs, strict=True):
        assert token.logprob == row[token.token_id]
        assert [i for i, _ in token.top] == np.argsort(-row, kind="stable")[:3].tolist()
        assert [p for _, p in token.top] == np.sort(row)[::-1][:3].tolist()
    assert llm.generate(PROMPT, max_tokens=2).logprobs == ()


def test_logprobs_of_a_text_are_those_of_its_logits(llm, monkeypatch):
    monkeypatch.setattr("onebit.runtime.llm.SCORED_AT_A_TIME", 7)
    ids = np.random.default_rng(0).integers(0, 300, 30).tolist()
    expected = log_softmax(llm.logits(ids))[np.arange(29), ids[1:]]
    np.testing.assert_array_equal(llm.logprobs(ids), expected)
    assert llm.logprobs([4]).shape == (0,)


def test_a_shared_prefix_is_not_computed_again_and_changes_nothing(llm, tiny):
    first, second = [5, 6, 7, 8, 9, 10], [5, 6, 7, 8, 99, 100, 101]
    llm.generate(first, max_tokens=4)
    reused = llm.generate(second, max_tokens=10)
    assert reused.timing.reused_tokens == 4
    with LLM(tiny, threads=1, kv_bits=32) as fresh:
        assert reused.token_ids == fresh.generate(second, max_tokens=10).token_ids


def test_the_same_prompt_again_computes_one_token(llm):
    first = llm.generate(PROMPT, max_tokens=5)
    again = llm.generate(PROMPT, max_tokens=5)
    assert again.token_ids == first.token_ids
    assert again.timing.reused_tokens == again.timing.prompt_tokens - 1


def test_prompts_longer_than_a_chunk(llm, monkeypatch):
    prompt = np.random.default_rng(1).integers(0, 300, 40).tolist()
    whole = llm.logits(prompt)[-1]
    monkeypatch.setattr(cache, "CHUNK", 16)
    llm.forget()
    logits, reused = llm.logits_after(prompt)
    assert reused == 0
    np.testing.assert_array_equal(logits, whole)


def test_streams_may_take_turns(llm):
    a, b = llm.generate([5, 6, 7], max_tokens=9), llm.generate([50, 60], max_tokens=9)
    streams = [llm.stream([5, 6, 7], max_tokens=9), llm.stream([50, 60], max_tokens=9)]
    for _ in range(20):
        for stream in streams:
            next(stream, None)
    assert [s.generation.token_ids for s in streams] == [a.token_ids, b.token_ids]


def test_a_closed_stream_leaves_the_model_usable(llm):
    expected = llm.generate(PROMPT, max_tokens=8).token_ids
    stream = llm.stream("the age of wisdom", max_tokens=50, temperature=1.0, seed=2)
    next(stream)
    stream.close()
    assert next(stream, None) is None
    assert stream.generation.finish_reason == "closed"
    assert llm.generate(PROMPT, max_tokens=8).token_ids == expected


@pytest.mark.parametrize("before", [True, False], ids=["before computing", "after computing"])
def test_an_interrupt_leaves_the_model_usable(llm, monkeypatch, before):
    expected = llm.generate(PROMPT, max_tokens=8).token_ids
    sequence = llm._sequence
    forward, calls = sequence._decoder.forward, []

    class Interrupted:
        def forward(self, *args):
            calls.append(1)
            if len(calls) == 4 and before:
                raise KeyboardInterrupt
            out = forward(*args)
            if len(calls) == 4:
                raise KeyboardInterrupt  # the native cache has grown, the list of tokens has not
            return out

    with monkeypatch.context() as patch:
        patch.setattr(sequence, "_decoder", Interrupted())
        with pytest.raises(KeyboardInterrupt):
            llm.generate("the worst of times", max_tokens=20)
    assert llm.generate(PROMPT, max_tokens=8).token_ids == expected


@pytest.mark.parametrize("draft", [[], [3, 4]], ids=["plain", "draft"])
@pytest.mark.parametrize("tokens", [1, 2, 7, 8, 9, 29])
def test_a_long_prompt_is_computed_in_parts_of_equal_size(llm, monkeypatch, tokens, draft):
    prompt = [5 + i % 40 for i in range(tokens)]
    sequence = cache.CachedSequence(llm.decoder, 40, 16)
    whole, _ = sequence.after(prompt, draft)
    forward, sizes = llm.decoder.forward, []

    class Watched:
        def forward(self, ids, *args):
            sizes.append(len(ids))
            return forward(ids, *args)

    monkeypatch.setattr(cache, "CHUNK", 8)
    monkeypatch.setattr(sequence, "_decoder", Watched())
    sequence.forget()
    parts, reused = sequence.after(prompt, draft)
    assert reused == 0
    np.testing.assert_array_equal(parts, whole)
    assert sum(sizes) == tokens + len(draft)
    if draft:
        assert sizes.pop() == 1 + len(draft)
    assert len(sizes) == -(-(tokens - bool(draft)) // 8)
    assert max(sizes, default=0) <= 8
    assert max(sizes, default=0) - min(sizes, default=0) <= len(sizes)


def test_chat_renders_encodes_and_answers(llm):
    messages = [{"role": "system", "content": "Be wise."}, {"role": "user", "content": "Age?"}]
    prompt = llm.tokenizer.encode("[system] Be wise.\n[user] Age?\n[assistant] ")
    answer = llm.chat(messages, max_tokens=6)
    assert answer.token_ids == llm.generate(prompt, max_tokens=6).token_ids
    one = llm.tokenizer.encode("[user] Age?\n[assistant] ")
    assert llm.chat("Age?", max_tokens=6).token_ids == llm.generate(one, max_tokens=6).token_ids
    assert "".join(llm.stream_chat("Age?", max_tokens=6)) == llm.chat("Age?", max_tokens=6).text


def test_a_conversation_reuses_its_own_past(llm):
    past = [{"role": "user", "content": "Age?"}]
    answer = llm.chat(past, max_tokens=4)
    more = [
        *past,
        {"role": "assistant", "content": answer.text},
        {"role": "user", "content": "Why?"},
    ]
    assert llm.chat(more, max_tokens=4).timing.reused_tokens >= answer.timing.prompt_tokens


def test_a_context_that_memory_cannot_hold_is_an_option_error(tiny, monkeypatch):
    """Which size an allocator refuses is the machine's affair, so the native error is played."""

    def refuse(decoder, capacity, kv_bits):
        raise MemoryError("cache: no memory")

    monkeypatch.setattr(llm_module, "CachedSequence", refuse)
    wanted = r"context is 120 tokens, whose keys .* of 32 bits take 0 MB.* smaller context"
    with pytest.raises(OptionError, match=wanted):
        LLM(tiny, threads=1, context=120, kv_bits=32)


@pytest.mark.parametrize(
    "messages",
    [None, 5, {}, [], [{"role": "user"}], ["hi"], [{"role": "user", "content": 3}]],
    ids=str,
)
def test_messages_that_are_none_are_refused(llm, messages):
    with pytest.raises(InputError, match="chat: "):
        llm.chat(messages)


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ([], "The prompt has no tokens; give at least one"),
        ("", "The prompt has no tokens; give at least one"),
        ([1, 300], "Token 300 is not in the vocabulary; ids: 0 to 299"),
        (["a"], "Token 'a' is not in the vocabulary"),
        ([-1], "Token -1 is not in the vocabulary"),
        ([1] * 128, "has 128 tokens and the context holds 128"),
    ],
)
def test_prompts_that_cannot_be_are_refused_at_once(llm, prompt, message):
    with pytest.raises(InputError, match=message):
        llm.stream(prompt)


def test_ids_of_a_tokenizer_with_more_tokens_than_the_model_are_refused(
    tmp_path, architecture, tokenizer
):
    from onebit import SCHEMES, models

    model = models.build(architecture(vocab_size=260), SCHEMES["fp"], seed=0)
    models.save(model, tmp_path, tokenizer)
    with LLM(tmp_path) as llm:
        for ask in (llm.generate, llm.chat):
            with pytest.raises(InputError, match=r"Token 2\d\d is not in .* ids: 0 to 259"):
                ask(PROMPT)


@pytest.mark.parametrize("name", ["logits", "logprobs", "logits_after"])
def test_tokens_that_cannot_be_computed_are_refused(llm, name):
    compute = getattr(llm, name)
    compute([1, 2])
    for tokens, message in (
        ([1] * 129, "129 tokens to compute; accepted: 1 to 128"),
        ([], "0 tokens to compute"),
        ([1, 2, 300], "Token 300 is not in the vocabulary"),
        ([1, 2, -1], "Token -1 is not"),
        ([1, 2.5], "Token 2.5 is not"),
    ):
        with pytest.raises(InputError, match=message):
            compute(tokens)
    np.testing.assert_array_equal(compute(np.array([1, 2]))[0], compute([1, 2])[0])


def test_options_are_checked_before_anything_runs(llm):
    with pytest.raises(OptionError, match="top_p is 2"):
        llm.stream(PROMPT, top_p=2)
    with pytest.raises(OptionError, match="topp is no option"):
        llm.generate(PROMPT, topp=1)


def test_a_model_without_a_tokenizer_takes_and_gives_ids(tiny, tmp_path):
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_bytes((tiny / name).read_bytes())
    with LLM(tmp_path) as llm:
        generation = llm.generate([5, 6], max_tokens=3)
        assert len(generation.token_ids) == 3
        assert generation.text == ""
        with pytest.raises(MissingError, match="has no tokenizer; give token ids"):
            llm.generate("text")


def test_a_closed_model_says_so(tiny):
    with LLM(tiny) as llm:
        pass
    with pytest.raises(InputError, match="is closed"):
        llm.generate([1])


def test_a_generation_is_plain_data(llm):
    generation = llm.generate(PROMPT, max_tokens=3, logprobs=2)
    data = json.loads(json.dumps(generation.to_dict()))
    assert data["text"] == generation.text
    assert data["timing"]["generated_tokens"] == 3
    assert data["timing"]["decode_rate_tokens_per_s"] >= 0


def test_a_damaged_isa_name_is_one_line(tiny, monkeypatch):
    monkeypatch.setenv("ONEBIT_ISA", "avx9000")
    with pytest.raises(OnebitError, match="avx9000"):
        LLM(tiny)


def test_running_loads_no_torch(tiny):
    code = (
        "import sys, onebit\n"
        f"with onebit.LLM({str(tiny)!r}) as llm: llm.chat('Age?', max_tokens=3)\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
