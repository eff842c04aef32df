"""What is claimed of the methods, held against the numbers: "yes", "NO", or "not measured"."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

from benchmarks.ptq.numbers import Line, quality

Rows = Mapping[str, Line]
MISSING = "not measured"


class Claim(NamedTuple):
    """A sentence, and what says whether it holds for a model."""

    says: str
    holds: Callable[[Rows], tuple[bool, str] | None]
    """Rows of a model -> (whether, the numbers in words); None where rows are missing."""
    model: str = ""
    """Of which alone it is claimed."""


def found(claim: Claim, rows: Rows) -> str:
    """Return the claim's verdict in words."""
    verdict = claim.holds(rows)
    return MISSING if verdict is None else f"{'yes' if verdict[0] else 'NO'}: {verdict[1]}"


def _wiki(x: Line) -> float:
    return float(x["wiki_perplexity"])


def _below(better: str, worse: str) -> Callable[[Rows], tuple[bool, str] | None]:
    return _pairs([(better, worse)])


def _pairs(
    pairs: list[tuple[str, str]], factor: float = 1.0
) -> Callable[[Rows], tuple[bool, str] | None]:
    """Whether each first row's perplexity is below `factor` times its second one's."""

    def holds(rows: Rows) -> tuple[bool, str] | None:
        there = [(a, b) for a, b in pairs if a in rows and b in rows]
        if not there:
            return None
        words = [f"`{a}` {_wiki(rows[a]):.4g}, `{b}` {_wiki(rows[b]):.4g}" for a, b in there]
        return all(_wiki(rows[a]) < factor * _wiki(rows[b]) for a, b in there), "; ".join(words)

    return holds


def _at_most(limit: float, seconds: float | None, names: tuple[str, ...] | None):  # type: ignore[no-untyped-def]
    """Whether the best of some rows is at most `limit`, in at most as many seconds."""

    def holds(rows: Rows) -> tuple[bool, str] | None:
        chosen = [
            x for x in rows.values() if (x["name"] in names if names else x["group"] == "three")
        ]
        if not chosen:
            return None
        best = min(chosen, key=_wiki)
        words = f"`{best['name']}` {_wiki(best):.2f} in {best['time_s']:.0f} s"
        return _wiki(best) <= limit and (seconds is None or best["time_s"] <= seconds), words

    return holds


def _engine_is_torch(rows: Rows) -> tuple[bool, str] | None:
    off = {
        name: x["wiki_perplexity"] / x["wiki_torch_perplexity"] - 1
        for name, x in rows.items()
        if x.get("wiki_torch_perplexity") and name != "float"
    }
    if not off:
        return None
    words = ", ".join(f"`{name}` {100 * value:+.2f} %" for name, value in off.items())
    return all(abs(value) <= 0.003 for value in off.values()), words


def _mixed_above_uniform(rows: Rows) -> tuple[bool, str] | None:
    words, good = [], True
    for name, x in rows.items():
        uniform = rows.get(name.removeprefix("mixed-as-"))
        if not name.startswith("mixed-as-") or uniform is None:
            continue
        good = good and quality(x) < quality(uniform)
        good = good and x["layer_bits_per_weight"] <= uniform["layer_bits_per_weight"] + 1e-9
        words.append(
            f"`{name}` {_wiki(x):.4g} at {x['layer_bits_per_weight']:.3f} bits, "
            f"`{uniform['name']}` {_wiki(uniform):.4g} at {uniform['layer_bits_per_weight']:.3f}"
        )
    return (good, "; ".join(words)) if words else None


CLAIMS = (
    Claim(
        "GPTQ is below RTN at every number of bits.",
        _pairs([(f"gptq-w{bits}", f"rtn-w{bits}") for bits in (4, 3, 2)]),
    ),
    Claim(
        "GPTQ at 3 bits, 64 windows of 512 tokens: perplexity at most 43, in at most 150 s.",
        _at_most(43, 150, ("gptq-w3",)),
        "smollm2",
    ),
    Claim(
        "The best method of all at 3 bits: perplexity at most 38.",
        _at_most(38, None, None),
        "smollm2",
    ),
    Claim("Act-order is not worse.", _pairs([("gptq-w3", "gptq-w3-in-order")], 1.0001)),
    Claim(
        "At W4A4KV4, QuaRot and SpinQuant are well below (less than half of) plain RTN.",
        _pairs([("quarot-w4a4", "rtn-w4a4"), ("spinquant-w4a4", "rtn-w4a4")], 0.5),
    ),
    Claim("SpinQuant is below QuaRot at W4A4KV4.", _below("spinquant-w4a4", "quarot-w4a4")),
    Claim(
        "Ternary that knows the activations is below absmean, two planes below one.",
        _pairs([("ternary", "ternary-absmean"), ("ternary-planes", "ternary")]),
    ),
    Claim("Mixed precision is above every uniform row of its size.", _mixed_above_uniform),
    Claim("Engine and torch have the same perplexity, within 0.3 %.", _engine_is_torch),
)
