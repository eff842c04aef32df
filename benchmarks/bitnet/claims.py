"""What the papers say, and what the numbers say about it. Every sentence of ours is computed.

A claim is (what a paper says, where, a function from the numbers to sentences).
"""

import statistics
from collections.abc import Callable
from typing import Any, NamedTuple

from benchmarks.bitnet.compare import difference, in_words, nats, verdict
from benchmarks.bitnet.numbers import Numbers

B1, B158 = "https://arxiv.org/abs/2310.11453", "https://arxiv.org/abs/2402.17764"
A48, V2 = "https://arxiv.org/abs/2411.04965", "https://arxiv.org/abs/2504.18415"
TIPS = "https://github.com/microsoft/unilm/tree/master/bitnet"
HF = "https://huggingface.co/blog/1_58_llm_extreme_quantization"
LSQ = "https://arxiv.org/abs/1902.08153"


class Claim(NamedTuple):
    """One claim and our numbers on it."""

    says: str
    """What the paper says, in our words."""
    source: str
    """Its address; "" where it is no paper's claim."""
    found: Callable[[Numbers], str]
    """Our numbers, as sentences."""


def versus(*pairs: tuple[str, str]) -> Callable[[Numbers], str]:
    """Return a function that compares pairs of arms, a sentence each."""
    return lambda numbers: " ".join(verdict(numbers, *pair) for pair in pairs)


def measured(numbers: Numbers, arm: str, kind: str) -> list[dict[str, Any]]:
    """Return what was measured on an arm's models, one entry for each seed that was."""
    found = numbers["arms"].get(arm, {}).get("measures", {}).get(kind, {})
    return list(found.values())


def mean_of(found: list[dict[str, Any]], *keys: str) -> float:
    """Return the mean over seeds of a number deep in each entry."""
    values = []
    for entry in found:
        for key in keys:
            entry = entry[key]
        values.append(float(entry))  # type: ignore[arg-type]
    return statistics.fmean(values)


def _kurtosis(numbers: Numbers) -> str:
    lines = []
    for arm in ("float", "b1.58-sub", "v2-a8", "v2-a4", "v2-a4-signs"):
        found = measured(numbers, arm, "inputs")
        if found:
            parts = [
                f"{role} {mean_of(found, 'kurtosis', role, 'before'):.1f} to "
                f"{mean_of(found, 'kurtosis', role, 'after'):.1f}"
                for role in ("o", "down")
            ]
            lines.append(f"`{arm}`: {', '.join(parts)}.")
    return " ".join(lines) or "Not measured."


def _untrained(numbers: Numbers) -> str:
    lines = []
    for arm, trained in (("v2-a8", "v2-a4"), ("b1.58-sub", "v2-a4-no-hadamard")):
        found = measured(numbers, arm, "untrained_a4")
        if not found:
            continue
        cost = mean_of(found, "int4") - mean_of(found, "int8")
        line = f"`{arm}` with 4-bit inputs at once: {cost:+.4f} bits per byte"
        after = difference(numbers, trained, arm)
        if after is not None:
            line += (
                f"; with the last twentieth of training spent so (`{trained}`) {after.mean:+.4f}"
            )
        lines.append(f"{line}.")
    return " ".join(lines) or "Not measured."


def _key_values(numbers: Numbers) -> str:
    lines = []
    for arm in ("float", "b1.58-sub", "a4.8", "v2-a8", "v2-a4"):
        found = measured(numbers, arm, "key_values")
        if found:
            base = mean_of(found, "ours", "16")
            costs = ", ".join(
                f"{bits}: {mean_of(found, 'ours', bits) - base:+.4f} "
                f"({mean_of(found, 'papers', bits) - base:+.4f})"
                for bits in ("8", "4", "3", "2")
            )
            lines.append(f"`{arm}` {costs}.")
    first = "Cost in bits per byte by bits, by our rule (by the papers'): "
    return first + " ".join(lines) if lines else "Not measured."


