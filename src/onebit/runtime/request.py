"""One prompt among those that a batch works on: its text as it comes, and how it ended."""

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from onebit.errors import OnebitError
from onebit.runtime.answer import Answer
from onebit.runtime.cache import CachedSequence
from onebit.runtime.generation import FinishReason, Generation

if TYPE_CHECKING:
    from onebit.runtime.batch import Batch


class Request(Iterator[str]):
    """What `Batch.add` returns.

    `take` hands out what text there is. Iterating does too, and steps the whole batch where there
    is none yet, so a request can be read like the stream of an LLM while others go on beside it.
    """

    def __init__(self, batch: "Batch", answer: Answer) -> None:
        self.answer = answer
        self.error: OnebitError | None = None
        """What ended it, if something went wrong with it."""
        self.sequence: CachedSequence | None = None
        """Where its keys and values are, while it is computed."""
        self._batch = batch
        self._new: list[str] = []
        self._since_s = 0.0  # when its prompt was begun, then when its first logits came

    def __next__(self) -> str:
        while True:
            if text := self.take():
                return text
            if self.finished:
                if self.error is not None:
                    raise self.error
                raise StopIteration
            self._batch.step()

    @property
    def finished(self) -> bool:
        """Whether it has ended, for whatever reason."""
        return self.answer.finish is not None

    @property
    def generation(self) -> Generation:
        """The answer so far; `finish_reason` is "closed" while it is not finished."""
        return self.answer.generation

    def take(self) -> str:
        """Return the text that has come since the last call."""
        count = len(self._new)  # a step in another thread may be adding to it
        text = "".join(self._new[:count])
        del self._new[:count]
        return text

    def cancel(self) -> None:
        """End it here, if it has not ended. Its place is free for another."""
        self._batch.cancel(self)

    def begin(self, sequence: CachedSequence) -> None:
        """Take a place, for the batch to compute in."""
        self.sequence = sequence
        self._since_s = time.perf_counter()

    def advance(self, logits_RV: NDArray[np.float32], draft: list[int]) -> bool:
        """Choose tokens; see `Answer.take`. Return whether there is new text, or it has ended."""
        if not self.answer.begun:
            self._count_time()
        try:
            piece = self.answer.take(logits_RV, draft)
            if piece:
                self._new.append(piece)
        except OnebitError as error:
            self.error = error
            self.end("error")
            return True
        except BaseException:  # interrupted between two tokens or inside one: nobody knows
            self.answer.finish = "closed"
            raise
        if self.finished:
            self._count_time()
        return self.finished or bool(piece)

    def end(self, reason: FinishReason) -> None:
        """Say why it ends, if it has not ended by itself."""
        if not self.finished:
            self.answer.finish = reason
            self._count_time()

    def _count_time(self) -> None:
        now_s = time.perf_counter()
        if self.sequence is None:
            return
        if self.answer.begun:
            self.answer.decode_time_s = now_s - self._since_s
        else:
            self.answer.prompt_time_s, self._since_s = now_s - self._since_s, now_s
