"""From logits to a token: pure functions over one row of V logits.

The order is penalty, top-k, temperature, top-p, min-p, draw. Temperature turns logits into weights;
from there on a removed token has weight 0, so each step takes and returns a whole row and the steps
do not need to know of one another.
"""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from onebit.errors import FormatError
from onebit.kernels import cpu
from onebit.runtime.generation import TokenLogprob
from onebit.runtime.options import GenerateOptions

Row = NDArray[np.floating]

SMALLEST_TEMPERATURE = 1e-37
"""float32 can divide by it; whatever differs at all is apart without end already."""
FIRST_CANDIDATES = 256
"""Tokens that top-p looks at first, likeliest first; then 8 times as many, and so on."""
DRAW_BLOCK = 256
"""Tokens whose weights are summed together first."""


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
        FormatError: a logit is NaN or infinite.
    """
    check_finite(logits_V)
    logits = logits_V
    if options.repetition_penalty != 1:
        logits = penalize(logits, seen, options.repetition_penalty)
    if options.temperature == 0:
        return int(np.argmax(logits))  # the first of equals, which is the lowest id
    ids = None
    if 0 < options.top_k < logits.size:
        ids = top_k(logits, options.top_k)
        logits = logits[ids]
    weights = soften(logits, options.temperature)
    if options.top_p < 1:
        weights = keep_top_p(weights, options.top_p)
    if options.min_p:
        weights = keep_min_p(weights, options.min_p)
    token = draw(weights, rng)
    return token if ids is None else int(ids[token])


def check_finite(logits: Row) -> None:
    """Refuse logits from which nothing can be chosen or scored.

    Raises:
        FormatError: one is NaN or infinite.
    """
    least, most = logits.min(), logits.max()  # either is NaN if any is
    if not (np.isfinite(least) and np.isfinite(most)):
        raise FormatError(
            "The model's logits are not finite: a weight is NaN or infinite (`onebit verify` names "
            "it), or a sum overflowed. Get or train the model again."
        )


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


def top_k(logits_V: Row, k: int) -> NDArray[np.intp]:
    """Return the ids of the k largest logits, in order; of equals at the edge, the lowest ids."""
    edge = np.partition(logits_V, -k)[-k]
    above, at_edge = np.flatnonzero(logits_V > edge), np.flatnonzero(logits_V == edge)
    return np.sort(np.concatenate([above, at_edge[: k - above.size]]))


def soften(logits_V: Row, temperature: float) -> NDArray[np.float32]:
    """Return weights in proportion to softmax(logits / temperature), the largest of them 1.

    By the exponential of the kernels, which gives the same bits on every machine.
    """
    with np.errstate(over="ignore"):  # under a tiny temperature all but the likeliest become -inf
        below_V = (logits_V - logits_V.max()) / np.float32(max(temperature, SMALLEST_TEMPERATURE))
    return cpu.exp(below_V.astype(np.float32, copy=False))


def keep_top_p(weight_V: Row, p: float) -> Row:
    """Keep the smallest set of largest weights that sum to at least p of the whole.

    Source: nucleus sampling, section 3.1, https://arxiv.org/abs/1904.09751
    """
    need = p * weight_V.sum(dtype=np.float64)
    likely, count = np.arange(weight_V.size), FIRST_CANDIDATES
    while count < weight_V.size:  # mostly a few tokens are enough, and need not all be sorted
        candidates = np.flatnonzero(weight_V >= np.partition(weight_V, -count)[-count])
        if weight_V[candidates].sum(dtype=np.float64) >= need:
            likely = candidates
            break
        count *= 8
    likely = likely[np.argsort(-weight_V[likely], kind="stable")]
    enough = int(np.searchsorted(np.cumsum(weight_V[likely], dtype=np.float64), need)) + 1
    kept = np.zeros_like(weight_V)
    kept[likely[:enough]] = weight_V[likely[:enough]]
    return kept


def keep_min_p(weight_V: Row, p: float) -> Row:
    """Keep tokens that are at least p times as likely as the likeliest.

    Source: min-p sampling, https://arxiv.org/abs/2407.01082
    """
    return np.where(weight_V >= p * weight_V.max(), weight_V, 0)


def draw(weight_V: Row, rng: np.random.Generator) -> int:
    """Draw a token with a probability in proportion to its weight, by inverting the running sum.

    First the block of tokens that the drawn number falls into, then the token within.
    """
    starts = np.arange(0, weight_V.size, DRAW_BLOCK)
    sums = np.add.reduceat(weight_V, starts, dtype=np.float64)
    upto = np.cumsum(sums)
    drawn = rng.random() * upto[-1]
    block = _place(upto, drawn, sums)
    within_V = weight_V[starts[block] :][:DRAW_BLOCK]
    rest = drawn - (upto[block - 1] if block else 0.0)
    return int(starts[block]) + _place(np.cumsum(within_V, dtype=np.float64), rest, within_V)


def _place(upto: Row, drawn: float, weights: Row) -> int:
    """Return the first place whose running sum is above `drawn`; where rounding has put that behind
    the end, the last that weighs anything."""
    place = int(np.searchsorted(upto, drawn, side="right"))
    return min(place, int(np.flatnonzero(weights)[-1]))


def log_softmax(logits: Row) -> NDArray[np.float64]:
    """Return log-probabilities along the last axis, in float64."""
    shifted = logits.astype(np.float64)
    shifted -= shifted.max(axis=-1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True)))


def chosen_logprobs(logits_TV: Row, chosen_T: Sequence[int]) -> NDArray[np.float64]:
    """Return the log-probability of one token a row: what `log_softmax` says of it, to the bit.

    A row is turned at a time, in memory that stays in the cache: over a vocabulary of a hundred
    thousand that takes a third of the time, which would else be more than the model's own.
    """
    out_T = np.empty(len(chosen_T))
    shifted_V = np.empty(logits_TV.shape[-1])
    for t, (logits_V, chosen) in enumerate(zip(logits_TV, chosen_T, strict=True)):
        np.subtract(logits_V, logits_V.max(), out=shifted_V, dtype=np.float64)
        own = shifted_V[chosen]
        out_T[t] = own - np.log(np.exp(shifted_V, out=shifted_V).sum())
    return out_T


def token_logprob(logits_V: Row, token: int, top: int) -> TokenLogprob:
    """Return the log-probability of `token` and of the `top` likeliest tokens."""
    logprob_V = log_softmax(logits_V)
    top = min(top, logprob_V.size)
    likeliest = np.flatnonzero(logprob_V >= np.partition(logprob_V, -top)[-top])
    likeliest = likeliest[np.argsort(-logprob_V[likeliest], kind="stable")][:top]
    pairs = tuple((int(id), float(logprob_V[id])) for id in likeliest)
    return TokenLogprob(token, float(logprob_V[token]), pairs)
