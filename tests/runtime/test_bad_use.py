"""What should not be done: interrupts at any moment, and more threads than the machine has."""

import itertools
import signal
import sys
from pathlib import Path

import pytest

from onebit import LLM, Batch
from onebit.errors import OnebitError, OptionError, UnsupportedError

PROMPT = "It was the best of times"
PROMPTS = [PROMPT, [7, 8], list(range(30, 100)), PROMPT, [9] * 20]


def plain(generation):
    """Everything but the times."""
    return generation.text, generation.token_ids, generation.finish_reason, generation.logprobs


def run(batch):
    while batch.busy:
        batch.step()


def interrupted(work, delay_s):
    """Do some work with Ctrl-C after a while, wherever it is then; return whether it was hit."""
    armed = True

    def ring(number, frame):
        if armed:
            raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, ring)
    hit = False
    try:
        try:
            signal.setitimer(signal.ITIMER_REAL, delay_s)
            work()
        finally:
            armed = False
    except KeyboardInterrupt:
        hit = True
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)
    return hit


needs_alarm = pytest.mark.skipif(sys.platform == "win32", reason="has no SIGALRM")


@needs_alarm
@pytest.mark.parametrize("options", [{}, {"draft": 4}, {"temperature": 1.0, "seed": 1}], ids=str)
def test_a_generation_interrupted_anywhere_leaves_the_model_usable(llm, options):
    long = list(range(100))
    expected = plain(llm.generate(PROMPT, max_tokens=12, **options))

    def work():
        for prompt in itertools.cycle([long, PROMPT, [5]]):
            llm.generate(prompt, max_tokens=25, **options)

    for i in range(60):
        assert interrupted(work, 2e-5 * 1.12**i)
        assert plain(llm.generate(PROMPT, max_tokens=12, **options)) == expected


@needs_alarm
def test_a_batch_interrupted_anywhere_goes_on(llm):
    options = {"max_tokens": 25, "draft": 3}
    expected = [plain(llm.generate(p, **options)) for p in PROMPTS]
    interrupts = closed = 0
    for i in range(40):
        with Batch(llm, sequences=3, prompt_tokens=20) as batch:
            requests = [batch.add(p, **options) for p in PROMPTS]
            delay_s = 5e-5 * 1.1**i
            while batch.busy:
                interrupts += interrupted(lambda: run(batch), delay_s)
                delay_s *= 1.5  # or no step would ever come to its end
            ended = [plain(request.generation) for request in requests]
            closed += sum(reason == "closed" for _, _, reason, _ in ended)
            for found, wanted in zip(ended, expected, strict=True):
                assert found == wanted or found[2] == "closed"
            with Batch(llm) as after:
                assert [plain(g) for g in after.generate(PROMPTS, **options)] == expected
    assert interrupts > 20
    assert closed <= interrupts


def test_more_threads_than_cpus_change_nothing(tiny):
    """As many as a careless caller may ask for; the system may give fewer."""
    with LLM(tiny, threads=1) as llm:
        expected = plain(llm.generate(PROMPT, max_tokens=8))
    with LLM(tiny, threads=200) as llm:
        assert plain(llm.generate(PROMPT, max_tokens=8)) == expected
    with pytest.raises(OptionError, match=r"threads is 1025; accepted: .* from 1 to 1024"):
        LLM(tiny, threads=1025)


def test_an_isa_that_is_gone_while_running_is_one_line(llm, monkeypatch):
    expected = plain(llm.generate(PROMPT, max_tokens=8))
    stream = llm.stream(PROMPT, max_tokens=8)
    next(stream)
    with Batch(llm) as batch:
        request = batch.add(PROMPT, max_tokens=8)
        batch.step()
        with monkeypatch.context() as patch:
            patch.setenv("ONEBIT_ISA", "avx9000")
            for use in (lambda: next(stream), batch.step, lambda: llm.generate(PROMPT)):
                with pytest.raises(UnsupportedError, match="avx9000 does not run here"):
                    use()
        while batch.busy:
            batch.step()
        assert plain(request.generation) == expected
    assert plain(llm.generate(PROMPT, max_tokens=8)) == expected


@pytest.mark.skipif(sys.platform != "linux", reason="bounds its own address space")
def test_a_cache_that_memory_cannot_hold_is_an_option_error(tmp_path, architecture, tokenizer):
    """The real allocator, in a process that may not have more than a GB on top."""
    import resource

    from onebit import SCHEMES, models

    longest = 1 << 26
    model = models.build(architecture(max_position_embeddings=longest), SCHEMES["fp"], seed=0)
    models.save(model, tmp_path, tokenizer)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    limit = pages * resource.getpagesize() + (1 << 30)
    resource.setrlimit(resource.RLIMIT_AS, (limit, hard))
    try:
        with pytest.raises(OptionError, match=r"keys and values of 16 bits take 17,180 MB"):
            LLM(tmp_path, context=longest, kv_bits=16)
        with LLM(tmp_path, context=1_000_000, kv_bits=16) as llm, Batch(llm) as batch:
            answers = batch.generate([[i] for i in range(5, 13)], max_tokens=3)
            assert [len(a.token_ids) for a in answers] == [3] * 8
            assert batch._pool.most < 8  # it did with what it got
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def test_closing_twice_and_use_after_closing(tiny):
    llm = LLM(tiny)
    stream = llm.stream(PROMPT, max_tokens=8)
    next(stream)
    llm.close()
    llm.close()
    uses = (
        lambda: next(stream),
        lambda: llm.stream(PROMPT),
        lambda: llm.logits([1]),
        lambda: llm.logits_after([1]),
        lambda: Batch(llm),
        llm.forget,
    )
    for use in uses:
        with pytest.raises(OnebitError, match="is closed; open it again"):
            use()
    stream.close()
