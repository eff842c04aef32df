"""One generation in progress: an iterator over pieces of text."""

import time
from collections.abc import Callable, Generator, Iterator
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from onebit.runtime.answer import Answer
from onebit.runtime.generation import Generation

Compute: TypeAlias = Callable[[Answer, list[int]], tuple[NDArray[np.float32], int]]
"""Returns the logits after an answer's tokens and after each token of a draft, (1 + drafted, V),
and how many of the answer's tokens were still in the cache."""


class Stream(Iterator[str]):
    """Yields text as it comes. `generation` is what there is so far, at the end the whole answer.

    Nothing is computed before the first piece is asked for. Closing early is allowed.
    """

    def __init__(self, answer: Answer, compute: Compute) -> None:
        self._answer = answer
        self._compute = compute
        self._pieces = self._run()

    def __next__(self) -> str:
        return next(self._pieces)

    def close(self) -> None:
        """End the generation here. The model is free for the next call."""
        self._pieces.close()

    @property
    def generation(self) -> Generation:
        """The answer so far; `finish_reason` is "closed" while it is not finished."""
        return self._answer.generation

    def _run(self) -> Generator[str, None, None]:
        answer = self._answer
        while answer.finish is None:
            start_s = time.perf_counter()
            draft = answer.draft()
            logits_RV, reused = self._compute(answer, draft)
            if not answer.begun:
                answer.reused_tokens = reused
                computed_s = time.perf_counter()
                answer.prompt_time_s = computed_s - start_s
                start_s = computed_s
            piece = answer.take(logits_RV, draft)
            answer.decode_time_s += time.perf_counter() - start_s
            if piece:
                yield piece
