"""What a generation returns: text, tokens, why it ended, probabilities and times."""

from dataclasses import asdict, dataclass
from typing import Any, Literal

FinishReason = Literal["stop", "length", "context", "closed", "error"]


@dataclass(frozen=True)
class TokenLogprob:
    """How likely the model, before any sampling option, held a token that was chosen."""

    token_id: int
    logprob: float
    """Natural logarithm of the probability."""
    top: tuple[tuple[int, float], ...]
    """The likeliest tokens at this place, (id, logprob), likeliest first."""


@dataclass(frozen=True)
class Timing:
    """Where the time went, waiting for the consumer of a stream not counted."""

    prompt_tokens: int
    reused_tokens: int
    """Of the prompt's tokens, those that were still in the cache."""
    prompt_time_s: float
    """From the start to the first token's logits."""
    generated_tokens: int
    decode_time_s: float
    """All after the first token's logits."""
    drafted_tokens: int = 0
    """Guessed from the text so far and computed along with the token before them."""
    accepted_tokens: int = 0
    """Of the drafted ones, those that were then chosen."""

    @property
    def prefill_rate_tokens_per_s(self) -> float:
        """Prompt tokens computed per second."""
        return _rate(self.prompt_tokens - self.reused_tokens, self.prompt_time_s)

    @property
    def decode_rate_tokens_per_s(self) -> float:
        """Tokens generated per second, the first not counted: its logits came with the prompt."""
        return _rate(self.generated_tokens - 1, self.decode_time_s)


@dataclass(frozen=True)
class Generation:
    """One answer."""

    text: str
    token_ids: tuple[int, ...]
    """Every token chosen, but the one that means the end. After a stop text, the tokens that spell
    it are among them, while `text` ends before it."""
    finish_reason: FinishReason
    """"stop": end token or stop text; "length": max_tokens; "context": no room left; "closed": the
    caller closed the stream; "error": it failed, among others that go on (see Batch)."""
    logprobs: tuple[TokenLogprob, ...]
    """One for each token id, if asked for."""
    timing: Timing

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        rates = {
            "prefill_rate_tokens_per_s": self.timing.prefill_rate_tokens_per_s,
            "decode_rate_tokens_per_s": self.timing.decode_rate_tokens_per_s,
        }
        data = asdict(self)
        data["timing"] |= rates
        return data


def _rate(count: int, time_s: float) -> float:
    return count / time_s if count > 0 and time_s > 0 else 0.0
