"""`onebit eval`."""

import json

import pytest
from click.testing import CliRunner

from onebit import LLM
from onebit.cli import main
from onebit.eval import choices, engines, perplexity

TEXT = "It was the best of times, it was the worst of times. " * 5


@pytest.fixture(scope="module")
def model(save_tiny):
    return str(save_tiny(TEXT))


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text(TEXT)
    return str(path)


def onebit(*args):
    return CliRunner().invoke(main, [str(arg) for arg in args])


@pytest.mark.parametrize("engine", ["native", "torch"])
def test_eval_json_is_the_librarys_result(model, text, engine):
    result = onebit(
        "eval", model, "--text", text, "--engine", engine, "--window", 16, "--threads", 1, "--json"
    )
    data = json.loads(result.stdout)
    expected = perplexity(*_swap(engines.open_model(model, engine, 1), TEXT))
    assert (data["model"], data["scheme"], data["engine"]) == (model, "fp", engine)
    (measured,) = data["results"]
    assert measured["text"] == text
    assert measured["perplexity"] == expected.perplexity
    assert measured["protocol"] == expected.protocol


def _swap(opened, text):
    model, tokenizer = opened
    return model, text, 16, tokenizer


def test_a_cache_of_fewer_bits_can_be_measured(model, text):
    found = {}
    for kv_bits in (32, 3):
        result = onebit("eval", model, "--text", text, "--kv-bits", kv_bits, "--json")
        data = json.loads(result.stdout)
        assert data["kv_bits"] == kv_bits
        found[kv_bits] = data["results"][0]["perplexity"]
    with LLM(model, kv_bits=3) as llm:
        assert found[3] == perplexity(llm, TEXT).perplexity
    assert found[3] != found[32]


def test_eval_prints_a_line_and_how_it_was_measured(model, text):
    result = onebit("eval", model, "--text", text, "--limit-chars", 100)
    assert result.exit_code == 0
    first, what, how = result.stdout.splitlines()
    assert "perplexity" in first
    assert "bits per byte" in first
    assert "the first 100 characters" in what
    assert "windows" in how


def test_several_texts_are_several_results(model, text):
    result = onebit("eval", model, "--text", text, "--text", text, "--json")
    assert [r["text"] for r in json.loads(result.stdout)["results"]] == [text, text]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--text", "nothing.txt"], "nothing.txt: there is no such file, and no text"),
        (["--text", "TEXT", "--window", "97"], "window is 97; accepted for this model: 2 to 96"),
        (["--text", "TEXT", "--engine", "cuda"], "engine is 'cuda'; accepted: native, torch"),
        (["--text", "TEXT", "--engine", "torch", "--threads", "0"], "threads is 0"),
        (["--text", "TEXT", "--kv-bits", "5"], "kv_bits is 5; accepted: 32, 16, 8, 4, 3"),
        (["--text", "TEXT", "--engine", "torch", "--kv-bits", "8"], "torch has no cache"),
    ],
)
def test_what_is_wrong_is_one_line_and_exit_code_1(model, text, args, message):
    result = onebit("eval", model, *[text if arg == "TEXT" else arg for arg in args])
    assert result.exit_code == 1
    assert result.stdout == ""
    assert message in result.stderr
    assert len(result.stderr.splitlines()) == 1


@pytest.fixture
def task(tmp_path):
    path = tmp_path / "task.jsonl"
    line = {"question": "It was the", "options": "A. best of times\nB. of of", "answer": "B. of of"}
    path.write_text("\n".join([json.dumps(line)] * 3))
    return str(path)


def test_a_task_is_answered_and_no_text_is_read(model, task):
    result = onebit("eval", model, "--task", task, "--items", 2)
    assert result.exit_code == 0
    first, how = result.stdout.splitlines()
    assert first.startswith(f"{task}: ")
    assert "guessing 50.0%" in first
    assert "2 of 3 questions" in how


def test_a_text_and_a_task_are_both_in_the_json(model, text, task):
    result = onebit("eval", model, "--text", text, "--task", task, "--json")
    data = json.loads(result.stdout)
    assert [r["text"] for r in data["results"]] == [text]
    with LLM(model) as llm:
        assert data["tasks"] == [choices.accuracy(llm, task).to_dict()]


def test_a_task_that_is_not_there_is_one_line(model):
    result = onebit("eval", model, "--task", "hellaswag")
    assert result.exit_code == 1
    assert "no task of that name (piqa, openbookqa)" in result.stderr
