"""What a caller can ask: of one generation, how to choose tokens and when to stop; of the engine,
threads and memory.

Every option has a neutral value at which it changes nothing; the defaults are greedy decoding.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from onebit.errors import OptionError
from onebit.kernels import ops
from onebit.scheme import KV_BITS

MOST_LOGPROBS = 100
MOST_DRAFTED = 64
DEFAULT_CONTEXT = 4096


@dataclass(frozen=True)
class GenerateOptions:
    """Checked when made: a value outside its range is an OptionError naming the range."""

    max_tokens: int = 256
    """Tokens to generate at most, from 1."""
    temperature: float = 0.0
    """0 takes the likeliest token (greedy); above, logits are divided by it. At most 100."""
    top_k: int = 0
    """Keep the k likeliest tokens; 0 keeps all."""
    top_p: float = 1.0
    """Keep the smallest set of tokens whose probability reaches p, 0 < p <= 1; 1 keeps all."""
    min_p: float = 0.0
    """Keep tokens at least this fraction as likely as the likeliest, 0 <= p <= 1; 0 keeps all."""
    repetition_penalty: float = 1.0
    """Tokens seen before lose by this factor; 1 changes nothing. From 0.01 to 10."""
    seed: int | None = None
    """Makes sampling repeatable; None draws a new seed."""
    stop: Sequence[str] = ()
    """Texts that end the generation; they are not part of its text."""
    logprobs: int = 0
    """Report the log-probability of each token and of this many alternatives; 0 reports none."""
    draft: int = 0
    """Tokens guessed a step at most, from what followed the last few tokens earlier in the text,
    and computed together. Changes the speed and nothing else; 0 guesses none."""

    def __post_init__(self) -> None:
        whole_number("max_tokens", self.max_tokens, 1, None)
        _number("temperature", self.temperature, 0.0, 100.0)
        whole_number("top_k", self.top_k, 0, None)
        _number("top_p", self.top_p, 0.0, 1.0, above=True)
        _number("min_p", self.min_p, 0.0, 1.0)
        _number("repetition_penalty", self.repetition_penalty, 0.01, 10.0)
        if self.seed is not None:
            whole_number("seed", self.seed, 0, None)
        whole_number("logprobs", self.logprobs, 0, MOST_LOGPROBS)
        whole_number("draft", self.draft, 0, MOST_DRAFTED)
        stop = (self.stop,) if isinstance(self.stop, str) else self.stop
        if not isinstance(stop, Iterable) or not all(isinstance(t, str) and t for t in stop):
            raise OptionError(f"stop is {self.stop!r:.80}; accepted: texts that are not empty.")
        object.__setattr__(self, "stop", tuple(stop))

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> "GenerateOptions":
        """Make options from keyword arguments.

        Raises:
            OptionError: a name is unknown or a value is out of range.
        """
        accepted = [field.name for field in fields(cls)]
        for name in options:
            if name not in accepted:
                raise OptionError(f"{name} is no option; accepted: {', '.join(accepted)}.")
        return cls(**options)


def thread_count(threads: int | None) -> int:
    """Return how many CPU threads to use; None means all that this process may run on."""
    if threads is None:
        return ops.default_threads()
    return whole_number("threads", threads, 1, ops.MAX_THREADS)


def context_size(context: int | None, longest: int, recurrent: bool = False) -> int:
    """Return how many tokens a sequence may have; None means `longest`, but 4096 at most where
    each takes memory."""
    if context is None:
        return longest if recurrent else min(longest, DEFAULT_CONTEXT)
    return whole_number("context", context, 2, None if recurrent else longest)


def kv_width(kv_bits: int | None, of_scheme: int, recurrent: bool = False) -> int:
    """Return the bits of a cached key or value; None means the scheme's."""
    if recurrent and kv_bits is not None:
        raise OptionError(
            f"kv_bits is {kv_bits!r}; this model has a state in place of keys and values. "
            "Leave it out."
        )
    bits = of_scheme if kv_bits is None else kv_bits
    if type(bits) is not int or bits not in KV_BITS:
        accepted = ", ".join(map(str, KV_BITS))
        raise OptionError(f"kv_bits is {bits!r}; accepted: {accepted}.")
    return bits


def input_width(input_bits: int) -> int:
    """Return the bits of inputs that a scheme leaves floats."""
    if type(input_bits) is not int or input_bits not in ops.FLOAT_INPUTS:
        accepted = ", ".join(map(str, ops.FLOAT_INPUTS))
        raise OptionError(f"input_bits is {input_bits!r}; accepted: {accepted}.")
    return input_bits


def whole_number(name: str, value: Any, low: int, high: int | None) -> int:
    accepted = f"from {low}" if high is None else f"from {low} to {high}"
    whole = isinstance(value, int) and not isinstance(value, bool)
    if not whole or value < low or (high is not None and value > high):
        raise OptionError(f"{name} is {value!r}; accepted: a whole number {accepted}.")
    return int(value)


def _number(name: str, value: Any, low: float, high: float, above: bool = False) -> None:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not number or not low <= value <= high or (above and value <= 0):  # nan is never within
        accepted = f"above {low:g} and at most {high:g}" if above else f"from {low:g} to {high:g}"
        raise OptionError(f"{name} is {value!r}; accepted: a number {accepted}.")
