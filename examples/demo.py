"""One ternary model's whole life on real text, in about five minutes on two cores (`make demo`).

A real model answers a question natively; then a ternary model and its float twin are trained on the
State of the Union addresses, compared on addresses that neither has seen, verified, packed at 1.6
bits a weight, written to GGUF, and run without torch.
"""

import json
import shlex
import subprocess
import sys
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from onebit import SCHEMES, models
from onebit.data import Tokenizer
from onebit.data.blocks import TokenFile
from onebit.nn import convert
from onebit.train import held_out

ROOT = Path(__file__).parent.parent
BIN = Path(sys.executable).parent
RUNS = Path("runs/demo")
FLOAT, TERNARY, PACKED = RUNS / "float", RUNS / "ternary", RUNS / "ternary.gguf"
PROMPT = "My fellow citizens, the state of the"
TOKENS = 64

console = Console(highlight=False)


def main() -> None:
    console.rule("1. A real model answers natively, by a process without torch")
    subprocess.run([sys.executable, ROOT / "examples/run.py"], check=True)

    console.rule("2. A ternary model and its float twin learn real text, a minute each")
    for folder in (FLOAT, TERNARY):
        onebit("train", f"recipes/demo-{folder.name}.toml", "--out", folder)

    console.rule("3. Packed at 1.6 bits a weight: is it really ternary?")
    options = ("--format", "t1_6", "--embed", "f32", "--force", "--json")
    packed = json.loads(onebit("export", TERNARY / "model", "-o", PACKED, *options, quiet=True))
    onebit("verify", PACKED)

    console.rule("4. Run by a process without torch")
    onebit("run", PACKED, PROMPT, "--temperature", 0.7, "--seed", 1, "--max-tokens", TOKENS)
    run = run_packed()

    console.rule("5. What it costs to be ternary, and what it brings")
    table(packed, run)
    what_next()


def onebit(*arguments: object, quiet: bool = False) -> str:
    """Run a command as a person would type it; return what it printed, if `quiet`."""
    words = [str(a) for a in arguments]
    console.print(f"[bold]$ onebit {shlex.join(words)}", soft_wrap=True)
    stdout = subprocess.PIPE if quiet else None
    done = subprocess.run([BIN / "onebit", *words], check=True, text=True, stdout=stdout, cwd=ROOT)
    return done.stdout or ""


@dataclass
class Run:
    """What the packed model wrote, and how that compares with torch."""

    rate_tokens_per_s: float
    agreement: str


def run_packed() -> Run:
    """Continue a prompt from the GGUF and in torch, each taking the likeliest token."""
    options = ("--max-tokens", TOKENS, "--kv-bits", 32, "--json")
    out = json.loads(onebit("run", PACKED, PROMPT, *options, quiet=True))
    console.print(f"[italic]{PROMPT}[/italic]{out['text']}\n", markup=True)
    model = models.load(TERNARY / "model").eval()
    prompt = Tokenizer.load(TERNARY / "model").encode(PROMPT)
    expected, written = models.generate(model, prompt, TOKENS), list(out["token_ids"])
    same = sum(
        1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(expected, written, strict=False))
    )
    agreement = f"all {same} tokens are those that torch picks"
    if same < len(written):
        with torch.no_grad():
            logits_V = model(torch.tensor([prompt + expected[:same]]))[0, -1]
        best, second = logits_V.log_softmax(-1).topk(2).values
        agreement = (
            f"{same} tokens are those that torch picks; at the next, torch holds its two best "
            f"{best - second:.4f} nats apart, so float rounding decides"
        )
    console.print(f"[green]{agreement}")
    return Run(out["timing"]["decode_rate_tokens_per_s"], agreement)


def table(packed: dict[str, Any], run: Run) -> None:
    """Print the twins side by side, and the float one rounded after training."""
    done = {f: json.loads((f / "result.json").read_text("utf-8")) for f in (FLOAT, TERNARY)}
    rounded = convert(models.load(FLOAT / "model"), SCHEMES["bitnet-b1.58"]).eval()
    text = TokenFile(FLOAT / "data" / "held_out.tokens")
    bits = held_out.bits_per_byte(rounded, text, rounded.architecture.max_position_embeddings)
    weights = packed["body_weights"]
    float_size, ternary_size = 2 * weights, weights * packed["body_bits_per_weight"] / 8
    rows = Table("model", "held-out bits per byte", "linear weights", title="State of the Union")
    key = "held_out_bits_per_byte"
    rows.add_row("float", f"{done[FLOAT][key]:.3f}", f"{float_size / 1e6:.2f} MB (16 bits)")
    rows.add_row(
        "ternary, trained", f"{done[TERNARY][key]:.3f}", f"{ternary_size / 1e6:.2f} MB (1.6 bits)"
    )
    rows.add_row(
        "float, rounded to ternary", f"{bits:.3f}", f"{ternary_size / 1e6:.2f} MB (1.6 bits)"
    )
    console.print(rows)
    console.print(
        f"Lower is better; 8 is a byte stored as it is. The packed model wrote "
        f"{run.rate_tokens_per_s:,.0f} tokens/s; {run.agreement}."
    )


NEXT = {
    "onebit chat smollm2": "talk with the real model",
    f'onebit run {PACKED} "We must" -t 0.8': "let the new one speak",
    "onebit train recipes/sotu-ternary.toml": "a better one, in a quarter of an hour",
    f"onebit export {TERNARY}/model -o m.gguf -f tq2_0": "a file for llama.cpp",
    "onebit verify smollm2": "what is in somebody else's file",
}


def what_next() -> None:
    """Say what a person should try now."""
    console.print("\n[bold]Try next[/bold], after `source .venv/bin/activate`:")
    for command, why in NEXT.items():
        console.print(f"  {command:57s} {why}", soft_wrap=True)


if __name__ == "__main__":
    main()
