"""Greedy text from a torch model, the slow and plain way: no cache, every token from scratch.

It is what the engine is checked against; to run a model, use `onebit.LLM`.
"""

from collections.abc import Sequence

import torch

from onebit.errors import ShapeError
from onebit.models.language_model import LanguageModel


@torch.no_grad()
def generate(model: LanguageModel, tokens: Sequence[int], n: int) -> list[int]:
    """Return the `n` most likely tokens after `tokens`, one after the other.

    It stops early behind an end-of-text token of the architecture, which is the last one returned.
    The model runs in evaluation mode, in which no token's scale depends on another's.

    Raises:
        ShapeError: the prompt is empty or has an id outside the vocabulary, or the text would be
            longer than the model's context.
    """
    a = model.architecture
    if not tokens or min(tokens) < 0 or max(tokens) >= a.vocab_size:
        raise ShapeError(
            f"generate: the prompt must be one or more ids from 0 to {a.vocab_size - 1}; "
            f"got {list(tokens)!r:.60}."
        )
    if len(tokens) + n > a.longest:
        raise ShapeError(
            f"generate: {len(tokens)} tokens and {n} new ones pass the context of "
            f"{a.longest}. Shorten the prompt or ask for less."
        )
    device = model.model.embed_tokens.weight.device
    text, training = list(tokens), model.training
    model.eval()
    for _ in range(n):
        logits_V = model(torch.tensor([text], device=device))[0, -1]
        text.append(int(logits_V.argmax()))
        if text[-1] in a.eos_token_id:
            break
    model.train(training)
    return text[len(tokens) :]
