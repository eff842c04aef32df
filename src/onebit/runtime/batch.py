"""Many prompts at once: one pass over the weights serves every sequence.

    with LLM("smollm2") as llm, Batch(llm) as batch:
        answers = batch.generate(["The capital of France is", "Once upon a time"], max_tokens=20)

        request = batch.add("The opposite of hot is", max_tokens=5)  # at any time
        while batch.busy:
            for request in batch.step():
                print(request.take(), end="", flush=True)

A step computes, for every sequence that writes, its next token (and what it drafts), and a piece of
the prompts that are not read yet. The answers are those that each prompt gets alone, to the bit.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from threading import Lock
from typing import Any

import numpy as np

from onebit.errors import InputError, OptionError
from onebit.runtime.cache import CHUNK, CachedSequence, common_prefix
from onebit.runtime.generation import Generation
from onebit.runtime.llm import LLM, Messages, Prompt
from onebit.runtime.options import GenerateOptions, whole_number
from onebit.runtime.pool import CachePool
from onebit.runtime.request import Request

WORTH_WAITING = 16
"""Tokens of a beginning in common for which a prompt waits until another has computed them."""


@dataclass(frozen=True)
class _Work:
    """What a step computes for one sequence."""

    request: Request
    sequence: CachedSequence
    tokens: list[int]
    draft: list[int]
    logits: str

    @property
    def rows(self) -> int:
        return 0 if self.logits == "none" else 1 + len(self.draft)


class Batch:
    """Sequences of one model that are computed together, and may come and go at any step.

    It starts no threads of its own and computes only inside `step` (which `generate` and iterating
    over a request call). Calls from several threads take turns. If `step` is interrupted, the
    request whose token was just being chosen is closed; the others go on with the next step as if
    nothing had been, and text that had come can still be taken.
    """

    def __init__(
        self,
        llm: LLM,
        sequences: int = 8,
        prompt_tokens: int = 128,
        cache_bytes: int | None = None,
    ) -> None:
        """Make a batch without requests.

        Args:
            llm: the model; it has to stay open.
            sequences: most that are in memory together, those that are computed and finished ones
                whose beginnings may be used again. Requests beyond it wait their turn.
            prompt_tokens: prompt tokens computed in a step at most while others write, who wait for
                them.
            cache_bytes: memory for keys and values; what it cannot hold lowers `sequences`. None
                sets no limit.

        Raises:
            OptionError: a number is out of range, or one sequence does not fit into memory.
        """
        most = whole_number("sequences", sequences, 1, 4096)
        self._prompt_tokens = whole_number("prompt_tokens", prompt_tokens, 1, None)
        self._llm = llm
        pool = CachePool(llm.new_sequence, most)
        if cache_bytes is not None:
            one = pool.sequence_bytes
            if whole_number("cache_bytes", cache_bytes, 1, None) < one:
                if llm.architecture.recurrent:
                    takes, advice = "the state of one sequence", ""
                else:
                    takes = f"one sequence of {llm.context} tokens"
                    advice = " Or open the model with less context."
                raise OptionError(
                    f"cache_bytes is {cache_bytes}; accepted: {one}, which {takes} takes, or "
                    f"more.{advice}"
                )
            pool.most = min(most, cache_bytes // one)
        self._pool: CachePool | None = pool
        self._requests: list[Request] = []  # in the order they came; the first few are computed
        self._turn = Lock()  # held while sequences change, and requests leave

    def __enter__(self) -> "Batch":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """End all requests and free their memory, after the step that is going on if there is one,
        for which it does not wait. Further use is an error."""
        self._pool = None
        for request in list(self._requests):
            request.end("closed")
        if self._turn.acquire(blocking=False):
            try:
                self._release()
            finally:
                self._turn.release()

    @property
    def busy(self) -> bool:
        """Whether a request is not finished."""
        return any(not request.finished for request in list(self._requests))

    def add(self, prompt: Prompt, **options: Any) -> Request:
        """Add a prompt, a text or token ids; options are the fields of `GenerateOptions`.

        Raises:
            OptionError, InputError: as `LLM.generate`; the batch is as it was.
        """
        return self._add(self._llm.encode(prompt), options)

    def add_chat(self, messages: Messages, **options: Any) -> Request:
        """Add a conversation to answer; see `LLM.chat`."""
        return self._add(self._llm.encode_chat(messages), options)

    def generate(self, prompts: Sequence[Prompt], **options: Any) -> list[Generation]:
        """Continue all prompts, and return the generations in their order.

        Raises:
            OptionError, InputError: as `add`, before anything is computed.
            OnebitError: a generation failed; the first such error, after all have ended.
        """
        if isinstance(prompts, str):
            raise InputError(f"prompts is the text {prompts!r:.80}; give a list of prompts.")
        requests: list[Request] = []
        try:
            for prompt in prompts:
                requests.append(self.add(prompt, **options))
            for request in requests:
                while not request.finished:
                    self.step()
        finally:
            for request in requests:
                request.cancel()
        for request in requests:
            if request.error is not None:
                raise request.error
        return [request.generation for request in requests]

    def cancel(self, request: Request) -> None:
        """End a request here, if it has not ended; the next step lets go of it.

        This waits for no other call, so a handler of signals may do it too.
        """
        request.end("closed")

    def step(self) -> list[Request]:
        """Compute one step for all; return the requests that have new text or have ended.

        Does nothing where nothing is waiting.
        """
        with self._turn:
            return self._step()

    def _step(self) -> list[Request]:
        pool = self._open_pool()
        decoder = self._llm.decoder
        self._llm.prepare()
        self._release()
        works = self._plan(pool)
        if not works:
            return []
        logits_RV = decoder.step(
            [work.sequence.cache for work in works],
            [np.array(work.tokens + work.draft, np.int32) for work in works],
            [work.logits for work in works],
        )
        for work in works:
            work.sequence.extend(work.tokens + work.draft)
        changed, row = [], 0
        for work in works:
            rows = logits_RV[row : row + work.rows]
            row += work.rows
            if work.request.finished or not work.rows:  # cancelled meanwhile; a prompt's piece
                continue
            if work.request.advance(rows, work.draft):
                changed.append(work.request)
        self._release()
        return changed

    def _add(self, prompt: list[int], options: dict[str, Any]) -> Request:
        request = Request(self, self._llm.new_answer(prompt, GenerateOptions.of(options)))
        self._open_pool()
        self._requests.append(request)  # without a turn: a signal's handler may come during a step
        return request

    def _plan(self, pool: CachePool) -> list[_Work]:
        """Return what to compute: all that write, and pieces of prompts in the order they came."""
        live = self._requests[: pool.most]
        writing = any(request.answer.begun for request in live)
        room = self._prompt_tokens if writing else max(self._prompt_tokens, CHUNK)
        works: list[_Work] = []
        for place, request in enumerate(live):
            answer, sequence = request.answer, request.sequence
            if not answer.begun:
                if room == 0 or (sequence is None and _better_wait(pool, live, place)):
                    continue
                if sequence is None:
                    sequence = _begin(pool, request, self._requests)
            if sequence is None:  # there was no memory for as many: one of the others ends first
                continue
            tokens = answer.tokens[sequence.begin(answer.tokens, answer) :]
            logits, draft = "last", answer.draft()
            if draft and not sequence.expect_guesses(len(tokens)):
                draft = []
            if not answer.begun:
                logits = "last" if len(tokens) <= room else "none"
                tokens = tokens[:room]
                room -= len(tokens)
            works.append(_Work(request, sequence, tokens, draft, "all" if draft else logits))
        return works

    def _release(self) -> None:
        """Let go of requests that have ended; what they computed stays in the pool for others."""
        for request in [r for r in self._requests if r.finished]:
            if request.sequence is not None and self._pool is not None:
                self._pool.touch(request.sequence)
            request.sequence = None
            self._requests.remove(request)

    def _open_pool(self) -> CachePool:
        if self._pool is None:
            raise InputError("This Batch is closed; make another.")
        return self._pool


def _begin(pool: CachePool, request: Request, others: list[Request]) -> CachedSequence | None:
    """Give a request a place, with what is known of its beginning; None if there is no room."""
    answer = request.answer
    sequence = pool.take(answer.tokens, [r.sequence for r in others if r.sequence is not None])
    if sequence is not None:
        answer.reused_tokens = sequence.begin(answer.tokens, answer)
        request.begin(sequence)
    return sequence


def _better_wait(pool: CachePool, live: list[Request], place: int) -> bool:
    """Whether a prompt's beginning is just being computed for one that came before it."""
    if not pool.cuts:
        return False
    tokens = live[place].answer.tokens
    shared = 0
    for other in live[:place]:
        if not other.answer.begun and other.sequence is not None:
            shared = max(shared, common_prefix(other.answer.tokens, tokens))
    return shared >= pool.held(tokens) + WORTH_WAITING
