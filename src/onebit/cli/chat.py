"""`onebit chat`: talk with a model; one answer if standard input is a pipe."""

import json
import sys
from typing import TYPE_CHECKING, Any

import click

from onebit.cli.run import engine_options, generate_options, read_stdin, summary, text
from onebit.errors import InputError

if TYPE_CHECKING:
    from onebit.runtime.llm import LLM

Messages = list[dict[str, str]]
HELP = "/reset forgets the conversation, /exit ends it; Ctrl-C stops an answer."


@click.command()
@click.argument("model")
@click.option("--system", type=text, help="Instructions that stand before the conversation.")
@generate_options
@engine_options
@click.option("--json", "as_json", is_flag=True, help="Print each answer as one JSON object.")
def chat(
    model: str,
    system: str | None,
    threads: int | None,
    context: int | None,
    kv_bits: int | None,
    input_bits: int,
    body: str,
    as_json: bool,
    **options: Any,
) -> None:
    """Talk with MODEL: a folder, a .gguf file or a name such as smollm2.

    If standard input is not a terminal, all of it is one message and gets one answer.
    """
    from onebit.runtime.llm import LLM

    start: Messages = [{"role": "system", "content": system}] if system is not None else []
    with LLM(model, threads, context, kv_bits, body, input_bits) as llm:
        if (piped := read_stdin()) is None:
            _converse(llm, start, as_json, options)
        else:
            _answer(llm, [*start, _user(piped)], as_json, options)


def _converse(llm: "LLM", start: Messages, as_json: bool, options: dict[str, Any]) -> None:
    llm.tokenizer.encode_chat([*start, _user("Hello")])  # who cannot chat says so before we ask
    click.echo(HELP, err=True)
    messages = list(start)
    while (line := _read_line()) is not None and line != "/exit":
        if line == "/reset":
            messages = list(start)
            click.echo("Forgotten.", err=True)
        elif line:
            asked = [*messages, _user(line)]
            try:
                answer = _answer(llm, asked, as_json, options)
            except InputError as error:  # too long: the conversation goes on without this turn
                click.echo(f"{error} Or /reset.", err=True)
                continue
            messages = [*asked, {"role": "assistant", "content": answer}]


def _read_line() -> str | None:
    """Return what was typed, stripped; None at the end of the input or on Ctrl-C."""
    try:
        return input("> ").strip()
    except (EOFError, KeyboardInterrupt):
        click.echo(err=True)
        return None
    except UnicodeDecodeError:
        click.echo("That was no UTF-8 text; it is left out.", err=True)
        return ""


def _answer(llm: "LLM", messages: Messages, as_json: bool, options: dict[str, Any]) -> str:
    """Print an answer as it comes and return its text; Ctrl-C ends it in a terminal."""
    stream = llm.stream_chat(messages, **options)
    try:
        for piece in stream:
            if not as_json:
                click.echo(piece, nl=False)
    except KeyboardInterrupt:
        stream.close()
        if not sys.stdin.isatty():
            raise
    generation = stream.generation
    if as_json:
        click.echo(json.dumps(generation.to_dict()))
    else:
        click.echo()
        click.echo(summary(generation), err=True)
    return generation.text


def _user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}
