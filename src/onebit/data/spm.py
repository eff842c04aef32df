"""SentencePiece BPE: the vocabulary kind of Llama 2, Mistral and Gemma ("llama" in GGUF).

Spaces are written "▁" and there are no words: in the whole text, the two neighbours whose joined
piece has the highest score are merged first. A character that is no piece becomes its UTF-8 bytes,
tokens "<0x00>" to "<0xFF>".

The `tokenizers` library ranks pairs instead of scoring pieces, so every way to split a piece into
two pieces becomes a pair, ranked by the score of the piece: what transformers does too. The results
differ from scoring only where two splits of one piece compete for the same characters.

Source: Kudo and Richardson, "SentencePiece", https://arxiv.org/abs/1808.06226.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import tokenizers
from tokenizers import decoders, models, normalizers

SPACE = "▁"
_SPACES = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}
_CUT = {"type": "Split", "pattern": {"String": " "}, "invert": False}
_PREFIX = {"type": "Prepend", "prepend": SPACE}


def merges(
    tokens: Sequence[str], scores: Sequence[float], pieces: Iterable[int]
) -> list[tuple[str, str]]:
    """Return every pair of pieces that joins to a piece, best score first.

    Args:
        tokens: text of every id.
        scores: of every id; higher merges earlier.
        pieces: ids that merging may use and form: the ordinary ones.
    """
    ids = {tokens[i]: i for i in pieces}
    pairs = []
    for text, whole in ids.items():
        for cut in range(1, len(text)):
            left, right = ids.get(text[:cut]), ids.get(text[cut:])
            if left is not None and right is not None:
                pairs.append((-scores[whole], whole, left, right))
    pairs.sort()
    return [(tokens[left], tokens[right]) for _, _, left, right in pairs]


def build(
    vocabulary: Mapping[str, int],
    pairs: list[tuple[str, str]],
    *,
    unknown: str | None,
    add_space_prefix: bool,
) -> tokenizers.Tokenizer:
    """Return the SentencePiece BPE of a vocabulary.

    Args:
        vocabulary: token text to id.
        pairs: from `merges`.
        unknown: the token for a character without piece or bytes.
        add_space_prefix: put a space before the text, so that a first word is as any other.
    """
    backend = tokenizers.Tokenizer(
        models.BPE(
            vocab=dict(vocabulary),
            merges=pairs,
            unk_token=unknown,
            fuse_unk=True,
            byte_fallback=True,
        )
    )
    spaces = normalizers.Replace(" ", SPACE)
    backend.normalizer = (
        normalizers.Sequence([normalizers.Prepend(SPACE), spaces]) if add_space_prefix else spaces
    )
    steps = [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    if add_space_prefix:
        steps.append(decoders.Strip(" ", 1, 0))
    backend.decoder = decoders.Sequence(steps)
    return backend


def is_spm(tokenizer: Mapping[str, Any]) -> bool:
    """Whether the JSON of a `tokenizers` tokenizer is what `build` makes, or Gemma's own.

    That one also cuts at spaces when there are none left.
    """
    model, cut = tokenizer["model"], tokenizer["pre_tokenizer"]
    steps = tokenizer["normalizer"]
    known = steps == _SPACES or has_space_prefix(tokenizer)
    no_cut = cut is None or {key: cut.get(key) for key in _CUT} == _CUT
    return bool(model["type"] == "BPE" and model.get("byte_fallback") and known and no_cut)


def has_space_prefix(tokenizer: Mapping[str, Any]) -> bool:
    """Whether it puts a space before the text."""
    steps = tokenizer["normalizer"]
    return bool(steps == {"type": "Sequence", "normalizers": [_PREFIX, _SPACES]})


def scores(tokens: Sequence[str], pairs: Iterable[Sequence[str]]) -> list[float]:
    """Return a score for every token, by which `merges` finds pairs in the order that they have.

    Tokens that no pair makes come last; nothing asks for their score.
    """
    rank: dict[str, int] = {}
    for left, right in pairs:
        rank.setdefault(left + right, len(rank))
    return [-float(rank.get(text, len(rank))) for text in tokens]
