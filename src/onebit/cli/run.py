"""`onebit run`: continue a prompt. Text to stdout as it comes, times to stderr."""

import json
import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from onebit.runtime.generation import Generation

F = TypeVar("F", bound=Callable[..., Any])


def text(argument: str) -> str:
    """Return what was typed as text that UTF-8 can write, as `read_stdin` does: the bytes that no
    text has become "�". An option's `type`."""
    return os.fsencode(argument).decode("utf-8", errors="replace")


# Ranges are checked in runtime/options.py, for the library and the command line alike.
_GENERATE: tuple[Callable[[Any], Any], ...] = (
    click.option(
        "-n", "--max-tokens", type=int, default=256, show_default=True, help="Tokens at most."
    ),
    click.option(
        "-t", "--temperature", type=float, default=0.0, help="0 (default): the likeliest token."
    ),
    click.option("--top-k", type=int, default=0, help="Draw among the k likeliest; 0: all."),
    click.option(
        "--top-p", type=float, default=1.0, help="Draw among those that sum to p; 1: all."
    ),
    click.option("--min-p", type=float, default=0.0, help="Draw above p x the likeliest; 0: all."),
    click.option("--repetition-penalty", type=float, default=1.0, help="1: none."),
    click.option("--seed", type=int, help="Repeat the same draws."),
    click.option("--stop", type=text, multiple=True, help="End before this text. May be repeated."),
    click.option(
        "--draft",
        type=int,
        default=0,
        help="Guess up to this many tokens a step from the text so far: the same answer, faster "
        "where it repeats itself.  [default: 0, none]",
    ),
)
_ENGINE: tuple[Callable[[Any], Any], ...] = (
    click.option("--threads", type=int, help="CPU threads.  [default: all]"),
    click.option(
        "--context",
        type=int,
        help="Tokens in all.  [default: the model's, up to 4096; no limit for a MatMul-free one]",
    ),
    click.option(
        "--kv-bits",
        type=int,
        help="Of a cached key or value: 32, 16, 8, 4, 3. A MatMul-free model has none.  [default: "
        "the model's, most often 16]",
    ),
    click.option(
        "--input-bits",
        type=int,
        default=16,
        show_default=True,
        help="Of inputs that the model leaves floats: 16, or 8, which reads prompts faster.",
    ),
    click.option(
        "--body",
        default="auto",
        help="Ternary weights in memory: t2 (2 bits), t1_6 (1.6), or auto, whichever is faster "
        "here. The text is the same.  [default: auto]",
    ),
)


def generate_options(command: F) -> F:
    """Add the options of `GenerateOptions` that make sense on a command line."""
    for option in reversed(_GENERATE):
        command = option(command)
    return command


def engine_options(command: F) -> F:
    """Add the options that open a model."""
    for option in reversed(_ENGINE):
        command = option(command)
    return command


@click.command()
@click.argument("model")
@click.argument("prompt", type=text, required=False)
@generate_options
@click.option("--logprobs", type=int, default=0, help="With --json: this many likeliest tokens.")
@engine_options
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object at the end.")
def run(
    model: str,
    prompt: str | None,
    threads: int | None,
    context: int | None,
    kv_bits: int | None,
    input_bits: int,
    body: str,
    as_json: bool,
    **options: Any,
) -> None:
    """Continue PROMPT with MODEL: a folder, a .gguf file or a name such as smollm2.

    Without PROMPT, the prompt is read from standard input.
    """
    from onebit.runtime.llm import LLM

    if prompt is None:
        prompt = read_stdin()
    if prompt is None:
        raise click.UsageError("Give a PROMPT, or pipe one in.")
    with LLM(model, threads, context, kv_bits, body, input_bits) as llm:
        stream = llm.stream(prompt, **options)
        for piece in stream:
            if not as_json:
                click.echo(piece, nl=False)
        if as_json:
            click.echo(json.dumps({"model": model, **stream.generation.to_dict()}))
        else:
            click.echo()
            click.echo(summary(stream.generation), err=True)


def read_stdin() -> str | None:
    """Return all that is piped in; None if standard input is a terminal, or closed."""
    if sys.stdin is None or sys.stdin.isatty():
        return None
    return sys.stdin.buffer.read().decode("utf-8", errors="replace")


def summary(generation: "Generation") -> str:
    """Return times and the reason of the end, in a line."""
    t = generation.timing
    drafts = f", {t.accepted_tokens} of {t.drafted_tokens} drafted" if t.drafted_tokens else ""
    return (
        f"[{t.prompt_tokens} prompt tokens, {t.prefill_rate_tokens_per_s:.0f}/s; "
        f"{t.generated_tokens} generated, {t.decode_rate_tokens_per_s:.1f}/s{drafts}; "
        f"ended by {generation.finish_reason}]"
    )
