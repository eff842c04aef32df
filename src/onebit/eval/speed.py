"""How long an engine takes to read a prompt and to write, after a check that it does both right.

A prompt is computed in one piece, an answer token by token, and the answers of a batch together, by
different code. All must come to the same bits, so that is asked first; a wrong engine is not timed.
"""

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from onebit.errors import OnebitError
from onebit.runtime.llm import LLM

if TYPE_CHECKING:
    from onebit.kernels.cpu import Memory

START = 16
"""Tokens of the prompt before the writing that is timed."""


def random_prompt(llm: LLM, tokens: int, seed: int = 0) -> list[int]:
    """Return ids drawn at random, the same every time: speed does not depend on their sense."""
    ids: list[int] = (
        np.random.default_rng(seed).integers(0, llm.architecture.vocab_size, tokens).tolist()
    )
    return ids


def kv_token_bytes(llm: LLM) -> int:
    """Return the bytes of keys and values for each token of a context, scales included: none where
    there is a state in their place."""
    short, long = (llm.decoder.new_cache(n, llm.kv_bits).size_bytes for n in (64, 192))
    return (long - short) // 128


def check(llm: LLM, tokens: int = 24, sequences: int = 3) -> None:
    """Compare the logits of a prompt computed in one piece with those of its tokens one by one, and
    with those of several sequences that take each step together.

    Raises:
        OnebitError: they differ in any bit; the engine promises that they do not.
    """
    prompt = random_prompt(llm, min(tokens, llm.context))
    whole_TV = llm.logits(prompt)
    together = Together(llm, [prompt[:1]] * sequences, capacity=len(prompt))
    llm.forget()
    for position in range(len(prompt)):
        single_V, _ = llm.logits_after(prompt[: position + 1])
        if position:
            together.step([prompt[position]] * sequences)
        for how, logits in (("token by token", single_V), ("in a batch", together.logits_SV)):
            if not np.array_equal(np.broadcast_to(whole_TV[position], logits.shape), logits):
                raise OnebitError(
                    f"bench: at position {position}, a prompt computed whole and {how} give "
                    "different logits. The engine is wrong on this machine; nothing was timed."
                )


def time_prefill(llm: LLM, tokens: int) -> float:
    """Return the seconds to compute a prompt of `tokens` from scratch."""
    prompt = random_prompt(llm, tokens)
    llm.forget()
    start_s = time.perf_counter()
    llm.logits_after(prompt)
    return time.perf_counter() - start_s


def time_decode(llm: LLM, tokens: int, after: int = START) -> float:
    """Return the seconds to write `tokens` greedily after a prompt, its time not counted.

    Args:
        llm: the model.
        tokens: to write.
        after: tokens of the prompt; what the cache already holds of it is not computed again.
    """
    text = random_prompt(llm, after)
    logits_V, _ = llm.logits_after(text)
    start_s = time.perf_counter()
    for _ in range(tokens):
        text.append(int(logits_V.argmax()))
        logits_V, _ = llm.logits_after(text)
    return time.perf_counter() - start_s


def time_together(llm: LLM, sequences: int, tokens: int) -> float:
    """Return the seconds in which several sequences write `tokens` each, step by step together."""
    prompts = [random_prompt(llm, START, seed) for seed in range(sequences)]
    together = Together(llm, prompts, START + tokens)
    start_s = time.perf_counter()
    for _ in range(tokens):
        together.step(together.logits_SV.argmax(axis=1))
    return time.perf_counter() - start_s


class Together:
    """Sequences of one model that take each step together, every one with a cache of its own."""

    def __init__(self, llm: LLM, prompts: Sequence[Sequence[int]], capacity: int) -> None:
        self._decoder = llm.decoder
        self._caches: list[Memory] = [
            self._decoder.new_cache(capacity, llm.kv_bits) for _ in prompts
        ]
        self.logits_SV = self._forward(prompts)
        """After the newest token of each sequence."""

    def step(self, tokens: Sequence[int] | NDArray[np.integer]) -> None:
        """Append a token to each sequence."""
        self.logits_SV = self._forward([[token] for token in tokens])

    def _forward(self, tokens: Sequence[Sequence[int]]) -> NDArray[np.float32]:
        arrays = [np.asarray(ids, np.int32) for ids in tokens]
        return self._decoder.step(self._caches, arrays, ["last"] * len(arrays))
