"""The results page, written from the numbers: docs/results/bitnet.md, its figures and its JSON.

Also the tables of the pages on methods, between marks of this form:

    <!-- numbers: b1 b1-one-form float -->
    <!-- end of numbers -->

What a person has to say about the numbers stands in notes.md beside this file, and is put in whole.
"""

import json
import re
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.bitnet import claims, figures, numbers, store
from benchmarks.bitnet.arms import Setup
from benchmarks.bitnet.claims import mean_of, measured
from benchmarks.bitnet.compare import difference, nats
from benchmarks.bitnet.numbers import Numbers

NOTES = Path(__file__).with_name("notes.md")
METHODS = Path("docs/methods")
MARK = re.compile(r"(<!-- numbers: ([^>]*?) -->\n).*?(<!-- end of numbers -->)", re.DOTALL)
INPUT_ARMS = ("float", "b1", "b1.58-sub", "b1.58-norm", "a4.8", "a4.8-fp4", "v2-a8", "v2-a4",
              "v2-a4-no-hadamard", "v2-a4-both", "v2-a4-signs")  # fmt: skip


def write(out: Path, setup: Setup, folder: Path) -> str:
    """Write the page of the runs in `out`, and fill the tables of the pages on methods.

    The latter only where the page goes into docs/, so that no trial run gets there.

    Returns:
        What was written, in a line.
    """
    found = numbers.collect(out, setup)
    drawn = figures.draw(found, folder / "bitnet")
    shorter = json.loads(json.dumps(found), parse_float=lambda text: float(f"{float(text):.7g}"))
    store.write(folder / "bitnet" / "numbers.json", shorter)
    page = folder / "bitnet.md"
    page.write_text(markdown(found, drawn), encoding="utf-8")
    filled = fill(METHODS, found) if folder.resolve() == Path("docs/results").resolve() else []
    return f"{page}, {len(drawn)} figures" + (f"; tables in {', '.join(filled)}" if filled else "")


def fill(folder: Path, found: Numbers) -> list[str]:
    """Write the tables between the marks of all pages in `folder`; return the pages' names."""
    filled = []
    for path in sorted(folder.glob("*.md")):
        old = path.read_text("utf-8")
        new = MARK.sub(lambda match: match[1] + _method_table(found, match[2]) + match[3], old)
        if new != old:
            path.write_text(new, encoding="utf-8")
            filled.append(path.name)
    return filled


def markdown(found: Numbers, drawn: Sequence[str]) -> str:
    """Return the page."""
    parts = [
        "# The BitNet family on one small model",
        "Made by `make results-bitnet` (benchmarks/bitnet); all numbers are in "
        "[numbers.json](bitnet/numbers.json).",
        _protocol(found),
        "## What is claimed, and what shows at this size",
        _claims(found),
    ]
    if NOTES.exists():
        parts.append(NOTES.read_text("utf-8").strip())
    for group, title in found["groups"].items():
        names = [name for name, arm in found["arms"].items() if arm["group"] == group]
        if names:
            base = "b1.58-sub" if group == "progressive" else "float"
            parts += [f"## {title}", _arm_table(found, names, base)]
        if group == "main" and "loss.png" in drawn:
            parts.append("![Training loss against tokens](bitnet/loss.png)")
    parts += ["## Learning rates", tuning_table(found)]
    for title, table, figure in (
        ("Inputs of the layers", _inputs(found), "activations.png"),
        ("Zeros, as in table 2 of a4.8", _zeros(found), None),
        ("Keys and values of few bits", _key_values(found), "key_values.png"),
        ("4-bit inputs without training", _untrained(found), None),
        ("Engine and torch", _engine(found), None),
        ("How wide the minima are", _flatness(found), "flatness.png"),
        ("Bits by token", _dynamic(found), "dynamic.png"),
    ):
        if table:
            parts += [f"## {title}", table]
            if figure in drawn:
                parts.append(f"![{title}](bitnet/{figure})")
    return "\n\n".join(parts) + "\n"


def _protocol(found: Numbers) -> str:
    s = found["setup"]
    sizes = {arm["parameters"] for arm in found["arms"].values() if arm["parameters"]}
    weights = f"{min(sizes) / 1e6:.2f} M weights, " if sizes else ""
    m = s["model"]
    return (
        f"Each arm is the same model ({weights}{m['num_hidden_layers']} layers, width "
        f"{m['hidden_size']}, {m['intermediate_size']} inside a squared-ReLU GLU, "
        f"{m['num_attention_heads']} heads), "
        + training_in_words(found, "the two-stage schedule of BitNet b1.58")
    )


