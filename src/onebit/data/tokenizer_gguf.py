"""A tokenizer from, and to, the `tokenizer.*` metadata of a GGUF file.

The metadata is a stranger's: every type, length, id and pair is checked before it reaches the
`tokenizers` library.

Source: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md, "Tokenizer".
"""

import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tokenizers
from tokenizers import AddedToken, processors

from onebit.data import bpe, spm
from onebit.data.settings import Settings, end_ids
from onebit.errors import FormatError, UnsupportedError

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)
MAX_TOKENS = 1 << 22
MAX_TOKEN_CHARS = 4096

_BYTE = re.compile(r"<0x[0-9A-F]{2}>")
_Entries = list[tuple[str, int]]  # (text, type), by id


def read(metadata: Mapping[str, Any]) -> tuple[tokenizers.Tokenizer, Settings]:
    """Build the tokenizer that GGUF metadata describes.

    Raises:
        FormatError: a value is missing, or of the wrong type, length or range.
        UnsupportedError: a tokenizer kind that we do not build.
    """
    model = _text(metadata, "tokenizer.ggml.model", None)
    entries = _entries(metadata)
    vocabulary = _vocabulary(entries)
    if model == "gpt2":
        backend = _read_bpe(metadata, entries, vocabulary)
    elif model == "llama":
        backend = _read_spm(metadata, entries, vocabulary)
    else:
        raise UnsupportedError(
            f"tokenizer.ggml.model is {model!r}; supported: gpt2 (byte-level BPE) and "
            "llama (SentencePiece BPE)."
        )
    _add_tokens(backend, entries)
    settings = _settings(metadata, model, entries, vocabulary)
    if settings.add_bos and settings.bos_id is not None:
        begin = entries[settings.bos_id][0]
        backend.post_processor = processors.TemplateProcessing(
            single=[begin, "$A"], special_tokens=[(begin, settings.bos_id)]
        )
    return backend, settings


def write(backend: tokenizers.Tokenizer, settings: Settings) -> dict[str, Any]:
    """Return the metadata that llama.cpp reads a tokenizer from: byte-level or SentencePiece BPE.

    Raises:
        UnsupportedError: the tokenizer is of another kind.
    """
    described = json.loads(backend.to_str())
    sentences = spm.is_spm(described)
    pre = "default" if sentences else bpe.name_of(backend)
    size = 1 + max(backend.get_vocab(with_added_tokens=True).values())
    added = backend.get_added_tokens_decoder()
    tokens, types = [], []
    for i in range(size):
        text = backend.id_to_token(i)
        tokens.append(f"[UNUSED_{i}]" if text is None else text)
        kind = UNUSED if text is None else NORMAL
        types.append((CONTROL if added[i].special else USER_DEFINED) if i in added else kind)
    merges = described["model"]["merges"]
    if not merges:
        raise UnsupportedError("this tokenizer has no merges; GGUF asks for at least one.")
    metadata: dict[str, Any] = {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": pre,
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": np.array(types, np.int32),
        "tokenizer.ggml.add_bos_token": settings.add_bos,
        "tokenizer.ggml.add_space_prefix": False,
    }
    if sentences:
        metadata |= _pieces(described, tokens, types)
    else:
        metadata["tokenizer.ggml.merges"] = [" ".join(pair) for pair in merges]
    if settings.bos_id is not None:
        metadata["tokenizer.ggml.bos_token_id"] = np.uint32(settings.bos_id)
    if settings.eos_ids:
        metadata["tokenizer.ggml.eos_token_id"] = np.uint32(settings.eos_ids[0])
    if settings.chat_template is not None:
        metadata["tokenizer.chat_template"] = settings.chat_template
    return metadata


def _pieces(described: Mapping[str, Any], tokens: list[str], types: list[int]) -> dict[str, Any]:
    """Return what a SentencePiece vocabulary has otherwise: scores in place of pairs."""
    unknown = described["model"]["unk_token"]
    own = types.copy()
    for i, text in enumerate(tokens):
        if text == unknown:
            own[i] = UNKNOWN
        elif own[i] == NORMAL and _BYTE.fullmatch(text):
            own[i] = BYTE
    spelled = [
        text.replace(" ", spm.SPACE) if kind == USER_DEFINED else text
        for text, kind in zip(tokens, own, strict=True)
    ]
    found: dict[str, Any] = {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": spelled,
        "tokenizer.ggml.token_type": np.array(own, np.int32),
        "tokenizer.ggml.scores": np.array(
            spm.scores(tokens, described["model"]["merges"]), np.float32
        ),
        "tokenizer.ggml.add_space_prefix": spm.has_space_prefix(described),
    }
    if unknown in tokens:
        found["tokenizer.ggml.unknown_token_id"] = np.uint32(tokens.index(unknown))
    return found


