"""`onebit run` and `onebit chat`: what goes to stdout, what to stderr, and what is refused."""

import json
import os

import pytest
from click.testing import CliRunner

from onebit import LLM
from onebit.cli import main
from onebit.cli.run import read_stdin

TEXT = "It was the best of times, it was the worst of times. "
TEMPLATE = (
    "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)


@pytest.fixture(scope="module")
def model(save_tiny):
    return str(save_tiny(TEXT, chat_template=TEMPLATE, tie_word_embeddings=False))


def onebit(*args, stdin=None):
    return CliRunner().invoke(main, [str(arg) for arg in args], input=stdin)


def test_run_prints_the_text_and_only_the_text(model):
    result = onebit("run", model, "It was", "-n", 12, "-t", 1, "--seed", 3)
    assert result.exit_code == 0
    with LLM(model) as llm:
        expected = llm.generate("It was", max_tokens=12, temperature=1.0, seed=3)
    assert result.stdout == expected.text + "\n"
    assert "12 generated" in result.stderr
    assert "ended by length" in result.stderr


def test_run_reads_a_prompt_from_a_pipe(model):
    piped = onebit("run", model, "-n", 6, "--json", stdin="It was")
    given = onebit("run", model, "It was", "-n", 6, "--json")
    assert json.loads(piped.stdout)["token_ids"] == json.loads(given.stdout)["token_ids"]


def test_drafts_change_the_times_only(model):
    asked = ("run", model, TEXT * 2, "-n", 20, "--repetition-penalty", 0.2)
    drafted = onebit(*asked, "--draft", 6)
    assert drafted.stdout == onebit(*asked).stdout
    assert " drafted; ended by" in drafted.stderr
    times = json.loads(onebit(*asked, "--draft", 6, "--json").stdout)["timing"]
    assert 0 < times["accepted_tokens"] <= times["drafted_tokens"]


def test_run_json_is_one_object(model):
    result = onebit("run", model, "It was", "-n", 5, "--logprobs", 2, "--json")
    data = json.loads(result.stdout)
    assert data["model"] == model
    assert len(data["token_ids"]) == len(data["logprobs"]) == 5
    assert data["finish_reason"] == "length"
    assert data["timing"]["generated_tokens"] == 5
    assert result.stderr == ""


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["run", "MODEL", "a", "--top-p", 2], "top_p is 2.0; accepted: a number above 0"),
        (["run", "MODEL", "a", "--threads", 0], "threads is 0"),
        (["run", "MODEL", "a", "--context", 97], "context is 97; accepted: .* from 2 to 96"),
        (["run", "MODEL", TEXT * 20], "and the context holds 96"),
        (["run", "no/such/model", "a"], "no/such/model: there is no such file or folder"),
        (["chat", "MODEL", "--temperature", -1], "temperature is -1.0"),
    ],
)
def test_what_is_wrong_is_one_line_and_exit_code_1(model, args, message):
    result = onebit(*[model if arg == "MODEL" else arg for arg in args], stdin="x")
    assert result.exit_code == 1
    assert result.stdout == ""
    assert len(result.stderr.splitlines()) == 1
    assert result.stderr.startswith("Error: ")
    import re

    assert re.search(message, result.stderr)


def test_bytes_that_are_no_text_are_replaced_wherever_they_come_from(model):
    typed = os.fsdecode(b"It was \xff\xfe")
    given = onebit("run", model, typed, "-n", 4, "--stop", typed, "--json")
    piped = onebit("run", model, "-n", 4, "--json", stdin=b"It was \xff\xfe")
    assert given.exit_code == piped.exit_code == 0
    assert json.loads(given.stdout)["token_ids"] == json.loads(piped.stdout)["token_ids"]


def test_a_closed_standard_input_is_no_prompt(model, monkeypatch):
    monkeypatch.setattr("onebit.cli.run.sys.stdin", None)
    assert read_stdin() is None


def test_a_model_that_cannot_chat_says_so_before_anyone_types(save_tiny, terminal):
    terminal("hello", "/exit")
    result = onebit("chat", save_tiny(TEXT))
    assert result.exit_code == 1
    assert result.stderr.startswith("Error: chat: this model has no chat template.")
    assert len(result.stderr.splitlines()) == 1


def test_typed_bytes_that_are_no_text_do_not_end_the_chat(model, terminal):
    terminal(UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad"), "hello", "/exit")
    result = onebit("chat", model, "-n", 3, "--json")
    assert result.exit_code == 0
    assert len(answers(result)) == 1
    assert "no UTF-8 text" in result.stderr


def test_chat_answers_a_pipe_once(model):
    result = onebit("chat", model, "--system", "Be brief.", "-n", 8, stdin="Hello\nthere")
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hello\nthere"},
    ]
    with LLM(model) as llm:
        assert result.stdout == llm.chat(messages, max_tokens=8).text + "\n"


@pytest.fixture
def terminal(monkeypatch):
    """Makes chat believe that a person sits there, who types these lines."""

    def types(*lines):
        left = iter(lines)

        def typed(prompt):
            line = next(left, None)
            if line is None:
                raise EOFError
            if not isinstance(line, str):
                raise line
            return line

        monkeypatch.setattr("onebit.cli.chat.read_stdin", lambda: None)
        monkeypatch.setattr("builtins.input", typed)

    return types


def answers(result):
    return [json.loads(line) for line in result.stdout.splitlines()]


def test_chat_remembers_resets_and_exits(model, terminal):
    terminal("Hello", "", "More", "/reset", "Hello", "/exit", "never read")
    result = onebit("chat", model, "-n", 4, "--json")
    first, second, third = answers(result)
    assert second["timing"]["prompt_tokens"] > first["timing"]["prompt_tokens"]
    assert third["token_ids"] == first["token_ids"]
    assert "Forgotten." in result.stderr


@pytest.mark.parametrize("end", [None, KeyboardInterrupt])
def test_the_end_of_the_input_ends_the_chat(model, terminal, end):
    terminal(*(["Hello"] if end is None else ["Hello", end]))
    result = onebit("chat", model, "-n", 4, "--json")
    assert result.exit_code == 0
    assert len(answers(result)) == 1


def test_a_message_too_long_leaves_the_conversation_as_it_was(model, terminal):
    terminal("Hello", TEXT * 20, "More", "/exit")
    result = onebit("chat", model, "-n", 4, "--json")
    assert result.exit_code == 0
    assert len(answers(result)) == 2
    assert "Shorten the prompt or open the model with a larger context. Or /reset." in result.stderr


@pytest.mark.parametrize("command", ["run", "chat"])
def test_help_names_every_option_of_the_library(command):
    from dataclasses import fields

    from onebit.runtime.options import GenerateOptions

    help_text = onebit(command, "--help").stdout
    for option in fields(GenerateOptions):
        if option.name != "logprobs" or command == "run":
            assert f"--{option.name.replace('_', '-')}" in help_text
