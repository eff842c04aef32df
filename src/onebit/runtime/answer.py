"""One answer in the making: from rows of logits to tokens and text.

Whoever computes the logits, for one sequence (stream.py) or for many together (batch.py), the
choice is made here, place by place and in order, so an answer does not depend on who computed it.

Shape letters: R rows of logits, V vocabulary.
"""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from onebit.runtime.draft import PromptLookup
from onebit.runtime.generation import FinishReason, Generation, Timing, TokenLogprob
from onebit.runtime.options import GenerateOptions
from onebit.runtime.sampling import SeenTokens, choose, token_logprob
from onebit.runtime.stopping import StopTexts


class TextDecoder(Protocol):
    """Turns tokens into text; holds back bytes that are not yet a whole character."""

    def feed(self, token: int) -> str: ...
    def flush(self) -> str: ...


class Answer:
    """Chooses tokens and knows when to end. It computes nothing and waits for no one."""

    def __init__(
        self,
        prompt: Sequence[int],
        options: GenerateOptions,
        decoder: TextDecoder,
        end_ids: frozenset[int],
        context: int,
    ) -> None:
        """`end_ids`: tokens that end the answer. `context`: most tokens of prompt and answer."""
        self.tokens = list(prompt)
        """The prompt and all that was chosen. It only ever gets longer."""
        self.finish: FinishReason | None = None
        """Why it ended; None while it goes on."""
        self.reused_tokens = 0
        self.prompt_time_s = 0.0
        self.decode_time_s = 0.0
        self._prompt_tokens = len(prompt)
        self._most_tokens = min(len(prompt) + options.max_tokens, context)
        self._options = options
        self._decoder = decoder
        self._end_ids = end_ids
        self._context = context
        self._stop = StopTexts(options.stop)
        self._rng = np.random.default_rng(options.seed)
        self._seen = SeenTokens(self.tokens)
        self._lookup = PromptLookup(self.tokens, options.draft) if options.draft else None
        self._drafted = self._accepted = 0
        self._text: list[str] = []
        self._logprobs: list[TokenLogprob] = []

    @property
    def begun(self) -> bool:
        """Whether a token was chosen."""
        return len(self.tokens) > self._prompt_tokens

    @property
    def generation(self) -> Generation:
        """The answer so far; `finish_reason` is "closed" while it is not finished."""
        ids = tuple(self.tokens[self._prompt_tokens :])
        timing = Timing(
            prompt_tokens=self._prompt_tokens,
            reused_tokens=self.reused_tokens,
            prompt_time_s=self.prompt_time_s,
            generated_tokens=len(ids),
            decode_time_s=self.decode_time_s,
            drafted_tokens=self._drafted,
            accepted_tokens=self._accepted,
        )
        reason = self.finish or "closed"
        return Generation("".join(self._text), ids, reason, tuple(self._logprobs), timing)

    def draft(self) -> list[int]:
        """Return tokens to compute along with the newest, in the hope that they come next."""
        if self._lookup is None or not self.begun:
            return []
        return self._lookup.draft(self._most_tokens - len(self.tokens) - 1)

    def take(self, logits_RV: NDArray[np.float32], draft: Sequence[int] = ()) -> str:
        """Choose the next tokens; return the text that is now certain.

        Args:
            logits_RV: after the newest token, and after each token of the draft.
            draft: what `draft` returned. Its tokens count up to the first that is not chosen; the
                choice made in its place is the last of this step.

        Raises:
            FormatError: a logit is NaN or infinite.
        """
        pieces, count = [], 0
        for place, logits_V in enumerate(logits_RV):
            pieces.append(self._advance(logits_V))
            count = place
            if self.finish or place == len(draft) or self.tokens[-1] != draft[place]:
                break
        self._drafted += len(draft)
        self._accepted += count
        piece = "".join(pieces)
        if piece:
            self._text.append(piece)
        return piece

    def _advance(self, logits_V: NDArray[np.float32]) -> str:
        token = choose(logits_V, self._seen, self._options, self._rng)
        if token in self._end_ids:
            self.finish = "stop"
            return self._rest()
        self.tokens.append(token)
        if self._options.logprobs:
            self._logprobs.append(token_logprob(logits_V, token, self._options.logprobs))
        piece = self._stop.feed(self._decoder.feed(token))
        if self._stop.found is not None:
            self.finish = "stop"
        elif len(self.tokens) == self._most_tokens:
            limited = len(self.tokens) - self._prompt_tokens == self._options.max_tokens
            self.finish = "length" if limited else "context"
            piece += self._rest()
        return piece

    def _rest(self) -> str:
        return self._stop.feed(self._decoder.flush()) + self._stop.flush()
