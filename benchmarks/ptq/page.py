"""The results page, written from the numbers: docs/results/ptq.md, its figures and its JSON."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.ptq import claims, figures, numbers, store
from benchmarks.ptq.rows import GROUPS, Setup

NOTES = Path(__file__).with_name("notes.md")
"""What a person has to say about the numbers; put in whole."""


def write(out: Path, setup: Setup, folder: Path) -> str:
    """Write the page of the results in `out`; return what was written, in a line."""
    found = numbers.collect(out, setup)
    drawn = figures.draw(found, folder / "ptq")
    store.write(folder / "ptq" / "numbers.json", json.loads(json.dumps(found)))
    page = folder / "ptq.md"
    page.write_text(markdown(found, drawn), encoding="utf-8")
    return f"{page}, {len(drawn)} figures"


def markdown(found: Mapping[str, Any], drawn: Sequence[str]) -> str:
    """Return the page."""
    parts = [
        "# Quantizing two real models after training",
        "Made by `make results-ptq` (benchmarks/ptq); all numbers are in "
        "[numbers.json](ptq/numbers.json).",
        _protocol(found),
    ]
    if NOTES.exists():
        parts.append(NOTES.read_text("utf-8").strip())
    for model, table in found["models"].items():
        rows = table["rows"]
        if not rows:
            continue
        parts += [f"## {table['called']}", _claims(model, rows)]
        if f"{model}.png" in drawn:
            parts.append(f"![Size against quality](ptq/{model}.png)")
        for group, title in GROUPS.items():
            lines = [x for x in rows.values() if x["group"] == group]
            if lines:
                parts += [f"### {title}", _table(lines)]
        if table["peers"]:
            parts += ["### Beside others", _peers(table["peers"])]
    return "\n\n".join(parts) + "\n"


def _protocol(found: Mapping[str, Any]) -> str:
    machines = {
        x["machine"]["processor"]
        for table in found["models"].values()
        for x in table["rows"].values()
        if x["machine"]
    }
    return (
        "Both models came as files that were quantized already. The reference is their dequantized "
        "weights in float32, and what every method starts from; no float original was to be had. "
        "Embedding and head stay as they came, norms stay floats. Calibration: 64 windows of 512 "
        "tokens of the Wikipedia text before the part that is measured (rows that take more say "
        "so). Measured by the native engine on the file that was written, but for the reference: "
        "perplexity per token and bits per byte on two texts of 40,000 characters that no "
        "calibration reads (Wikipedia; the newest State of the Union address, later than both "
        "models), in windows of 512 that do not overlap; PIQA and OpenBookQA zero-shot by "
        "log-likelihood, plain and per byte of the answer, in percent with the standard error. "
        "Perplexities of different models do not compare (their tokens differ), bits per byte do. "
        "Bits per weight are those of the layers that are quantized, scales and zero-points "
        "counted, then of the whole file. Minutes are of quantizing, calibration and writing "
        f"included. **Bold** rows are on the Pareto front of size and bits per byte (mean of both "
        f"texts). {'Machine: ' + ', '.join(sorted(machines)) + '.' if machines else ''}"
    ).strip()


def _claims(model: str, rows: claims.Rows) -> str:
    return "\n".join(
        f"- **{claim.says}** {claims.found(claim, rows)}"
        for claim in claims.CLAIMS
        if claim.model in ("", model)
    )


def _table(lines: Iterable[numbers.Line]) -> str:
    header = ("row", "what", "bits", "file", "MB", "minutes", "wiki", "bpB", "sotu", "bpB",
              "PIQA", "per byte", "OpenBookQA", "per byte")  # fmt: skip
    rows = []
    for x in lines:
        name = f"**`{x['name']}`**" if x["front"] else f"`{x['name']}`"
        cells = [name, x["words"], _number(x["layer_bits_per_weight"], ".2f")]
        cells += [_number(x["bits_per_weight"], ".2f"), f"{x['size_bytes'] / 1e6:.1f}"]
        cells.append("" if x["time_s"] is None else f"{x['time_s'] / 60:.1f}")
        for text in ("wiki", "sotu"):
            cells.append(_perplexity(x[f"{text}_perplexity"]))
            cells.append(f"{x[f'{text}_bits_per_byte']:.3f}")
        for task in ("piqa", "openbookqa"):
            for key in ("", "_per_byte"):
                share, error = x[f"{task}_accuracy{key}"], x[f"{task}_error{key}"]
                cells.append(f"{100 * share:.1f} ± {100 * error:.1f}")
        rows.append(cells)
    return _markdown(header, rows)


def _peers(found: Mapping[str, Any]) -> str:
    header = ("who", "what", "perplexity on wiki", "ours", "minutes", "ours", "weight error",
              "ours")  # fmt: skip
    rows = []
    for who, x in found.items():
        ours = x.get("ours", {})
        rows.append(
            [
                f"{who} {x['version']}",
                x["words"],
                _perplexity(x.get("wiki_perplexity")),
                _perplexity(ours.get("wiki_perplexity")),
                _number(x["time_s"] / 60, ".2f"),
                _number(ours["time_s"] / 60 if "time_s" in ours else None, ".2f"),
                _number(x.get("weight_error"), ".5f"),
                _number(ours.get("weight_error"), ".5f"),
            ]
        )
    words = (
        "The same float weights, the same calibration tokens; all weights measured as floats by "
        "our torch engine, in one run on this machine."
    )
    return f"{words}\n\n{_markdown(header, rows)}"


def _perplexity(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.2f}" if value < 1000 else f"{value:.2g}"


def _number(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


def _markdown(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)