def _sparsity(numbers: Numbers) -> str:
    lines = []
    for arm in ("b1.58-sub", "a4.8", "v2-a4"):
        found = measured(numbers, arm, "inputs")
        if found:
            down, overall = (mean_of(found, "sparsity", key) for key in ("down", "overall"))
            lines.append(f"`{arm}`: down {down:.1%}, overall {overall:.1%}.")
    return " ".join(lines) or "Not measured."


def _direct(numbers: Numbers) -> str:
    return versus(
        ("a4-direct", "b1.58-sub"), ("v2-a4-direct", "v2-a8"), ("v2-a4-direct", "a4-direct")
    )(numbers)


def _dynamic(numbers: Numbers) -> str:
    found = measured(numbers, "b1.58-dynamic", "inputs")
    first = ""
    if found and found[0]["mean_bits"] is not None:
        first = f"Trained with R = 4 the inputs took {mean_of(found, 'mean_bits'):.2f} bits. "
    return first + versus(("b1.58-dynamic", "b1.58-sub"), ("b1.58-dynamic", "v2-a4"))(numbers)


def _temperature(numbers: Numbers) -> str:
    lines = []
    for arm in ("attention-ternary", "attention-learned"):
        found = measured(numbers, arm, "inputs")
        if found:
            low, high = found[0]["softmax_range"]
            lines.append(f"Scores before the softmax of `{arm}`: {low:.1f} to {high:.1f}.")
    found = measured(numbers, "attention-learned", "inputs")
    learned = [t for entry in found for head in entry["temperatures"].values() for t in head]
    if learned:
        lines.append(
            f"The learned temperatures, from 1, ended at {min(learned):.2f} to {max(learned):.2f}."
        )
    against = versus(
        ("attention-learned", "attention-ternary"),
        ("attention-t0.5", "attention-ternary"),
        ("attention-t2", "attention-ternary"),
    )
    return " ".join([against(numbers), *lines])


def _flat(numbers: Numbers) -> str:
    """Compare what a move of the weights costs each arm, at a small and a large size."""
    arms = [a for a in ("float", "int4-lsq", "int2-lsq", "b1.58-sub", "ternary-seq")
            if measured(numbers, a, "flatness")]  # fmt: skip
    if "float" not in arms:
        return "Not measured."
    lines = []
    sizes = [point["size"] for point in measured(numbers, "float", "flatness")[0]["effective"]]
    wider = narrower = 0
    for size in (s for s in sizes if s in (0.1, 0.3)):
        costs = {arm: flat_cost(numbers, arm, "effective", size) for arm in arms}
        wider += sum(costs[arm] < costs["float"] for arm in arms[1:])
        narrower += sum(costs[arm] >= costs["float"] for arm in arms[1:])
        words = ", ".join(f"`{arm}` {cost:+.4f}" for arm, cost in costs.items())
        lines.append(f"Rows moved by {size:.0%} of their length cost {words} bits per byte.")
    if wider and narrower:
        lines.append("So it depends on the arm and on the size: neither always.")
    elif wider or narrower:
        where = "less" if wider else "no less"
        lines.append(f"So a move costs every QAT model here {where} than the float one.")
    return " ".join(lines)


def flat_cost(numbers: Numbers, arm: str, what: str, size: float) -> float:
    """Return what a move of this size costs an arm, in bits per byte, mean over seeds."""
    costs = []
    for found in measured(numbers, arm, "flatness"):
        by_size = {point["size"]: point["mean"] for point in found[what]}
        costs.append(by_size[size] - by_size[0.0])
    return statistics.fmean(costs)


def _b158(numbers: Numbers) -> str:
    found = difference(numbers, "b1.58-sub", "float")
    if found is None:
        return versus(("b1.58-sub", "float"))(numbers)
    gap = nats(numbers, found.mean)
    return (
        f"`b1.58-sub` against `float`: {in_words(numbers, found)}. The papers' gap is +0.043 nats "
        f"per token at 700 M weights and -0.013 at 3 G; ours of a million weights is {gap:+.3f}."
    )


