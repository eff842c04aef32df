"""From logits to a token: pure functions over one row of V logits.

The order is penalty, temperature, top-k, top-p, min-p, draw. A removed token has logit -inf, so
each step takes and returns a whole row and the steps do not need to know of one another.
"""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from onebit.errors import FormatError
from onebit.runtime.generation import TokenLogprob
from onebit.runtime.options import GenerateOptions

Row = NDArray[np.floating]


class SeenTokens(Iterable[int]):
    """The different ids of a text that grows, in O(1) a token."""

    def __init__(self, tokens: Sequence[int]) -> None:
        """`tokens`: the text, which may only ever get longer."""
        self._tokens = tokens
        self._read = 0
        self._seen: set[int] = set()
        self._ids = np.empty(256, np.intp)

    def __iter__(self) -> Iterator[int]:
        return iter(self.ids().tolist())

    def ids(self) -> NDArray[np.intp]:
        """Return each id once."""
        for token in self._tokens[self._read :]:
            if token not in self._seen:
                if len(self._seen) == self._ids.size:
                    self._ids = np.resize(self._ids, 2 * self._ids.size)
                self._ids[len(self._seen)] = token
                self._seen.add(token)
        self._read = len(self._tokens)
        return self._ids[: len(self._seen)]


def choose(
    logits_V: Row, seen: Iterable[int], options: GenerateOptions, rng: np.random.Generator
) -> int:
    """Return the next token.

    Args:
        logits_V: the model's output for the last position; not changed.
        seen: ids of the tokens so far, which the repetition penalty applies to.
        options: how to choose.
        rng: drawn from once per token, and not at all when greedy.

    Raises:
        FormatError: a logit is NaN or infinite; the weights must be damaged.
    """
    least, most = logits_V.min(), logits_V.max()  # either is NaN if any is
    if not (np.isfinite(least) and np.isfinite(most)):
        raise FormatError("The model's logits are not finite: its file is damaged. Get it again.")
    logits = logits_V
    if options.repetition_penalty != 1:
        logits = penalize(logits, seen, options.repetition_penalty)
    if options.temperature == 0:
        return int(np.argmax(logits))  # the first of equals, which is the lowest id
    with np.errstate(over="ignore"):  # under a tiny temperature all but the likeliest become -inf
        logits = (logits.astype(np.float64) - logits.max()) / options.temperature
    if options.top_k:
        logits = keep_top_k(logits, options.top_k)
    if options.top_p < 1:
        logits = keep_top_p(logits, options.top_p)
    if options.min_p:
        logits = keep_min_p(logits, options.min_p)
    return draw(logits, rng)


def penalize(logits_V: Row, seen: Iterable[int], penalty: float) -> Row:
    """Make tokens that were seen less likely: positive logits / penalty, negative * penalty.

    Source: CTRL, section 4.1, https://arxiv.org/abs/1909.05858 (with the sign distinguished, as
    became the custom: dividing a negative logit would reward the token).
    """
    ids = seen.ids() if isinstance(seen, SeenTokens) else np.array(sorted(set(seen)), np.intp)
    logits = logits_V.copy()
    values = logits[ids]
    logits[ids] = np.where(values > 0, values / penalty, values * penalty)
    return logits


def keep_top_k(logits_V: Row, k: int) -> Row:
    """Keep the k largest logits; of equals at the edge, those with the lowest ids."""
    if k >= logits_V.size:
        return logits_V
    edge = np.partition(logits_V, -k)[-k]
    keep = logits_V > edge
    at_edge = np.flatnonzero(logits_V == edge)
    keep[at_edge[: k - int(keep.sum())]] = True
    return np.where(keep, logits_V, -np.inf)


def keep_top_p(logits_V: Row, p: float) -> Row:
    """Keep the smallest set of likeliest tokens whose probabilities sum to at least p.

    Source: nucleus sampling, section 3.1, https://arxiv.org/abs/1904.09751
    """
    probability = np.exp(log_softmax(logits_V))
    # All tokens below (1 - p) / V together weigh less than 1 - p, so the set is among the others.
    likely = np.flatnonzero(probability >= (1 - p) / logits_V.size)
    likely = likely[np.argsort(-probability[likely], kind="stable")]
    count = int(np.searchsorted(np.cumsum(probability[likely]), p)) + 1
    kept = np.full_like(logits_V, -np.inf)
    kept[likely[:count]] = logits_V[likely[:count]]
    return kept


def keep_min_p(logits_V: Row, p: float) -> Row:
    """Keep tokens that are at least p times as likely as the likeliest.

    Source: min-p sampling, https://arxiv.org/abs/2407.01082
    """
    return np.where(logits_V >= logits_V.max() + np.log(p), logits_V, -np.inf)


def draw(logits_V: Row, rng: np.random.Generator) -> int:
    """Draw a token with probability softmax(logits), by inverting the cumulative sum."""
    cumulative = np.cumsum(np.exp(log_softmax(logits_V)))
    token = int(np.searchsorted(cumulative, rng.random() * cumulative[-1], side="right"))
    # a product that rounds up to the whole sum would point behind the last token
    return min(token, int(np.flatnonzero(logits_V > -np.inf)[-1]))


def log_softmax(logits: Row) -> NDArray[np.float64]:
    """Return log-probabilities along the last axis, in float64."""
    shifted = logits.astype(np.float64)
    shifted -= shifted.max(axis=-1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True)))


def token_logprob(logits_V: Row, token: int, top: int) -> TokenLogprob:
    """Return the log-probability of `token` and of the `top` likeliest tokens."""
    logprob_V = log_softmax(logits_V)
    top = min(top, logprob_V.size)
    likeliest = np.flatnonzero(logprob_V >= np.partition(logprob_V, -top)[-top])
    likeliest = likeliest[np.argsort(-logprob_V[likeliest], kind="stable")][:top]
    pairs = tuple((int(id), float(logprob_V[id])) for id in likeliest)
    return TokenLogprob(token, float(logprob_V[token]), pairs)
