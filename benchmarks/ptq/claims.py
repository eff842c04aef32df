"""What is claimed of the methods, held against the numbers.

A verdict is "yes" or "NO", with the numbers; "so far yes" where some of the rows are missing, and
"not measured" where all are.
"""

import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

from benchmarks.ptq.numbers import Line, quality
from benchmarks.ptq.rows import ROWS

Rows: TypeAlias = Mapping[str, Line]
Peers: TypeAlias = Mapping[str, Mapping[str, Any]]
MISSING = "not measured"
SAME_SIZE = 0.005
"""By which the bits of two rows may differ, as a share, and count as the same."""
SAME_TEXT = 0.003
"""By which two perplexities may differ, as a share, and count as the same."""

LOST = 10_000
"""A perplexity beyond which a model says nothing any more, nor which of two is the lower."""


class Verdict(NamedTuple):
    """Whether a claim holds."""

    holds: bool
    words: str
    """The numbers."""
    missing: Sequence[str] = ()
    """Rows without which not all of it is judged."""


Judge: TypeAlias = Callable[[Any], Verdict | None]
"""Rows, or peers, of a model to a verdict; None where nothing can be said."""


class Claim(NamedTuple):
    """A sentence, and what says whether it holds for a model."""

    says: str
    judge: Judge
    model: str = ""
    """Of which alone it is claimed."""
    of: str = "rows"
    """What it is judged by: "rows" or "peers"."""


def found(claim: Claim, table: Mapping[str, Any]) -> str:
    """Return the claim's verdict in words; `table` has the rows and the peers of a model."""
    verdict = claim.judge(table[claim.of])
    if verdict is None:
        return MISSING
    if not verdict.missing:
        return f"{'yes' if verdict.holds else 'NO'}: {verdict.words}"
    names = ", ".join(f"`{name}`" for name in verdict.missing)
    return f"{'so far yes' if verdict.holds else 'NO'}: {verdict.words} ({MISSING}: {names})"


def _wiki(x: Line) -> float:
    return float(x["wiki_perplexity"])


def _pairs(
    pairs: Sequence[tuple[str, str]], factor: float = 1.0, key: str = "wiki_perplexity"
) -> Judge:
    """Whether each first row's number is below `factor` times its second one's."""

    def judge(rows: Rows) -> Verdict | None:
        there = [
            (a, b)
            for a, b in pairs
            if rows.get(a, {}).get(key) is not None and rows.get(b, {}).get(key) is not None
        ]
        if not there:
            return None
        words = "; ".join(
            f"`{a}` {rows[a][key]:.4g}, `{b}` {rows[b][key]:.4g}"
            + ("" if rows[a][key] < factor * rows[b][key] else " (NO)" if len(there) > 1 else "")
            for a, b in there
        )
        absent = {name for pair in pairs for name in pair if pair not in there} - set(rows)
        holds = all(rows[a][key] < factor * rows[b][key] for a, b in there)
        return Verdict(holds, words, sorted(absent))

    return judge


def _at_most(limit: float, seconds: float | None, chosen: Callable[[Line], bool]) -> Judge:
    """Whether the best of some rows is at most `limit`, in at most as many seconds."""

    def judge(rows: Rows) -> Verdict | None:
        there = [x for x in rows.values() if chosen(x)]
        if not there:
            return None
        best = min(there, key=_wiki)
        words = f"`{best['name']}` {_wiki(best):.2f} in {best['time_s']:.0f} s"
        return Verdict(_wiki(best) <= limit and (not seconds or best["time_s"] <= seconds), words)

    return judge


def _three_bits(x: Line) -> bool:
    return x["group"] == "three" or (x["group"] == "weights" and x["name"].endswith("-w3"))


def _engine_is_torch(rows: Rows) -> Verdict | None:
    """Whether they differ by SAME_TEXT at most, or by no more than torch from itself, nudged."""
    good, words = True, []
    for name, x in rows.items():
        if not x.get("wiki_torch_perplexity") or name == "float":
            continue
        runs = [x["wiki_torch_perplexity"], *x.get("wiki_torch_nudged", ())]
        mean = statistics.fmean(runs)
        off, spread = x["wiki_perplexity"] / mean - 1, 0.0
        said = f"`{name}` {100 * off:+.2f} %"
        if len(runs) > 1:
            spread = statistics.stdev(runs) / mean
            said += (
                f" of the mean of {len(runs)} runs of torch, which differ by {100 * spread:.2f} %"
            )
        good = good and abs(off) <= max(SAME_TEXT, 2.5 * spread)
        words.append(said)
    return Verdict(good, ", ".join(words)) if words else None


_OF_A_SIZE = [name for name, row in ROWS.items() if row.bits_of]


def _mixed_above_uniform(rows: Rows) -> Verdict | None:
    """Whether each row of mixed bits is better than all rows of weights alone of its bits."""
    words, good = [], True
    missing = [name for name in _OF_A_SIZE if name not in rows]
    for name, x in rows.items():
        if x["group"] != "mixed":
            continue
        bits = x["layer_bits_per_weight"]
        uniform = [
            y
            for y in rows.values()
            if y["group"] == "weights" and abs(y["layer_bits_per_weight"] / bits - 1) <= SAME_SIZE
        ]
        if not uniform:
            missing += [name.removeprefix("mixed-as-")] if name in _OF_A_SIZE else []
            continue
        best = min(uniform, key=quality)
        good = good and quality(x) < quality(best)
        words.append(
            f"`{name}` {_wiki(x):.4g} at {bits:.3f} bits, best of {len(uniform)} uniform "
            f"`{best['name']}` {_wiki(best):.4g} at {best['layer_bits_per_weight']:.3f}"
        )
    return Verdict(good, "; ".join(words), missing) if words else None


