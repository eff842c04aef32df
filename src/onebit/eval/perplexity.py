"""Perplexity and bits per byte of a text, by one protocol for every model.

The text is cut into tokens by the model's own tokenizer, without special tokens, and the tokens
into windows that do not overlap. Each window starts from nothing, so its first token cannot be
scored; every other one is. Where the model's tokenizer puts a begin token before each text, as
Gemma's does, each window begins with it too, in place of one token of text, and all of the text is
scored: such models predict badly without. Perplexity is exp(mean NLL) per token and depends on the
vocabulary; bits per byte spreads the mean over the text's UTF-8 bytes and compares across
tokenizers. Numbers by other protocols (overlapping windows, say) are not comparable with these.

Shape letters: T tokens of a window, V vocabulary.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from onebit.architecture import NO_LIMIT
from onebit.errors import InputError, OnebitError, OptionError
from onebit.runtime.llm import LLM

if TYPE_CHECKING:  # a process that times a load imports this package too
    from onebit.data import Tokenizer
    from onebit.models import LanguageModel

WINDOW = 512

Score: TypeAlias = Callable[[Sequence[int]], NDArray[np.float64]]
"""Tokens of a window (T) to log-probabilities of all but the first (T - 1)."""


@dataclass(frozen=True)
class Perplexity:
    """A measurement, with what it takes to repeat it."""

    perplexity: float
    """exp(nll_per_token)."""
    nll_per_token: float
    """Mean negative log-likelihood of the scored tokens, in nats."""
    bits_per_byte: float | None
    """The mean, for all tokens of the text, in bits per UTF-8 byte; None if given as ids alone."""
    scored_tokens: int
    tokens: int
    """Of the text, scored or not."""
    windows: int
    window: int
    """Tokens in a window; the last may have fewer."""
    size_bytes: int | None
    """Of the text, in UTF-8."""
    bos: bool = False
    """Whether each window began with the vocabulary's begin token."""

    @property
    def protocol(self) -> str:
        """What was done, in a sentence."""
        first = "its begin token first in each of" if self.bos else "no special tokens;"
        scored = "every token of the text" if self.bos else "every token but a window's first"
        return (
            f"{self.tokens} tokens by the model's own tokenizer, {first} "
            f"{self.windows} windows of up to {self.window} tokens that do not overlap; "
            f"{scored} scored ({self.scored_tokens}); "
            "bits per byte: mean NLL x tokens / UTF-8 bytes."
        )

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        return asdict(self) | {"protocol": self.protocol}


def perplexity(
    model: "LLM | LanguageModel",
    text: str | Sequence[int],
    window: int | None = None,
    tokenizer: "Tokenizer | None" = None,
    progress: Callable[[int, int], None] | None = None,
    bos: int | None = None,
) -> Perplexity:
    """Measure how well a model predicts a text.

    Args:
        model: an engine (`LLM`), or a torch `LanguageModel`.
        text: a text, or its token ids.
        window: tokens scored together, from 2 to the model's context; None takes 512, or the
            context if that is shorter.
        tokenizer: for a torch model and a text; an LLM brings its own.
        progress: called with (windows done, windows in all) after each.
        bos: the token to begin each window with, for ids; of a text, None takes what the tokenizer
            begins its texts with, if anything.

    Raises:
        OptionError: the window does not fit the model.
        InputError: the text has fewer than two tokens, or needs a tokenizer.
        OnebitError: the model gives a probability that is no number.
    """
    score, longest = _scorer(model)
    if window is None:
        window = min(WINDOW, longest)
    if not 2 <= window <= longest:
        accepted = "2 or more" if longest == NO_LIMIT else f"2 to {longest}"
        raise OptionError(f"window is {window}; accepted for this model: {accepted}.")
    if isinstance(text, str):
        if tokenizer is None and isinstance(model, LLM):
            tokenizer = model.tokenizer
        if bos is None and tokenizer is not None and tokenizer.add_bos:
            bos = tokenizer.bos_id
    tokens = _tokens(text, tokenizer)
    windows = [w for w in _cut(tokens, window, bos) if len(w) > 1]
    if not windows:
        raise InputError("The text has fewer than two tokens; nothing can be scored. Give more.")
    total = 0.0
    for done, ids in enumerate(windows, 1):
        total -= float(score(ids).sum())
        if progress:
            progress(done, len(windows))
    if not math.isfinite(total):
        raise OnebitError(
            f"perplexity: the model's log-probabilities add up to {total}. Its weights hold a "
            "number that is not finite (`onebit verify` names it), or it overflows."
        )
    scored = sum(len(w) - 1 for w in windows)
    mean = total / scored
    size = len(text.encode()) if isinstance(text, str) else None
    return Perplexity(
        perplexity=math.exp(mean) if mean < 700 else math.inf,
        nll_per_token=mean,
        bits_per_byte=mean * len(tokens) / (size * math.log(2)) if size else None,
        scored_tokens=scored,
        tokens=len(tokens),
        windows=len(windows),
        window=window,
        size_bytes=size,
        bos=bos is not None,
    )


def _tokens(text: str | Sequence[int], tokenizer: "Tokenizer | None") -> Sequence[int]:
    if not isinstance(text, str):
        return text
    if tokenizer is None:
        raise InputError("perplexity: a torch model has no tokenizer; pass one, or token ids.")
    return tokenizer.encode(text)


def _cut(tokens: Sequence[int], window: int, bos: int | None) -> list[Sequence[int]]:
    begin = [] if bos is None else [bos]
    step = window - len(begin)
    starts = range(0, len(tokens), step)
    return [[*begin, *tokens[start : start + step]] for start in starts]


def _scorer(model: "LLM | LanguageModel") -> tuple[Score, int]:
    """Return the function that scores a window, and the longest window it takes."""
    if isinstance(model, LLM):
        return model.logprobs, model.context
    return _torch_scorer(model), model.architecture.longest


def _torch_scorer(model: "LanguageModel") -> Score:
    import torch

    device = next(model.parameters()).device

    @torch.no_grad()
    def score(ids: Sequence[int]) -> NDArray[np.float64]:
        tokens_T = torch.tensor(list(ids), device=device)
        logits_TV = model(tokens_T[None, :])[0, :-1].double()
        logprob_TV = torch.log_softmax(logits_TV, dim=-1)
        chosen: NDArray[np.float64] = logprob_TV.gather(1, tokens_T[1:, None])[:, 0].cpu().numpy()
        return chosen

    return score
