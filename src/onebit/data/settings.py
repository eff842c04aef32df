"""What a tokenizer's files say beside the vocabulary: which tokens begin and end a text."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

END_OF_TURN = (
    "<|endoftext|>",
    "<|end_of_text|>",
    "<|eot_id|>",
    "<|eom_id|>",
    "<|im_end|>",
    "<|end|>",
    "<|end_of_turn|>",
    "<end_of_turn>",
    "<end_of_utterance>",
    "<EOT>",
)
"""Control tokens that end an answer, by their text. Many files name only one of theirs as `eos`, so
generation stops at these too; the same list of names that llama.cpp treats as ends."""


@dataclass(frozen=True)
class Settings:
    """The facts that come with a vocabulary."""

    bos_id: int | None = None
    """The token that begins a text."""
    eos_ids: tuple[int, ...] = ()
    """Tokens that end one, the file's own `eos` first, then ends of turn."""
    add_bos: bool = False
    """Whether the model was trained with `bos_id` in front of every text."""
    chat_template: str | None = None
    """The Jinja source that lays out a conversation."""


def end_ids(
    named: Iterable[int | None], special_id: Callable[[str], int | None]
) -> tuple[int, ...]:
    """Return the ids in `named`, then those of the `END_OF_TURN` texts, each once.

    `special_id` gives the id of a control token's text, or None.
    """
    ids = (*named, *map(special_id, END_OF_TURN))
    return tuple(dict.fromkeys(i for i in ids if i is not None))
