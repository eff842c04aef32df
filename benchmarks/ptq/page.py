"""The results page, written from the numbers: docs/results/ptq.md, its figures and its JSON."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
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
        parts += [f"## {table['called']}", _claims(model, table)]
        if f"{model}.png" in drawn:
            parts.append(f"![Size against quality](ptq/{model}.png)")
        front = sorted((x for x in rows.values() if x["front"]), key=lambda x: x["size_bytes"])
        if front:
            parts += ["### The front: no smaller file is as good", _table(front)]
        for group, title in GROUPS.items():
            lines = [x for x in rows.values() if x["group"] == group]
            if lines:
                parts += [f"### {title}", _table(lines)]
        if table["peers"]:
            parts += ["### Beside others", *_peers(table["peers"])]
    return "\n\n".join(parts) + "\n"


def _protocol(found: Mapping[str, Any]) -> str:
    machines = {
        x["machine"]["processor"]
        for table in found["models"].values()
        for x in table["rows"].values()
        if x["machine"]
    }
    return "\n".join(
        (
            "- **Models.** Both came as files that were quantized already. The reference is their "
            "dequantized weights in float32, and every method starts from these; no float "
            "original was to be had. Embedding and head stay as they came, norms stay floats.",
            "- **Calibration.** 64 windows of 512 tokens of a Wikipedia text, before the part of "
            "it that is measured; rows that take more say so. RTN and HQQ take none, block formats "
            "16.",
            "- **What is measured** is the file that was written, by the native engine (the first "
            "row: by torch).",
            "- **wiki, sotu**: perplexity per token, and *bpB*, bits per byte, on two texts of "
            "40,000 characters that no calibration reads (Wikipedia; the newest State of the Union "
            "address, later than both models), in windows of 512 that do not overlap. Less is "
            "better. Perplexities of the two models do not compare, their tokens differ; bits per "
            "byte do.",
            "- **PIQA, OpenBookQA**: percent of "
            + (f"the first {found['setup']['items']} " if found["setup"]["items"] else "")
            + "questions, zero-shot, whose right answer is the "
            "likeliest, and whose right answer is the likeliest *per byte* of its text; ± the "
            "standard error. Two rows have to be some errors apart to differ.",
            "- **bits**: a weight in the layers that are quantized takes, scales and zero-points "
            "counted; *in all*: the bytes of the file spread over all weights, embedding too.",
            "- **minutes**: of quantizing, from opening the model to the written file, calibration "
            "counted.",
            "- **Bold** rows are on the Pareto front: no other file is as small and as good (bits "
            "per byte, mean of both texts) at once.",
            *([f"- **Machine**: {', '.join(sorted(machines))}."] if machines else []),
        )
    )


def _claims(model: str, table: Mapping[str, Any]) -> str:
    return "\n".join(
        f"- **{claim.says}** {claims.found(claim, table)}"
        for claim in claims.CLAIMS
        if claim.model in ("", model)
    )


def _table(lines: Iterable[numbers.Line]) -> str:
    header = ("row", "what", "bits", "in all", "MB", "minutes", "wiki", "bpB", "sotu", "bpB",
              "PIQA", "per byte", "OpenBookQA", "per byte")  # fmt: skip
    rows = []
    for x in lines:
        name = f"**`{x['name']}`**" if x["front"] else f"`{x['name']}`"
        cells = [name, x["words"], _number(x["layer_bits_per_weight"], ".2f")]
        if x["name"] == "float":  # there is no such file
            cells += ["", ""]
        else:
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


def _peers(found: Mapping[str, Any]) -> list[str]:
    """Return the tables of the peers: GPTQ of others, then ggml's quantizers."""
    gptq = {name: x for name, x in found.items() if x["project"] != "ggml"}
    blocks = {name: x for name, x in found.items() if x["project"] == "ggml"}
    parts = []
    if gptq:
        header = ("who", "what", "wiki", "ours", "sotu", "ours", "minutes", "ours", "processor "
                  "minutes", "ours", "GB", "ours")  # fmt: skip
        parts += [
            "GPTQ by others: the same float weights and calibration tokens, one after the other "
            "on this machine. All values are measured as floats by our torch engine. Their minutes "
            "are of the quantizer alone, ours of everything from opening the model to the written "
            "file; GB is the most memory that the process held.",
            _markdown(
                header,
                (
                    [
                        f"{x['project']} {x['version']}",
                        x["words"],
                        *_both(x, _of_text("wiki")),
                        *_both(x, _of_text("sotu")),
                        *_both(x, lambda side: f"{side['time_s'] / 60:.1f}"),
                        *_both(x, lambda side: f"{side['processor_s'] / 60:.1f}"),
                        *_both(x, lambda side: f"{side['peak_memory_bytes'] / 1e9:.1f}"),
                    ]
                    for x in gptq.values()
                ),
            ),
        ]
    if blocks:
        version = next(iter(blocks.values()))["version"]
        parts += [
            f"ggml's quantizers ({version}) and ours, on the same float weights; the importance, "
            "where columns have one, is the same for both. Errors are relative, weighed by the "
            "importance; seconds are of rounding alone, on one thread each, by turns. Both files "
            "have the same formats and are measured by the native engine.",
            _markdown(
                ("what", "error", "ours", "wiki", "ours", "sotu", "ours", "seconds", "ours"),
                (
                    [
                        x["words"],
                        *_both(x, lambda side: f"{side['weight_error']:.5f}"),
                        *_both(x, _of_text("wiki")),
                        *_both(x, _of_text("sotu")),
                        *_both(x, lambda side: f"{side['time_s']:.1f}"),
                    ]
                    for x in blocks.values()
                ),
            ),
        ]
    return parts


def _both(x: Mapping[str, Any], cell: Callable[[Mapping[str, Any]], str]) -> tuple[str, str]:
    return cell(x), cell(x["ours"])


def _of_text(name: str) -> Callable[[Mapping[str, Any]], str]:
    return lambda side: _perplexity(side["texts"][name]["perplexity"])


def _perplexity(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.2f}" if value < 1000 else f"{value:.2g}"


def _number(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


def _markdown(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)
