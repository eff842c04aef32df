"""How fast an engine reads a prompt and writes an answer, after a check that it does both right.

A prompt is computed in one piece and an answer token by token, by different code. Both must come to
the same answer, so that is asked first; a wrong engine is not timed.
"""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from onebit.errors import OnebitError, OptionError
from onebit.runtime.llm import LLM

PROMPTS = (128, 512)


@dataclass(frozen=True)
class Speed:
    """Medians over rounds, in tokens per second."""

    prefill_rates_tokens_per_s: dict[int, float]
    """Prompt length -> rate."""
    decode_rate_tokens_per_s: float
    decode_tokens: int
    """Written in a round, after a prompt of 16."""
    rounds: int
    threads: int
    token_bytes: int
    """Bytes of weights read to compute one token."""

    @property
    def weight_rate_bytes_per_s(self) -> float:
        """Weights read per second while writing: what the memory has to give."""
        return self.decode_rate_tokens_per_s * self.token_bytes

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        return asdict(self) | {"weight_rate_bytes_per_s": self.weight_rate_bytes_per_s}


def measure_speed(
    llm: LLM,
    prompts: Sequence[int] = PROMPTS,
    decode: int = 64,
    rounds: int = 3,
    begin: Callable[[], None] = lambda: None,
) -> Speed:
    """Time an engine. Prompts that its context cannot hold are left out.

    Args:
        llm: the model; its cache is emptied.
        prompts: lengths of prompts to time.
        decode: tokens to write in a round, at least 1.
        rounds: the median of this many is given.
        begin: called once the options are found good, before the check.

    Raises:
        OptionError: a number is below 1, or the context cannot hold the decode test.
        OnebitError: prompt and token-by-token computation disagree.
    """
    if min(decode, rounds, *prompts) < 1 or 16 + decode > llm.context:
        raise OptionError(
            f"bench: decode {decode}, rounds {rounds}, prompts {list(prompts)}; accepted: at least "
            f"1 each, and at most {llm.context - 16} tokens to decode, for this context."
        )
    begin()
    check(llm)
    lengths = [n for n in prompts if n <= llm.context]
    prefill: dict[int, list[float]] = {n: [] for n in lengths}
    writing = []
    for _ in range(rounds):  # interleaved: a slow moment of the machine meets all alike
        for n in lengths:
            prefill[n].append(n / time_prefill(llm, n))
        writing.append(decode / time_decode(llm, decode))
    return Speed(
        {n: statistics.median(rates) for n, rates in prefill.items()},
        statistics.median(writing),
        decode,
        rounds,
        llm.threads,
        llm.token_bytes,
    )


def check(llm: LLM, tokens: int = 24) -> None:
    """Compare the logits of a prompt computed in one piece with those of its tokens one by one.

    Raises:
        OnebitError: they differ in any bit; the engine promises that they do not.
    """
    prompt = _prompt(llm, min(tokens, llm.context))
    whole_TV = llm.logits(prompt)
    llm.forget()
    for position in range(len(prompt)):
        single_V, _ = llm.logits_after(prompt[: position + 1])
        if not np.array_equal(single_V, whole_TV[position]):
            raise OnebitError(
                f"bench: at position {position}, a prompt computed whole and token by token give "
                "different logits. The engine is wrong on this machine; nothing was timed."
            )


def time_prefill(llm: LLM, tokens: int) -> float:
    """Return the seconds to compute a prompt of `tokens` from scratch."""
    prompt = _prompt(llm, tokens)
    llm.forget()
    start_s = time.perf_counter()
    llm.logits_after(prompt)
    return time.perf_counter() - start_s


def time_decode(llm: LLM, tokens: int) -> float:
    """Return the seconds to write `tokens` greedily after a prompt of 16, its time not counted."""
    text = _prompt(llm, 16)
    llm.forget()
    logits_V, _ = llm.logits_after(text)
    start_s = time.perf_counter()
    for _ in range(tokens):
        text.append(int(logits_V.argmax()))
        logits_V, _ = llm.logits_after(text)
    return time.perf_counter() - start_s


def _prompt(llm: LLM, tokens: int) -> list[int]:
    """Return ids drawn at random, the same every time: speed does not depend on their sense."""
    ids: list[int] = (
        np.random.default_rng(0).integers(0, llm.architecture.vocab_size, tokens).tolist()
    )
    return ids