def _entries(metadata: Mapping[str, Any]) -> _Entries:
    """Return text and type of every token, checked."""
    key = "tokenizer.ggml.tokens"
    tokens = _sequence(metadata, key, MAX_TOKENS)
    if not tokens:
        raise FormatError(f"{key} is empty; a vocabulary has at least one token.")
    types = _sequence(metadata, "tokenizer.ggml.token_type", MAX_TOKENS, optional=True)
    if types is not None and len(types) != len(tokens):
        raise FormatError(
            f"tokenizer.ggml.token_type has {len(types)} entries for {len(tokens)} tokens; "
            "they must be as many."
        )
    entries = []
    for i, text in enumerate(tokens):
        kind = NORMAL if types is None else types[i]
        if not isinstance(text, str) or len(text) > MAX_TOKEN_CHARS:
            raise FormatError(
                f"{key}[{i}] is {_brief(text)}; a token is a text of at most "
                f"{MAX_TOKEN_CHARS} characters."
            )
        if isinstance(kind, bool) or not isinstance(kind, int | np.integer) or not 0 <= kind <= 6:
            raise FormatError(f"tokenizer.ggml.token_type[{i}] is {_brief(kind)}; it is 1 to 6.")
        # llama.cpp, too, gives a token without text a name of its own.
        entries.append((text, int(kind) or NORMAL) if text else (f"[EMPTY_{i}]", UNUSED))
    return entries


def _vocabulary(entries: _Entries) -> dict[str, int]:
    vocabulary: dict[str, int] = {}
    for i, (text, _) in enumerate(entries):
        if vocabulary.setdefault(text, i) != i:
            raise FormatError(
                f"tokenizer.ggml.tokens: {_brief(text)} stands at {vocabulary[text]} and again at "
                f"{i}; every token must be different."
            )
    return vocabulary


def _read_bpe(
    metadata: Mapping[str, Any], entries: _Entries, vocabulary: Mapping[str, int]
) -> tokenizers.Tokenizer:
    pre = bpe.resolve(_pre_name(metadata, entries))
    pairs = _merges(metadata, entries, vocabulary)
    return bpe.build(vocabulary, pairs, pre)


def _pre_name(metadata: Mapping[str, Any], entries: _Entries) -> str:
    """Return `tokenizer.ggml.pre`. Where it is missing (as in the official BitNet 2B-4T file), a
    vocabulary that begins texts with Llama 3's token is Llama 3's."""
    name = _text(metadata, "tokenizer.ggml.pre", "")
    if name:
        return name
    begin = _token_id(metadata, "bos", entries)
    llama3 = begin is not None and entries[begin][0] == "<|begin_of_text|>"
    return "llama-bpe" if llama3 else "default"


def _merges(
    metadata: Mapping[str, Any], entries: _Entries, vocabulary: Mapping[str, int]
) -> list[tuple[str, str]]:
    """Return the pairs. Pairs that would spell a control token are left out, so that no ordinary
    text can become one."""
    key = "tokenizer.ggml.merges"
    pairs = []
    for i, merge in enumerate(_sequence(metadata, key, 2 * MAX_TOKENS)):
        # The second space splits where the first character is itself one.
        cut = merge.find(" ", 1) if isinstance(merge, str) else -1
        left, right = (merge[:cut], merge[cut + 1 :]) if cut > 0 else ("", "")
        whole = vocabulary.get(left + right)
        if whole is None or left not in vocabulary or right not in vocabulary:
            raise FormatError(
                f"{key}[{i}] is {_brief(merge)}; it must be two tokens with a space between, whose "
                "joined text is a token."
            )
        if entries[whole][1] != CONTROL:
            pairs.append((left, right))
    return pairs


