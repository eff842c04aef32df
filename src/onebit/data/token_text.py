"""From token ids to text, one id at a time and never half a character.

A token is a run of bytes, and one character may be spread over several tokens. So ids become bytes,
and the bytes go through an incremental UTF-8 decoder, which holds back an unfinished character
until the next id completes it. Bytes that can never become a character come out as "�".
"""

import codecs
import json
from typing import Any

import tokenizers
from tokenizers import pre_tokenizers

from onebit.data import spm
from onebit.errors import OptionError, UnsupportedError


def _byte_alphabet() -> dict[str, int]:
    """Return GPT-2's characters for bytes, inverted.

    Printable Latin-1 bytes stand for themselves; the other 68, in order, for U+0100 onwards.
    """
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    rest = [byte for byte in range(256) if byte not in plain]
    return {chr(byte): byte for byte in plain} | {chr(256 + i): b for i, b in enumerate(rest)}


BYTE_OF = _byte_alphabet()
assert set(BYTE_OF) == set(pre_tokenizers.ByteLevel.alphabet())


class TokenBytes:
    """The bytes of every token of a vocabulary, looked up when first asked for."""

    def __init__(self, backend: tokenizers.Tokenizer) -> None:
        self._backend = backend
        self._known: dict[int, bytes] = {}
        added = backend.get_added_tokens_decoder()
        self.special = frozenset(i for i, token in added.items() if token.special)
        self._added = {i: token.content.encode() for i, token in added.items()}
        self._byte_level, self.strips_first_space = _kind(backend)

    def __getitem__(self, token_id: int) -> bytes:
        """Return the token's bytes; none for an id past the vocabulary, which no token names
        (embeddings are often padded).

        Raises:
            OptionError: the id is negative.
        """
        known = self._known.get(token_id)
        if known is None:
            known = self._known[token_id] = self._look_up(token_id)
        return known

    def _look_up(self, token_id: int) -> bytes:
        if token_id < 0:
            raise OptionError(f"decode: {token_id} is no token id; ids start at 0.")
        if token_id in self._added:
            return self._added[token_id]
        text = self._backend.id_to_token(token_id)
        if text is None:
            return b""
        if self._byte_level:
            if all(char in BYTE_OF for char in text):
                return bytes(BYTE_OF[char] for char in text)
            return text.encode()
        byte = _byte_token(text)
        return text.replace(spm.SPACE, " ").encode() if byte is None else bytes([byte])


class Decoder:
    """Turns ids into text as they arrive. The text so far is what `feed` returned, joined."""

    def __init__(self, table: TokenBytes, *, start: bool, special: bool) -> None:
        self._table = table
        self._drop_space = start and table.strips_first_space
        self._special = special
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")

    def feed(self, token_id: int) -> str:
        """Return the text that this id completes, "" while a character is unfinished."""
        token_id = int(token_id)
        if token_id in self._table.special and not self._special:
            return ""
        raw = self._table[token_id]
        if self._drop_space and raw:
            self._drop_space = False
            raw = raw.removeprefix(b" ")
        return self._utf8.decode(raw)

    def flush(self) -> str:
        """End the text: return "�" if a character was left unfinished, else ""."""
        return self._utf8.decode(b"", final=True)


def _byte_token(text: str) -> int | None:
    """Return the byte that "<0x..>" stands for."""
    if len(text) == 6 and text.startswith("<0x") and text.endswith(">"):
        try:
            return int(text[3:5], 16)
        except ValueError:
            return None
    return None


def _kind(backend: tokenizers.Tokenizer) -> tuple[bool, bool]:
    """Return (byte-level rather than SentencePiece, drops the text's first space)."""
    state: dict[str, Any] = {} if backend.decoder is None else _state(backend)
    steps = state["decoders"] if state.get("type") == "Sequence" else [state]
    types = [step.get("type") for step in steps]
    if "ByteLevel" in types:
        return True, False
    if "Metaspace" in types:
        return False, any(step.get("prepend_scheme", "never") != "never" for step in steps)
    if "ByteFallback" in types or "Replace" in types:
        return False, any(step.get("type") == "Strip" and step.get("start") for step in steps)
    raise UnsupportedError(
        f"tokenizer: its decoder is {[kind for kind in types if kind] or 'missing'}; "
        "supported: byte-level BPE and SentencePiece (ByteLevel, Metaspace, ByteFallback)."
    )


def _state(backend: tokenizers.Tokenizer) -> dict[str, Any]:
    return dict(json.loads(backend.decoder.__getstate__()))
