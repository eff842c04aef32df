"""Other engines on the same file, behind the questions that a benchmark asks.

llama.cpp comes as the package xllamacpp, and its times are those that it measures itself, without
its server around them.
"""

import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from onebit.errors import MissingError, OnebitError, OptionError, UnsupportedError
from onebit.runtime.llm import LLM
from onebit.runtime.sampling import log_softmax

CONTEXT = 2304
"""Tokens that a rival has room for where nobody says: a prompt of 2048 and an answer."""


class Rival(Protocol):
    """An engine with a model open."""

    def top_logprobs(self, tokens: Sequence[int], n: int) -> dict[int, float]:
        """Return the n likeliest next tokens: id -> log-probability."""

    def time_prefill(self, tokens: Sequence[int]) -> float:
        """Return the seconds to compute a prompt from scratch."""

    def time_decode(self, tokens: Sequence[int], n: int) -> float:
        """Return the seconds to write n tokens after a prompt, its time not counted."""


class LlamaCpp:
    """llama.cpp, with 16-bit keys and values."""

    def __init__(self, path: Path, threads: int, context: int) -> None:
        try:
            import xllamacpp
        except ModuleNotFoundError:
            raise MissingError(
                "llama.cpp comes as the package xllamacpp, which is not installed. "
                "Run: pip install xllamacpp"
            ) from None
        params = xllamacpp.CommonParams()
        params.model.path = str(path)
        params.n_ctx = context
        params.n_parallel = 1
        params.cpuparams.n_threads = threads
        params.cpuparams_batch.n_threads = threads
        params.cache_ram_mib = 0
        params.verbosity = -1
        try:
            self._server = xllamacpp.Server(params)
        except RuntimeError as error:
            raise UnsupportedError(
                f"llama.cpp cannot open {path} ({error}). It runs GGUF files of llama.cpp's own "
                "types; of ternary ones tq1_0 and tq2_0."
            ) from None
        self.time_prefill([0])  # a server that is closed before it first answers waits for ever

    def top_logprobs(self, tokens: Sequence[int], n: int) -> dict[int, float]:
        answer = self._complete(prompt=list(tokens), n_predict=1, n_probs=n)
        top = answer["choices"][0]["logprobs"]["content"][0]["top_logprobs"]
        return {token["id"]: token["logprob"] for token in top}

    def time_prefill(self, tokens: Sequence[int]) -> float:
        timings = self._complete(prompt=list(tokens), n_predict=1)["timings"]
        _check_count("prompt", len(tokens), timings["prompt_n"])
        return float(timings["prompt_ms"]) / 1000

    def time_decode(self, tokens: Sequence[int], n: int) -> float:
        # the first token comes with the prompt, and the time is that of the others
        request = {"prompt": list(tokens), "n_predict": n + 1, "ignore_eos": True}
        timings = self._complete(**request)["timings"]
        _check_count("answer", n + 1, timings["predicted_n"])
        return float(timings["predicted_ms"]) / 1000

    def _complete(self, **request: Any) -> dict[str, Any]:
        answer: dict[str, Any] = self._server.handle_completions(
            {"temperature": 0, "cache_prompt": False, **request}
        )
        if "timings" not in answer:
            raise OnebitError(f"llama.cpp answered {answer!r:.200}")
        return answer


def _check_count(what: str, wanted: int, found: int) -> None:
    if found != wanted:
        raise OnebitError(
            f"llama.cpp computed {found} tokens of a {what} of {wanted}; its time is of no use."
        )


RIVALS: dict[str, Callable[[Path, int, int], Rival]] = {"llama.cpp": LlamaCpp}
"""Name -> how to open a file, with a number of threads and of tokens."""


def open_rival(name: str, path: Path, threads: int, context: int = CONTEXT) -> Rival:
    """Open a model file in another engine.

    Args:
        name: a key of `RIVALS`.
        path: of the file.
        threads: CPU threads.
        context: tokens that a prompt and its answer may have.

    Raises:
        OptionError: there is no engine of that name.
        MissingError: its package is not installed.
        UnsupportedError: it cannot open the file.
    """
    if name not in RIVALS:
        raise OptionError(f"against is {name!r:.80}; accepted: {', '.join(RIVALS)}.")
    return RIVALS[name](path, threads, context)


PROMPTS = (
    "The capital of France is",
    "Once upon a time",
    "The opposite of hot is",
    "Water freezes at a temperature of",
    "def add(a, b):\n    return",
    "In 1969, Neil Armstrong walked on the",
    "The largest ocean on Earth is the",
    "Photosynthesis is the process by which plants convert",
)

AGREE = 0.05
"""The most that two engines may differ, by `difference`, where both round activations in blocks."""

AGREE_BY_TOKEN = 0.2
"""The same where onebit's scheme has one scale for all of a token's activations, and the rival a
scale for each block: errors of rounding are larger, and not the same ones."""


def check_agreement(llm: LLM, rival: Rival, prompts: Sequence[Sequence[int]]) -> float:
    """Return how far apart two engines are; see `difference`.

    Raises:
        OnebitError: further than rounding explains; what they take would not be comparable.
    """
    by_token = any(linear.activation != "fp" for linear in llm.scheme.layers.values())
    accepted = AGREE_BY_TOKEN if by_token else AGREE
    found = difference(llm, rival, prompts)
    if not found < accepted:
        raise OnebitError(
            f"bench: the engines differ by {found:.3f} in the log-probability of likely tokens; "
            f"accepted: below {accepted}. They do not compute the same; nothing was timed."
        )
    return found


def difference(llm: LLM, rival: Rival, prompts: Sequence[Sequence[int]], n: int = 5) -> float:
    """Return how far apart two engines are about the next token, the mean over prompts.

    Both round activations to 8 bits, each in its own way, and tokens that are unlikely scatter
    most. So it is the sum of p |log p - log q| over the rival's n likeliest tokens, over the sum of
    p.
    """
    return statistics.mean(_difference(llm, rival, prompt, n) for prompt in prompts)


def _difference(llm: LLM, rival: Rival, prompt: Sequence[int], n: int) -> float:
    theirs = rival.top_logprobs(prompt, n)
    ours_V = log_softmax(llm.logits_after(prompt)[0])
    ids = list(theirs)
    logp = np.array([theirs[i] for i in ids])
    return float(np.average(np.abs(logp - ours_V[ids]), weights=np.exp(logp)))