CLAIMS = (
    Claim("b1.58 equals the float model from 3 G weights on, and is behind below.", B158, _b158),
    Claim(
        "One bit costs more than 1.58: the zero helps.",
        B158,
        versus(("b1", "b1.58-sub"), ("b1", "b1.58-norm")),
    ),
    Claim(
        "Inputs of a non-linearity are rounded from their minimum to [0, Q].",
        B1,
        versus(("b1", "b1-one-form")),
    ),
    Claim(
        "The norm belongs inside every linear layer (training tips); 2B4T has it in two.",
        TIPS,
        versus(("b1.58-sub", "b1.58"), ("b1.58-norm", "b1.58-sub"), ("float-sub", "float")),
    ),
    Claim(
        "a4.8's 4-bit inputs cost next to nothing (+0.006 nats per token at 700 M), FP4 as INT4.",
        A48,
        versus(("a4.8", "b1.58-sub"), ("a4.8-fp4", "a4.8")),
    ),
    Claim("Over 80 % of down's inputs are zero, 42 to 45 % of all.", A48, _sparsity),
    Claim(
        "v2 costs little with 8 bits (+0.010 nats per token at 400 M) and little more with 4 "
        "(+0.021).",
        V2,
        versus(("v2-a8", "b1.58-sub"), ("v2-a4", "v2-a8")),
    ),
    Claim(
        "Without the Hadamard, 4-bit inputs diverge.",
        V2,
        lambda numbers: (
            f"In the second stage only: {versus(('v2-a4-no-hadamard', 'v2-a4'))(numbers)} "
            f"From the first step on: {_direct(numbers)}"
        ),
    ),
    Claim(
        "Turning the weights as well gives the same quality.", V2, versus(("v2-a4-both", "v2-a4"))
    ),
    Claim(
        "Random signs help a Hadamard whose inputs have a mean.",
        "",
        versus(("v2-a4-signs", "v2-a4")),
    ),
    Claim("The Hadamard makes inputs bell-shaped (kurtosis near 3).", V2, _kurtosis),
    Claim("A model of 8-bit inputs needs training to take 4.", V2, _untrained),
    Claim("Keys and values of 4 bits cost nothing, of 3 next to nothing.", V2, _key_values),
    Claim(
        "Bits by token: 8 where an outlier is, 4 elsewhere, cost less than 4 everywhere.",
        "",
        _dynamic,
    ),
    Claim(
        "1-bit attention: the projections of attention can be ternary, or binary.",
        B1,
        versus(
            ("attention-ternary", "float"),
            ("attention-binary", "attention-ternary"),
            ("attention-qk", "attention-vo"),
            ("attention-int4-vo", "attention-ternary"),
        ),
    ),
    Claim(
        "More heads at equal weights make up for fewer bits.",
        "",
        versus(("attention-8-heads", "attention-ternary"), ("float-8-heads", "float")),
    ),
    Claim("A temperature of the softmax, learned or fixed, helps 1-bit q and k.", "", _temperature),
    Claim(
        "Quantizing by degrees (lambda) beats all at once; layer by layer is better still.",
        HF,
        versus(
            ("lambda-linear", "b1.58-sub"),
            ("lambda-short", "b1.58-sub"),
            ("lambda-linear", "float-then-ternary"),
            ("lambda-bottom-up", "lambda-linear"),
            ("lambda-top-down", "lambda-linear"),
            ("ladder", "b1.58-sub"),
        ),
    ),
    Claim(
        "Learned steps make 4 bits equal to float; 2 bits are near.",
        LSQ,
        versus(
            ("int4-lsq", "float"),
            ("int3-lsq", "float"),
            ("int2-lsq", "float"),
            ("ternary-seq", "b1.58-sub"),
        ),
    ),
    Claim("Training with quantization finds wider minima.", "", _flat),
)
