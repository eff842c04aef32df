"""How well a model under training predicts the held-out text, in bits per byte.

The protocol is that of `onebit.eval.perplexity`, document by document and many windows at a time:
windows that do not overlap and do not cross documents, every token scored but a window's first, the
mean spread over all tokens and divided by the UTF-8 bytes. In float32, whatever training used.

Shape letters: B windows, T tokens of a window, V vocabulary.
"""

import math
from collections import defaultdict
from collections.abc import Iterator

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import nn

from onebit.data.blocks import TokenFile
from onebit.data.windows import windows
from onebit.errors import InputError

_TOKENS_AT_ONCE = 4096


@torch.no_grad()
def bits_per_byte(model: nn.Module, file: TokenFile, context: int, limit: int = 0) -> float:
    """Measure `model` on a token file.

    Args:
        model: tokens (B, T) to logits (B, T, V).
        file: the held-out documents.
        context: tokens in a window.
        limit: measure on this many windows, evenly spread over the text; 0 for all.

    Raises:
        InputError: no document has two tokens.
    """
    model.eval()
    cut = chosen(file, context, limit)
    nats = 0.0
    for batch_BT in _batches(cut):
        tokens_BT = torch.from_numpy(batch_BT)
        logits_BTV = model(tokens_BT[:, :-1])
        targets = tokens_BT[:, 1:].flatten()
        nats += float(F.cross_entropy(logits_BTV.flatten(0, 1), targets, reduction="sum").double())
    scored = sum(len(window) - 1 for window in cut)
    tokens = sum(len(file.document(i)) for i in range(len(file.names)))
    return nats / scored * tokens / (file.size_bytes * math.log(2))


def chosen(file: TokenFile, context: int, limit: int) -> list[NDArray[np.int64]]:
    """Return the windows of `bits_per_byte`, at most `limit` of them, or all for 0.

    Raises:
        InputError: no document has two tokens.
    """
    documents = (file.document(i) for i in range(len(file.names)))
    cut = [window for document in documents for window in windows(document, context)]
    if not cut:
        raise InputError(f"{file.path}: no held-out document has two tokens. Hold out more text.")
    if 0 < limit < len(cut):
        cut = [cut[i * len(cut) // limit] for i in range(limit)]
    return cut


def _batches(cut: list[NDArray[np.int64]]) -> Iterator[NDArray[np.int64]]:
    """Yield windows of equal length together, (B, T), so that nothing is padded."""
    by_length: dict[int, list[NDArray[np.int64]]] = defaultdict(list)
    for window in cut:
        by_length[len(window)].append(window)
    for length, same in by_length.items():
        size = max(_TOKENS_AT_ONCE // length, 1)
        for first in range(0, len(same), size):
            yield np.stack(same[first : first + size])