def _read_spm(
    metadata: Mapping[str, Any], entries: _Entries, vocabulary: dict[str, int]
) -> tokenizers.Tokenizer:
    key = "tokenizer.ggml.scores"
    scores = _sequence(metadata, key, MAX_TOKENS)
    if len(scores) != len(entries):
        raise FormatError(f"{key} has {len(scores)} entries for {len(entries)} tokens.")
    for i, score in enumerate(scores):
        real = isinstance(score, float | int | np.floating | np.integer)
        if not real or not math.isfinite(score):
            raise FormatError(f"{key}[{i}] is {_brief(score)}; a score is a finite number.")
    for i, (text, kind) in enumerate(entries):
        spaced = text.replace(spm.SPACE, " ")
        if kind == USER_DEFINED and spaced not in vocabulary:
            # Such tokens are looked for in the text as the user wrote it.
            del vocabulary[text]
            vocabulary[spaced] = i
            entries[i] = (spaced, kind)
    unknown = _token_id(metadata, "unknown", entries)
    if unknown is None:
        unknown = next((i for i, (_, kind) in enumerate(entries) if kind == UNKNOWN), None)
    missing = next((b for b in range(256) if f"<0x{b:02X}>" not in vocabulary), None)
    if unknown is None and missing is not None:
        raise FormatError(
            f"tokenizer.ggml.tokens: there is neither an unknown token nor the byte "
            f"<0x{missing:02X}>; some text could not be encoded."
        )
    pieces = [i for i, (_, kind) in enumerate(entries) if kind == NORMAL]
    pairs = spm.merges([text for text, _ in entries], scores, pieces)
    return spm.build(
        vocabulary,
        pairs,
        unknown=None if unknown is None else entries[unknown][0],
        add_space_prefix=_flag(metadata, "tokenizer.ggml.add_space_prefix", True),
    )


def _add_tokens(backend: tokenizers.Tokenizer, entries: _Entries) -> None:
    """Mark control tokens (matched on demand) and user-defined ones (matched in every text)."""
    backend.add_tokens(
        [
            AddedToken(text, special=kind != USER_DEFINED, normalized=False)
            for text, kind in entries
            if kind in (CONTROL, UNKNOWN, USER_DEFINED)
        ]
    )


def _settings(
    metadata: Mapping[str, Any], model: str, entries: _Entries, vocabulary: Mapping[str, int]
) -> Settings:
    def control(text: str) -> int | None:
        i = vocabulary.get(text)
        return i if i is not None and entries[i][1] == CONTROL else None

    named = [_token_id(metadata, name, entries) for name in ("eos", "eot", "eom")]
    template = _text(metadata, "tokenizer.chat_template", "")
    # Where the file is silent, llama.cpp begins SentencePiece and Llama 3 texts with bos.
    silent = model == "llama" or bpe.resolve(_pre_name(metadata, entries)) == "llama-bpe"
    begin = _token_id(metadata, "bos", entries)
    return Settings(
        bos_id=begin,
        eos_ids=end_ids(named, control),
        add_bos=begin is not None and _flag(metadata, "tokenizer.ggml.add_bos_token", silent),
        chat_template=template or None,
    )


def _token_id(metadata: Mapping[str, Any], name: str, entries: _Entries) -> int | None:
    key = f"tokenizer.ggml.{name}_token_id"
    value = metadata.get(key)
    if value is None:
        return None
    whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
    if not whole or not 0 <= value < len(entries):
        raise FormatError(f"{key} is {_brief(value)}; a token id is 0 to {len(entries) - 1}.")
    return int(value)


def _text(metadata: Mapping[str, Any], key: str, default: str | None) -> str:
    value = metadata.get(key, default)
    if value is None:
        raise FormatError(f"{key} is missing; the file carries no tokenizer.")
    if not isinstance(value, str):
        raise FormatError(f"{key} is {_brief(value)}; it must be a text.")
    return value


def _flag(metadata: Mapping[str, Any], key: str, default: bool) -> bool:
    value = metadata.get(key, default)
    if not isinstance(value, bool | np.bool_):
        raise FormatError(f"{key} is {_brief(value)}; it must be true or false.")
    return bool(value)


def _sequence(metadata: Mapping[str, Any], key: str, limit: int, *, optional: bool = False) -> Any:
    value = metadata.get(key)
    if value is None and optional:
        return None
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if not isinstance(value, Sequence) or isinstance(value, str | bytes):
        raise FormatError(f"{key} is {_brief(value)}; it must be a list.")
    if len(value) > limit:
        raise FormatError(f"{key} has {len(value)} entries; at most {limit} are accepted.")
    return value


def _brief(value: Any) -> str:
    text = repr(value) if isinstance(value, str | int | float) else type(value).__name__
    return text if len(text) <= 60 else text[:57] + "..."
