"""Byte-level BPE: the vocabulary kind of GPT-2, Llama 3, Qwen2, SmolLM2, and of what we train.

A text becomes UTF-8 bytes, every byte a printable character (so a space reads "Ġ"); a regular
expression cuts it into words, and inside a word the pair of neighbours that was learned first is
merged first, until no learned pair is left. The model families differ only in the expression,
which GGUF names in `tokenizer.ggml.pre`.

Sources: Sennrich et al., "Neural machine translation of rare words with subword units",
https://arxiv.org/abs/1508.07909; Radford et al., "Language models are unsupervised multitask
learners" (2019), section 2.2, for bytes and the expression.
"""

import json
from collections.abc import Iterable, Mapping
from typing import Any

import tokenizers
from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers, trainers

from onebit.errors import OptionError, UnsupportedError

END_OF_TEXT = "<|endoftext|>"
"""The only special token of a vocabulary that we train: begins, ends and separates documents."""
END_OF_TEXT_ID = 0

_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"  # section 2.2
_LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|"
    r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)

EXPRESSIONS: dict[str, tuple[str, ...]] = {
    "gpt-2": (_GPT2,),
    "smollm": (r"\p{N}", _GPT2),
    "llama-bpe": (_LLAMA3,),
    "qwen2": (_LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}"),),
    "default": (r"[\p{P}\$\+<=>\^~\|]+", _GPT2, r"\p{N}+", "[0-9][0-9][0-9]"),
}
"""The cuts of each `tokenizer.ggml.pre`: each expression splits what the one before left whole."""

_ALIASES = {
    "gpt2": "gpt-2",
    "phi-2": "gpt-2",
    "llama3": "llama-bpe",
    "llama-v3": "llama-bpe",
    "falcon3": "llama-bpe",
    "deepseek-r1-qwen": "qwen2",
}


def resolve(name: str) -> str:
    """Return the key of `EXPRESSIONS` for a `tokenizer.ggml.pre`.

    Raises:
        UnsupportedError: the name is not one we know.
    """
    name = _ALIASES.get(name, name)
    if name not in EXPRESSIONS:
        raise UnsupportedError(
            f"tokenizer.ggml.pre is {name!r}; supported: {', '.join([*EXPRESSIONS, *_ALIASES])}."
        )
    return name


def build(
    vocabulary: Mapping[str, int], merges: list[tuple[str, str]], pre: str
) -> tokenizers.Tokenizer:
    """Return the byte-level BPE of a vocabulary.

    Args:
        vocabulary: token text, in the byte alphabet, to id.
        merges: pairs in the order in which they were learned.
        pre: a key of `EXPRESSIONS`. "llama-bpe" also takes a word that is itself a token whole,
            without merging; "qwen2" first composes characters (Unicode NFC).
    """
    backend = tokenizers.Tokenizer(
        models.BPE(vocab=dict(vocabulary), merges=merges, ignore_merges=pre == "llama-bpe")
    )
    if pre == "qwen2":
        backend.normalizer = normalizers.NFC()
    backend.pre_tokenizer = _pre_tokenizer(pre)
    backend.decoder = decoders.ByteLevel()
    return backend


def _pre_tokenizer(pre: str) -> pre_tokenizers.PreTokenizer:
    """Return the cuts in the form that Hugging Face's own files of that family use."""
    byte_level = pre_tokenizers.ByteLevel
    if pre == "gpt-2":
        return byte_level(add_prefix_space=False, use_regex=True)
    if pre == "smollm":
        digits = pre_tokenizers.Digits(individual_digits=True)
        return pre_tokenizers.Sequence([digits, byte_level(add_prefix_space=False)])
    cuts = [pre_tokenizers.Split(Regex(cut), "isolated") for cut in EXPRESSIONS[pre]]
    return pre_tokenizers.Sequence([*cuts, byte_level(add_prefix_space=False, use_regex=False)])


def name_of(backend: tokenizers.Tokenizer) -> str:
    """Return the `tokenizer.ggml.pre` that stands for what `backend` does to a text.

    Raises:
        UnsupportedError: GGUF has no name that we know for it, or it is no byte-level BPE.
    """
    if isinstance(backend.model, models.BPE) and backend.pre_tokenizer is not None:
        found = _signature(backend.pre_tokenizer)
        normalizer = None if backend.normalizer is None else _state(backend.normalizer)["type"]
        for name in EXPRESSIONS:
            same_cut = found == _signature(_pre_tokenizer(name))
            same_text = normalizer == ("NFC" if name == "qwen2" else None)
            if same_cut and same_text and backend.model.ignore_merges == (name == "llama-bpe"):
                return name
    raise UnsupportedError(
        "this tokenizer has no GGUF form that we write; "
        f"supported: byte-level BPE that cuts words like {', '.join(EXPRESSIONS)}."
    )


def _state(part: Any) -> dict[str, Any]:
    return dict(json.loads(part.__getstate__()))


def _signature(part: pre_tokenizers.PreTokenizer) -> list[tuple[Any, ...]]:
    """Reduce a pre-tokenizer to what changes ids; offsets, for one, do not."""
    state = _state(part)
    steps = state["pretokenizers"] if state["type"] == "Sequence" else [state]
    return [
        (
            step["type"],
            step.get("pattern"),
            step.get("behavior"),
            step.get("invert", False),
            step.get("individual_digits"),
            step.get("add_prefix_space"),
            step.get("use_regex"),
        )
        for step in steps
    ]


def train(texts: Iterable[str], vocab_size: int) -> tokenizers.Tokenizer:
    """Learn a byte-level BPE with GPT-2's expression; the same texts give the same vocabulary.

    Ids: 0 is `<|endoftext|>`, 1 to 256 are the bytes, then the merges in the order learned. A pair
    seen only once is not learned, so little text gives fewer than `vocab_size` tokens.

    Raises:
        OptionError: `vocab_size` has no room for the 256 bytes and the special token.
    """
    if vocab_size < 257:
        raise OptionError(
            f"vocab_size is {vocab_size}; it must be at least 257 (256 bytes and {END_OF_TEXT})."
        )
    backend = build({}, [], "gpt-2")
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=2,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(texts, trainer=trainer)
    return backend
