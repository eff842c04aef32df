"""The results page, written from the numbers: docs/results/matmulfree.md, its figure and its JSON.

What a person has to say about the numbers stands in notes.md beside this file, and is put in whole.
"""

import json
from collections.abc import Sequence
from pathlib import Path

from benchmarks.bitnet import figures, numbers, store
from benchmarks.bitnet.claims import measured
from benchmarks.bitnet.compare import difference, nats, verdict
from benchmarks.bitnet.numbers import Numbers
from benchmarks.bitnet.page import make_table, training_in_words, tuning_table
from benchmarks.matmulfree.arms import Setup

NOTES = Path(__file__).with_name("notes.md")
_SAYS = "[the paper](https://arxiv.org/abs/2406.02528)"
CURVES = ("transformer", "transformer-b1.58", "matmulfree", "float", "mixer", "channel")
QUESTIONS = (
    (f"A MatMul-free model is near a transformer of its size, and nearer as both grow ({_SAYS})",
     (("matmulfree", "transformer"), ("matmulfree", "transformer-b1.58"),
      ("float", "transformer"))),
    ("What ternary layers cost", (("matmulfree", "float"), ("transformer-b1.58", "transformer"))),
    ("Where they cost it", (("mixer", "float"), ("channel", "float"), ("both", "float"),
                         ("matmulfree", "both"))),
    ("Lower bounds of the forget gates help", (("matmulfree", "no-bounds"),)),
    ("The code's form of MLGRU or the paper's", (("paper", "matmulfree"),)),
    (f"To halve the rate half-way helps ({_SAYS})", (("matmulfree", "not-halved"),)),
)  # fmt: skip
"""What is asked, and the pairs of arms that answer it."""


def write(out: Path, setup: Setup, folder: Path) -> str:
    """Write the page of the runs in `out`; return what was written, in a line."""
    found = numbers.collect(out, setup)
    folder = folder / "matmulfree"
    folder.mkdir(parents=True, exist_ok=True)
    drawn = figures.losses(found, folder / "loss.png", CURVES)
    shorter = json.loads(json.dumps(found), parse_float=lambda text: float(f"{float(text):.7g}"))
    store.write(folder / "numbers.json", shorter)
    page = folder.with_suffix(".md")
    page.write_text(markdown(found, drawn), encoding="utf-8")
    return str(page)


def markdown(found: Numbers, drawn: bool) -> str:
    """Return the page."""
    parts = [
        "# MatMul-free language models beside transformers, at equal weights",
        "Made by `make results-matmulfree` (benchmarks/matmulfree); all numbers are in "
        "[numbers.json](matmulfree/numbers.json). How the model is made: "
        "[method](../methods/matmulfree.md).",
        _protocol(found),
        "## What shows",
        "\n".join(
            f"- **{says}.** {' '.join(verdict(found, *pair) for pair in pairs)}"
            for says, pairs in QUESTIONS
        ),
    ]
    if NOTES.exists():
        parts.append(NOTES.read_text("utf-8").strip())
    for group, title in found["groups"].items():
        names = [name for name, arm in found["arms"].items() if arm["group"] == group]
        if group != "main":  # all beside the model that is all ternary
            names = [name for name in ("matmulfree",) if name in found["arms"]] + names
        if names:
            parts += [f"## {title}", _arms(found, names, "transformer")]
        if group == "main" and drawn:
            parts.append("![Training loss against tokens](matmulfree/loss.png)")
    parts += ["## Learning rates", tuning_table(found)]
    if packed := _packed(found):
        parts += ["## Packed, and run", packed]
    return "\n\n".join(parts) + "\n"


def _protocol(found: Numbers) -> str:
    m = found["setup"]["model"]
    return (
        f"Every model has {m['num_hidden_layers']} layers of width {m['hidden_size']}, each with "
        f"four square matrices that mix tokens (q, k, v and o of {m['num_attention_heads']} heads, "
        f"or i, f, g and o) and three of {m['hidden_size']} x {m['intermediate_size']} in a SiLU "
        "GLU, and an embedding and a head of their own. Norms, and the recurrent models' bounds, "
        "are what the numbers of weights differ by. All were "
        + training_in_words(
            found,
            "half a cosine that is halved half-way (`cosine_halved`, the paper's; one for all, so "
            "that the model alone differs)",
        )
    )


def _arms(found: Numbers, names: Sequence[str], base: str) -> str:
    rows = []
    for name in names:
        arm = found["arms"][name]
        against = difference(found, name, base) if name != base else None
        seen = measured(found, name, "packed")
        there = arm["mean"] is not None
        rows.append(
            (
                f"`{name}`",
                arm["words"],
                f"{arm['parameters'] / 1e6:.3f}" if arm["parameters"] else "",
                f"{seen[0]['file_bytes'] / 1e6:.3f}" if seen else "",
                (f"{arm['mean']:.4f}" if there else "")
                + (" (some diverged)" if arm["diverged"] else ""),
                f"{arm['spread']:.4f}" if there else "",
                "" if against is None else f"{nats(found, against.mean):+.4f}",
                f"{arm['lr']:g}",
            )
        )
    header = ("arm", "what", "M weights", "file MB", "bits per byte", "max - min",
              f"nats per token over `{base}`", "lr")  # fmt: skip
    return make_table(header, rows)


def _packed(found: Numbers) -> str:
    rows = []
    for name in found["arms"]:
        for seen in measured(found, name, "packed"):
            off = abs(seen["engine"] - seen["torch"])
            rows.append((f"`{name}`", f"{seen['file_bytes'] / 1e6:.3f}", f"{seen['engine']:.6f}",
                         f"{seen['torch']:.6f}", f"{off:.1e}",
                         "yes" if seen["verified"] else "NO"))  # fmt: skip
    if not rows:
        return ""
    words = (
        "The trained model of the first seed, exported with its codes in the fewest bits and its "
        "embedding in float32, run by the engine beside torch on the same windows: nats per token. "
        "Keys and values of the transformers are in half precision in the engine. Verified: the "
        "folder's weights lie on the grids that its scheme claims."
    )
    header = ("arm", "file MB", "engine", "torch", "apart", "verified")
    return f"{words}\n\n{make_table(header, rows)}"
