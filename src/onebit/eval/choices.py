"""How often a model finds the right answer likelier than the wrong ones, zero-shot.

Each answer follows the question after a space, and the model says how likely its tokens are.
`accuracy` counts the questions whose right answer has the highest log-likelihood,
`accuracy_per_byte` those where it is highest when divided by the answer's UTF-8 bytes, so that long
answers have their chance (acc and acc_norm of EleutherAI's lm-evaluation-harness).

    from onebit import LLM
    from onebit.eval import choices

    print(choices.accuracy(LLM("smollm2"), "piqa"))

Shape letters: T tokens of a prompt and an answer, V vocabulary.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from onebit.errors import InputError, OnebitError
from onebit.eval import questions
from onebit.eval.questions import Task
from onebit.runtime.llm import LLM

if TYPE_CHECKING:  # a process that times a load imports this package too
    from onebit.data import Tokenizer
    from onebit.models import LanguageModel

Score: TypeAlias = Callable[[Sequence[int], Sequence[int]], float]
"""Tokens of a prompt and of an answer to the answer's log-likelihood, in nats."""


@dataclass(frozen=True)
class Accuracy:
    """A measurement, with what it takes to repeat it."""

    task: str
    description: str
    questions: int
    accuracy: float
    accuracy_per_byte: float
    """The answer's log-likelihood divided by its bytes."""
    chance: float
    """Of who guesses."""
    right: str
    """"1" for each question answered rightly and "0" for the others, in order: what a comparison of
    two models on the same questions needs."""
    right_per_byte: str

    @property
    def error(self) -> float:
        """Standard error of `accuracy`, as if the questions had been drawn at random."""
        return math.sqrt(self.accuracy * (1 - self.accuracy) / self.questions)

    @property
    def error_per_byte(self) -> float:
        """Standard error of `accuracy_per_byte`."""
        return math.sqrt(self.accuracy_per_byte * (1 - self.accuracy_per_byte) / self.questions)

    @property
    def protocol(self) -> str:
        """What was done, in a sentence."""
        return (
            f"{self.description}, zero-shot; of the answers, each after the question and a space, "
            "the one whose tokens have the highest log-likelihood, or the highest divided by its "
            "UTF-8 bytes; the first where two are equal."
        )

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        errors = {"error": self.error, "error_per_byte": self.error_per_byte}
        return asdict(self) | errors | {"protocol": self.protocol}


def accuracy(
    model: "LLM | LanguageModel",
    task: str | Task,
    items: int | None = None,
    tokenizer: "Tokenizer | None" = None,
    progress: Callable[[int, int], None] | None = None,
) -> Accuracy:
    """Measure how many questions a model answers rightly.

    Args:
        model: an engine (`LLM`), or a torch `LanguageModel`.
        task: a name or file that `questions.read` takes, or what it returned.
        items: questions to ask, from the first; None asks all.
        tokenizer: for a torch model; an LLM brings its own.
        progress: called with (questions done, questions in all) after each.

    Raises:
        MissingError, OptionError, FormatError: as `questions.read`.
        InputError: a question does not fit the model's context, or there is no tokenizer.
        OnebitError: the model gives a probability that is no number.
    """
    if isinstance(task, str):
        task = questions.read(task, items)
    asked = task.questions[:items]
    if tokenizer is None and isinstance(model, LLM):
        tokenizer = model.tokenizer
    if tokenizer is None:
        raise InputError("accuracy: a torch model has no tokenizer; pass one.")
    score, longest = _scorer(model)
    right, right_per_byte = "", ""
    for done, question in enumerate(asked, 1):
        prompt = task.prompt.format(question.question)
        nats = np.empty(len(question.options))
        for i, option in enumerate(question.options):
            nats[i] = score(*_tokens(tokenizer, prompt, option, longest))
        if not np.isfinite(nats).all():
            raise OnebitError(
                f"{task.name}: the model's log-likelihoods of question {done} are {nats.tolist()}. "
                "Its weights hold a number that is not finite (`onebit verify` names it), or it "
                "overflows."
            )
        size = np.array([len(option.encode()) for option in question.options])
        right += "01"[int(nats.argmax()) == question.answer]
        right_per_byte += "01"[int((nats / size).argmax()) == question.answer]
        if progress:
            progress(done, len(asked))
    return Accuracy(
        task=task.name,
        description=task.description,
        questions=len(asked),
        accuracy=right.count("1") / len(asked),
        accuracy_per_byte=right_per_byte.count("1") / len(asked),
        chance=float(np.mean([1 / len(q.options) for q in asked])),
        right=right,
        right_per_byte=right_per_byte,
    )


def _tokens(
    tokenizer: "Tokenizer", prompt: str, option: str, longest: int
) -> tuple[list[int], list[int]]:
    """Return the tokens of a prompt and of the answer after it.

    The two are cut into tokens together, as a text would be; what the prompt alone begins with too
    is the prompt. So a token across the border belongs to the answer.
    """
    alone = tokenizer.encode(prompt, bos=tokenizer.add_bos)
    whole = tokenizer.encode(f"{prompt} {option}", bos=tokenizer.add_bos)
    if len(whole) > longest:
        raise InputError(
            f"A question with its answer has {len(whole)} tokens; accepted for this model: up to "
            f"{longest}. Open the model with a larger context, or take other questions."
        )
    same = next((i for i, (a, b) in enumerate(zip(alone, whole, strict=False)) if a != b), None)
    cut = min(len(alone), len(whole) - 1) if same is None else same
    if cut < 1:
        raise InputError(
            f"The question {prompt!r:.60} has no token of its own to begin with; put words before."
        )
    return whole[:cut], whole[cut:]


def _scorer(model: "LLM | LanguageModel") -> tuple[Score, int]:
    """Return the function that scores an answer, and how many tokens it takes with the prompt."""
    if isinstance(model, LLM):
        return lambda prompt, answer: float(model.logprobs_after(prompt, answer).sum()), (
            model.context
        )
    return _torch_scorer(model), model.architecture.longest


def _torch_scorer(model: "LanguageModel") -> Score:
    import torch

    device = next(model.parameters()).device

    @torch.no_grad()
    def score(prompt: Sequence[int], answer: Sequence[int]) -> float:
        tokens_T = torch.tensor([*prompt, *answer], device=device)
        logits_TV = model(tokens_T[None, :])[0, len(prompt) - 1 : -1].double()
        chosen_T = tokens_T[len(prompt) :, None]
        return float(torch.log_softmax(logits_TV, dim=-1).gather(1, chosen_T).sum())

    return score