def training_in_words(found: Numbers, schedule: str) -> str:
    """Say how all arms were trained, measured and compared; `schedule` in words."""
    s = found["setup"]
    return (
        f"trained on {s['tokens'] / 1e6:.2f} M tokens of "
        f"`{s['text']}` ({s['train_tokens'] / 1e6:.2f} M in all, vocabulary {s['vocab_size']}, "
        f"{s['bytes_per_token']:.2f} bytes each) in steps of {s['batch']} x {s['context']}, by "
        f"{schedule} with its peak rate tuned for each family on the first "
        f"seed. Measured on all of the held-out text (`{s['held_out']}`, "
        f"{s['held_out_bytes'] / 1e6:.2f} MB) in bits per byte, in float32; a nat per token is "
        f"{1 / nats(found, 1):.3f} bits per byte. {len(s['seeds'])} seeds; equal seeds have equal "
        "first weights and equal order of text, so differences are taken seed by seed. "
        "“Cannot be told apart” means: the seeds disagree on the sign, or the mean difference is "
        "no more than half their range. This is a small model after few tokens: what does not show "
        "here may well show at the papers' sizes, and what shows here need not hold there."
    )


def _claims(found: Numbers) -> str:
    return "\n".join(
        f"- **{claim.says}** {f'([source]({claim.source})) ' * bool(claim.source)}"
        f"{claim.found(found)}"
        for claim in claims.CLAIMS
    )


def _arm_table(found: Numbers, names: Sequence[str], base: str) -> str:
    rows = []
    for name in names:
        arm = found["arms"][name]
        against = difference(found, name, base) if name != base else None
        rows.append(
            (
                f"`{name}`",
                arm["words"],
                _number(arm["mean"], ".4f") + (" (some diverged)" if arm["diverged"] else ""),
                _number(arm["spread"], ".4f"),
                "" if against is None else f"{nats(found, against.mean):+.4f}",
                f"{arm['lr']:g}",
            )
        )
    header = ("arm", "what", "bits per byte", "max - min", f"nats per token over `{base}`", "lr")
    return make_table(header, rows)


def _method_table(found: Numbers, wanted: str) -> str:
    names = [name for name in wanted.split() if name in found["arms"]]
    base = "float" if "float" in found["arms"] else names[0]
    tokens = found["setup"]["tokens"] / 1e6
    return (
        f"{_arm_table(found, names, base)}\n\nHeld-out text, after {tokens:.2f} M tokens; how and "
        "what else: [results](../results/bitnet.md).\n"
    )


def tuning_table(found: Numbers) -> str:
    rates = sorted({float(lr) for f in found["tuning"].values() for lr in f["tried"]})
    rows = []
    for family, tuned in found["tuning"].items():
        cells = []
        for lr in rates:
            if f"{lr:g}" not in tuned["tried"]:
                cells.append("")
                continue
            score = tuned["tried"][f"{lr:g}"]
            text = "diverged" if score is None else f"{score:.4f}"
            cells.append(f"**{text}**" if lr == tuned["best"] else text)
        rows.append((family, f"`{tuned['arm']}`", *cells))
    words = (
        "Bits per byte of one seed after the whole run; the best, in bold, is the family's rate."
    )
    return f"{words}\n\n{make_table(('family', 'tuned on', *(f'{lr:g}' for lr in rates)), rows)}"


def _inputs(found: Numbers) -> str:
    rows = []
    for name in INPUT_ARMS:
        seen = measured(found, name, "inputs")
        if seen:
            cells = [
                f"{mean_of(seen, 'kurtosis', role, when):.1f}"
                for role in ("q", "gate", "o", "down")
                for when in ("before", "after")
            ]
            low, high = seen[0]["softmax_range"]
            rows.append((f"`{name}`", *cells, f"{low:.1f} to {high:.1f}"))
    if not rows:
        return ""
    header = [f"{role} {when}" for role in ("q", "gate", "o", "down") for when in ("", "turned")]
    words = (
        "Kurtosis of a token's columns, mean over tokens and layers, behind the norm: as it is, "
        "and turned by a Hadamard matrix (the layer's own, or a plain one to see what it would "
        "do). A bell has 3. Last, the scores that the softmax got. One seed."
    )
    return f"{words}\n\n{make_table(('arm', *header, 'softmax'), rows)}"


def _zeros(found: Numbers) -> str:
    columns = ("qkv", "out", "up", "gate", "down", "overall")
    rows = [
        (f"`{name}`", *(f"{100 * mean_of(seen, 'sparsity', column):.1f}" for column in columns))
        for name in INPUT_ARMS
        if (seen := measured(found, name, "inputs"))
    ]
    if not rows:
        return ""
    words = (
        "Percent of the weights that a token does not touch, because an input's code is zero or, "
        "for up, the gate is closed. The paper's a4.8 at 700 M: 12.1, 50, 66.2, 12.1, 80.9, 42.5."
    )
    return f"{words}\n\n{make_table(('arm', *columns), rows)}"