def _peers_text(project: str, tolerance: float = 0.0) -> Judge:
    """Whether our perplexities are no higher, both texts together."""

    def judge(peers: Peers) -> Verdict | None:
        words, good = [], True
        for name, x in _of(peers, project):
            theirs, ours = (_mean_nats(side["texts"]) for side in (x, x["ours"]))
            numbers = [side["texts"]["wiki"]["perplexity"] for side in (x, x["ours"])]
            lost = min(numbers) > LOST
            good = good and (lost or ours <= theirs + tolerance)
            words.append(
                f"{name} {numbers[0]:.4g}, ours {numbers[1]:.4g}" + (" (both lost)" if lost else "")
            )
        return Verdict(good, "; ".join(words)) if words else None

    return judge


def _peers_number(project: str, key: str, form: str) -> Judge:
    """Whether our number is no higher."""

    def judge(peers: Peers) -> Verdict | None:
        there = _of(peers, project)
        if not there:
            return None
        words = "; ".join(
            f"{name} {x[key]:{form}}, ours {x['ours'][key]:{form}}" for name, x in there
        )
        return Verdict(all(x["ours"][key] <= x[key] for _, x in there), words)

    return judge


def _of(peers: Peers, project: str) -> list[tuple[str, Mapping[str, Any]]]:
    return [
        (name, x) for name, x in peers.items() if (x["project"] == "ggml") == (project == "ggml")
    ]


def _mean_nats(texts: Mapping[str, Any]) -> float:
    return statistics.fmean(text["nll_per_token"] for text in texts.values())


_GPTQ_RTN = [
    *((f"gptq-w{bits}", f"rtn-w{bits}") for bits in (8, 4, 3, 2)),
    ("gptq-w3", "rtn-w3-mse"),
    ("gptq-w3-plain", "rtn-w3"),
    ("gptq-w4a8", "rtn-w4a8"),
    ("gptq-w4a4", "rtn-w4a4"),
    ("quarot-w4a4", "quarot-rtn-w4a4"),
]
CLAIMS = (
    Claim("GPTQ is below RTN everywhere.", _pairs(_GPTQ_RTN)),
    Claim(
        "GPTQ at 3 bits, 64 windows of 512 tokens: perplexity at most 43, in at most 150 s.",
        _at_most(43, 150, lambda x: x["name"] == "gptq-w3"),
        "smollm2",
    ),
    Claim(
        "The best method of all at 3 bits: perplexity at most 38.",
        _at_most(38, None, _three_bits),
        "smollm2",
    ),
    Claim("Act-order is not worse.", _pairs([("gptq-w3", "gptq-w3-in-order")], 1 + 1e-4)),
    Claim(
        "At W4A4KV4, QuaRot and SpinQuant are well below (less than half of) plain RTN.",
        _pairs([("quarot-w4a4", "rtn-w4a4"), ("spinquant-w4a4", "rtn-w4a4")], 0.5),
    ),
    Claim("SpinQuant is below QuaRot at W4A4KV4.", _pairs([("spinquant-w4a4", "quarot-w4a4")])),
    Claim(
        "Ternary that knows the activations is below absmean, two planes below one.",
        _pairs([("ternary", "ternary-absmean"), ("ternary-planes", "ternary")]),
    ),
    Claim(
        "Its output error is at most 0.54 of absmean's, the ratio of a layer by itself (0.277 to "
        "0.513). Mean of the layers:",
        _pairs([("ternary", "ternary-absmean")], 0.54, "output_error"),
    ),
    Claim(
        "The weight error of two planes is at most 0.33 of absmean's, the ratio for normal weights "
        "(0.169 to 0.513). Mean of the layers:",
        _pairs([("ternary-planes", "ternary-absmean")], 0.33, "weight_error"),
    ),
    Claim("Mixed precision is above every uniform row of its size.", _mixed_above_uniform),
    Claim(
        "Engine and torch have the same perplexity, within 0.3 %; with inputs of 4 bits, within "
        "2.5 times what torch differs from itself with every layer's inputs off by 1e-6.",
        _engine_is_torch,
    ),
    Claim(
        "GPTQ of others, same weights and tokens: our perplexity is not higher.",
        _peers_text("gptq"),
        "smollm2",
        "peers",
    ),
    Claim(
        "GPTQ of others: our seconds are not more.",
        _peers_number("gptq", "time_s", ".0f"),
        "smollm2",
        "peers",
    ),
    Claim(
        "ggml's quantizers, same weights and importance: our error is not above theirs.",
        _peers_number("ggml", "weight_error", ".4g"),
        of="peers",
    ),
    Claim(
        "ggml's quantizers: our perplexity is not higher (0.3 % count as equal).",
        _peers_text("ggml", SAME_TEXT),
        of="peers",
    ),
    Claim(
        "ggml's quantizers: our seconds on one thread are not more.",
        _peers_number("ggml", "time_s", ".1f"),
        of="peers",
    ),
)
