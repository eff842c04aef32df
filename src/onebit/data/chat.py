"""Chat templates: a conversation laid out as the one text that a model was trained on.

A template is a Jinja program that comes with the model; `template_sandbox` runs it. It may rely on
what transformers gives it: `messages`, `add_generation_prompt`, `bos_token`, `eos_token`, and the
functions of the sandbox.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from onebit.errors import OptionError

ROLES = ("system", "developer", "user", "assistant", "tool")
_CUT = "\ufdd0"  # Unicode keeps it free for a program's own use


def render(
    template: str | None,
    messages: Sequence[Mapping[str, str]],
    *,
    add_generation_prompt: bool = True,
    bos_token: str = "",
    eos_token: str = "",
) -> str:
    """Return the text of a conversation.

    Args:
        template: Jinja source, or None where the model has none.
        messages: each with "role" (one of `ROLES`) and "content", both texts.
        add_generation_prompt: end with what begins the assistant's answer.
        bos_token, eos_token: the texts of those tokens, for the template to write.

    Raises:
        OptionError: there is no template, a message is malformed, or the template refuses the
            messages (a model may want user and assistant to alternate, say).
        FormatError: the template is broken or does too much.
    """
    from onebit.data.template_sandbox import run  # jinja2 is slow to import

    if not template:
        raise OptionError(
            "chat: this model has no chat template. Give it a plain prompt instead "
            "(generate, or `onebit run`)."
        )
    check(messages)
    variables: dict[str, Any] = {
        "messages": [dict(message) for message in messages],
        "tools": None,
        "documents": None,
        "add_generation_prompt": add_generation_prompt,
        "bos_token": bos_token,
        "eos_token": eos_token,
    }
    return run(template, variables)


def check(messages: Sequence[Mapping[str, str]]) -> None:
    """Raise OptionError unless `messages` is a list of messages."""
    if isinstance(messages, str | bytes | Mapping) or not isinstance(messages, Sequence):
        raise OptionError(
            f"chat: messages is {type(messages).__name__}; it must be a list of "
            '{"role": ..., "content": ...}.'
        )
    if not messages:
        raise OptionError("chat: there are no messages; give at least one.")
    for i, message in enumerate(messages):
        if not isinstance(message, Mapping) or message.get("role") not in ROLES:
            role = message.get("role") if isinstance(message, Mapping) else message
            raise OptionError(
                f"chat: message {i} has role {role!r:.60}; accepted: {', '.join(ROLES)}."
            )
        if "content" not in message:
            raise OptionError(f'chat: message {i} has no "content"; every message has one.')
        for name, value in message.items():
            if not isinstance(value, str):
                raise OptionError(
                    f"chat: {name} of message {i} is {type(value).__name__}; it must be a text."
                )


def guard(messages: Sequence[Mapping[str, str]], specials: Sequence[str]) -> list[dict[str, str]]:
    """Return messages in which no special token can be read: each is cut after its first character.

    `split` finds the cuts again once the template has run. A special token of a single character
    is dropped, as it cannot be cut.

    Raises:
        OptionError: a message is malformed.
    """
    check(messages)
    longest_first = sorted(filter(None, specials), key=len, reverse=True)
    if not longest_first:
        return [dict(message) for message in messages]
    pattern = re.compile("|".join(map(re.escape, longest_first)))
    return [
        {k: v if k == "role" else _cut(v, pattern) for k, v in message.items()}
        for message in messages
    ]


def _cut(text: str, pattern: re.Pattern[str]) -> str:
    text = text.replace(_CUT, "")
    parts, start = [], 0
    while found := pattern.search(text, start):
        after = found.start() + 1  # what follows may hold a shorter special token
        parts.append(text[start : after if len(found[0]) > 1 else found.start()])
        start = after
    return _CUT.join([*parts, text[start:]])


def split(text: str) -> list[str]:
    """Return the pieces to encode one by one, so that no special token is read across a cut."""
    return text.split(_CUT)