def _key_values(found: Numbers) -> str:
    bits = ("16", "8", "4", "3", "2")
    rows = []
    for name in found["arms"]:
        seen = measured(found, name, "key_values")
        if seen:
            cells = []
            for b in bits:
                ours = f"{mean_of(seen, 'ours', b):.4f}"
                cells.append(ours if b == "16" else f"{ours} ({mean_of(seen, 'papers', b):.4f})")
            cells += [f"{mean_of(seen, 'queries', pair):.4f}" for pair in seen[0]["queries"]]
            rows.append((f"`{name}`", *cells))
    if not rows:
        return ""
    words = (
        "Bits per byte of trained models, rounding keys and values behind RoPE, by our rule (by "
        "the papers' absmax, its first position kept as ours); last with queries of 4 bits too. On "
        "64 windows."
    )
    header = ("arm", *(f"{b} bits" for b in bits), "queries and KV 4", "queries 4, KV 3")
    return f"{words}\n\n{make_table(header, rows)}"


def _untrained(found: Numbers) -> str:
    rows = [
        (f"`{name}`", f"{mean_of(seen, 'int8'):.4f}", f"{mean_of(seen, 'int4'):.4f}")
        for name in found["arms"]
        if (seen := measured(found, name, "untrained_a4"))
    ]
    return make_table(("arm", "8 bits, as trained", "4 bits"), rows) if rows else ""


def _engine(found: Numbers) -> str:
    rows = []
    for name in found["arms"]:
        for seen in measured(found, name, "engine"):
            for bits, pair in seen.items():
                if bits == "refused":
                    rows.append((f"`{name}`", "", pair, "", ""))
                    continue
                off = abs(pair["engine"] - pair["torch"])
                rows.append((f"`{name}`", bits, f"{pair['engine']:.6f}", f"{pair['torch']:.6f}",
                             f"{off:.1e}"))  # fmt: skip
    if not rows:
        return ""
    words = (
        "Nats per token on the same windows, of the exported file run by the engine and of the "
        "trained model in torch. At 32 bits keys and values are float32 in both. With codes, "
        "float sums in another order now and then fall to the other side of a rounding, and the "
        "engine also rounds queries (8 bits) and probabilities, which torch does not."
    )
    return f"{words}\n\n{make_table(('arm', 'KV bits', 'engine', 'torch', 'apart'), rows)}"


def _flatness(found: Numbers) -> str:
    rows: list[tuple[str, ...]] = []
    sizes: list[float] = []
    for name in found["arms"]:
        seen = measured(found, name, "flatness")
        if not seen:
            continue
        sizes = [point["size"] for point in seen[0]["effective"] if point["size"]]
        for what in ("effective", "masters"):
            if what in seen[0]:
                costs = [f"{claims.flat_cost(found, name, what, size):+.4f}" for size in sizes]
                rows.append((f"`{name}`", what, *costs))
    if not rows:
        return ""
    words = (
        "What it costs in bits per byte to move every row of every matrix in a random direction by "
        "a share of its length: of the weights that are computed with (effective), or of the float "
        "masters, which are then rounded again. What costs less than the figure shows is drawn at "
        "its lower edge."
    )
    table = make_table(("arm", "moved", *(f"{size:g}" for size in sizes)), rows)
    rounded = measured(found, "float", "flatness")
    if not rounded:
        return f"{words}\n\n{table}"
    base = statistics.fmean(entry["effective"][0]["mean"] for entry in rounded)
    moves = ", ".join(
        f"{weight} (a move of {mean_of(rounded, 'rounded', weight, 'size'):.3f}) "
        f"{mean_of(rounded, 'rounded', weight, 'bits_per_byte') - base:+.4f}"
        for weight in rounded[0]["rounded"]
    )
    return f"{words}\n\n{table}\n\nRounding the float model's weights without training: {moves}."


def _dynamic(found: Numbers) -> str:
    rows = []
    rules: list[str] = []
    for name in found["arms"]:
        seen = measured(found, name, "dynamic")
        if seen:
            rules = list(seen[0])
            cells = [
                f"{mean_of(seen, rule, 'bits_per_byte'):.4f} "
                f"({mean_of(seen, rule, 'mean_bits'):.2f})"
                for rule in rules
            ]
            rows.append((f"`{name}`", *cells))
    if not rows:
        return ""
    words = "Bits per byte (mean bits of an input) of trained models under other ratios R."
    return f"{words}\n\n{make_table(('arm', *rules), rows)}"


def _number(value: Any, form: str) -> str:
    return "" if value is None else format(value, form)


def make_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
