"""One generation in progress: an iterator over pieces of text."""

import time
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from onebit.runtime.generation import FinishReason, Generation, Timing, TokenLogprob
from onebit.runtime.options import GenerateOptions
from onebit.runtime.sampling import choose, log_softmax
from onebit.runtime.stopping import StopTexts

LogitsAfter: TypeAlias = Callable[[list[int]], tuple[NDArray[np.float32], int]]
"""Returns the logits (V,) after a sequence, and how many of its tokens were still in the cache."""


class TextDecoder(Protocol):
    """Turns tokens into text; holds back bytes that are not yet a whole character."""

    def feed(self, token: int) -> str: ...
    def flush(self) -> str: ...


class Stream(Iterator[str]):
    """Yields text as it comes. `generation` is what there is so far, at the end the whole answer.

    Nothing is computed before the first piece is asked for. Closing early is allowed.
    """

    def __init__(
        self,
        logits_after: LogitsAfter,
        decoder: TextDecoder,
        prompt: Sequence[int],
        options: GenerateOptions,
        end_ids: frozenset[int],
        context: int,
    ) -> None:
        """`end_ids`: tokens that end the answer. `context`: most tokens of prompt and answer."""
        self._logits_after = logits_after
        self._decoder = decoder
        self._prompt_tokens = len(prompt)
        self._tokens = list(prompt)  # and all that is chosen
        self._options = options
        self._end_ids = end_ids
        self._context = context
        self._stop = StopTexts(options.stop)
        self._rng = np.random.default_rng(options.seed)
        self._text: list[str] = []
        self._logprobs: list[TokenLogprob] = []
        self._finish: FinishReason = "closed"
        self._reused = 0
        self._prompt_time_s = 0.0
        self._decode_time_s = 0.0
        self._pieces = self._run()

    def __next__(self) -> str:
        return next(self._pieces)

    def close(self) -> None:
        """End the generation here. The model is free for the next call."""
        self._pieces.close()

    @property
    def generation(self) -> Generation:
        """The answer so far; `finish_reason` is "closed" while it is not finished."""
        ids = tuple(self._tokens[self._prompt_tokens :])
        times = (self._reused, self._prompt_time_s, len(ids), self._decode_time_s)
        timing = Timing(self._prompt_tokens, *times)
        return Generation("".join(self._text), ids, self._finish, tuple(self._logprobs), timing)

    def _run(self) -> Generator[str, None, None]:
        finish = None
        while finish is None:
            start_s = time.perf_counter()
            logits, reused = self._logits_after(self._tokens)
            computed_s = time.perf_counter()
            if len(self._tokens) == self._prompt_tokens:
                self._reused = reused
                self._prompt_time_s = computed_s - start_s
                start_s = computed_s
            piece, finish = self._advance(logits)
            self._decode_time_s += time.perf_counter() - start_s
            self._finish = finish or "closed"
            if piece:
                self._text.append(piece)
                yield piece

    def _advance(self, logits: NDArray[np.float32]) -> tuple[str, FinishReason | None]:
        """Choose a token; return the text that is now certain, and why to end if it ends here."""
        token = choose(logits, self._tokens, self._options, self._rng)
        if token in self._end_ids:
            return self._rest(), "stop"
        self._tokens.append(token)
        if self._options.logprobs:
            self._logprobs.append(token_logprob(logits, token, self._options.logprobs))
        piece = self._stop.feed(self._decoder.feed(token))
        if self._stop.found is not None:
            return piece, "stop"
        if len(self._tokens) - self._prompt_tokens == self._options.max_tokens:
            return piece + self._rest(), "length"
        if len(self._tokens) == self._context:
            return piece + self._rest(), "context"
        return piece, None

    def _rest(self) -> str:
        return self._stop.feed(self._decoder.flush()) + self._stop.flush()


def token_logprob(logits_V: NDArray[np.float32], token: int, top: int) -> TokenLogprob:
    """Return the log-probability of `token` and of the `top` likeliest tokens."""
    logprob_V = log_softmax(logits_V)
    top = min(top, logprob_V.size)
    likeliest = np.flatnonzero(logprob_V >= np.partition(logprob_V, -top)[-top])
    likeliest = likeliest[np.argsort(-logprob_V[likeliest], kind="stable")][:top]
    pairs = tuple((int(id), float(logprob_V[id])) for id in likeliest)
    return TokenLogprob(token, float(logprob_V[token]), pairs)
