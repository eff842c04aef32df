"""onebit against llama.cpp on SmolLM2-135M (Q4_1): are the answers alike, and how fast are both?

    python benchmarks/decode.py [--rounds 5] [--threads 2] [--tokens 64]

Both run in this process on the same file, with the same number of threads and 16-bit caches, and
take turns round by round, so that a busy moment of the machine meets both. llama.cpp comes as the
package xllamacpp; its times are those that it measures itself, without its server around them.

First the log-probabilities of the next token must agree. Both engines round activations to 8 bits,
each in its own way, and tokens that are unlikely scatter most. So the difference is weighted by
probability: sum of p |log p - log q| over llama.cpp's five likeliest tokens, over the sum of p, and
its mean over the prompts must be below 0.05.
"""

import argparse
import os
import statistics
import sys
from pathlib import Path
from typing import Any

import numpy as np

from onebit import LLM
from onebit.eval.bench import processor
from onebit.eval.speed import check, time_decode, time_prefill
from onebit.io import catalog
from onebit.kernels import ops
from onebit.runtime.sampling import log_softmax

AGREE = 0.05
PREFILL = 512
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


class LlamaCpp:
    """llama.cpp behind the two questions that are asked of it."""

    def __init__(self, path: Path, threads: int) -> None:
        import xllamacpp

        params = xllamacpp.CommonParams()
        params.model.path = str(path)
        params.n_ctx = 1024
        params.n_parallel = 1
        params.cpuparams.n_threads = threads
        params.cpuparams_batch.n_threads = threads
        params.verbosity = -1
        self._server = xllamacpp.Server(params)

    def top_logprobs(self, prompt: str, n: int = 5) -> dict[int, float]:
        """Return the likeliest next tokens: id -> log-probability."""
        answer = self._complete(prompt=prompt, n_predict=1, n_probs=n)
        top = answer["choices"][0]["logprobs"]["content"][0]["top_logprobs"]
        return {token["id"]: token["logprob"] for token in top}

    def time_prefill(self, tokens: list[int]) -> float:
        """Return the seconds to compute a prompt from scratch."""
        timings = self._complete(prompt=tokens, n_predict=1)["timings"]
        assert timings["prompt_n"] == len(tokens), timings
        return float(timings["prompt_ms"]) / 1000

    def time_decode(self, tokens: list[int], n: int) -> float:
        """Return the seconds to write n tokens after a prompt, its time not counted."""
        # the first token comes with the prompt, and the time is that of the others
        timings = self._complete(prompt=tokens, n_predict=n + 1, ignore_eos=True)["timings"]
        assert timings["predicted_n"] == n + 1, timings
        return float(timings["predicted_ms"]) / 1000

    def _complete(self, **request: Any) -> dict[str, Any]:
        return self._server.handle_completions({"temperature": 0, "cache_prompt": False, **request})


def difference(llm: LLM, llama: LlamaCpp, prompt: str) -> float:
    """Return the mean |log p - log q| over llama.cpp's likeliest tokens, weighted by p."""
    theirs = llama.top_logprobs(prompt)
    ours_V = log_softmax(llm.logits_after(llm.encode(prompt))[0])
    ids = list(theirs)
    logp = np.array([theirs[i] for i in ids])
    return float(np.average(np.abs(logp - ours_V[ids]), weights=np.exp(logp)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--tokens", type=int, default=64)
    args = parser.parse_args()

    llama = LlamaCpp(catalog.find("smollm2"), args.threads)
    llm = LLM("smollm2", threads=args.threads)
    differences = [difference(llm, llama, prompt) for prompt in PROMPTS]
    for prompt, value in zip(PROMPTS, differences, strict=True):
        print(f"{value:.4f}  {prompt!r}")
    mean = statistics.mean(differences)
    print(f"{mean:.4f}  mean difference of log-probabilities; accepted: below {AGREE}")
    if not mean < AGREE:
        sys.exit("The engines do not agree; nothing was timed.")
    check(llm)
    if os.getloadavg()[0] > 0.5:
        print(f"The machine is busy (load {os.getloadavg()[0]:.1f}): do not trust the ratios.")

    prompt = np.random.default_rng(0).integers(0, llm.architecture.vocab_size, PREFILL).tolist()
    rates: dict[tuple[str, str], list[float]] = {}
    for _ in range(args.rounds):
        for name, rate in (
            (("decode", "onebit"), args.tokens / time_decode(llm, args.tokens)),
            (("decode", "llama.cpp"), args.tokens / llama.time_decode(prompt[:16], args.tokens)),
            (("prefill", "onebit"), PREFILL / time_prefill(llm, PREFILL)),
            (("prefill", "llama.cpp"), PREFILL / llama.time_prefill(prompt)),
        ):
            rates.setdefault(name, []).append(rate)
    print(f"\n{processor()}, {ops.active_isa()}, {args.threads} threads, {args.rounds} rounds")
    for what in ("decode", "prefill"):
        ours, theirs = rates[what, "onebit"], rates[what, "llama.cpp"]
        ratio = statistics.median(a / b for a, b in zip(ours, theirs, strict=True))
        print(
            f"{what:8} onebit {statistics.median(ours):8.1f} tokens/s, "
            f"llama.cpp {statistics.median(theirs):8.1f} tokens/s, ratio {ratio:.2f}"
        )


if __name__ == "__main__":
    main()
