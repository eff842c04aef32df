"""Text to token ids and back.

    tokenizer = Tokenizer.load("model_folder")
    ids = tokenizer.encode("It was a dark night.")
    tokenizer.decode(ids)

A special token (the end of a text, the turn of a speaker) has a text too, such as "<|im_end|>". A
user who types that text must not be able to end a turn with it, so `encode` reads it as plain
characters unless it is told `special=True`.
"""

import hashlib
import threading
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import tokenizers

from onebit.data import bpe, chat, tokenizer_files, tokenizer_gguf
from onebit.data.settings import Settings
from onebit.data.token_text import Decoder, TokenBytes
from onebit.errors import InputError, OptionError


class Tokenizer:
    """A vocabulary with its begin and end tokens and its chat template."""

    def __init__(
        self,
        backend: tokenizers.Tokenizer,
        settings: Settings,
        metadata: Mapping[str, Any] | None = None,
    ) -> None:
        """Use `load` or `train`. `metadata` is the GGUF metadata that this was built from."""
        self._plain = backend
        self._plain.encode_special_tokens = True  # the library's words for "as plain characters"
        self._with_special: tokenizers.Tokenizer | None = None
        self._lock = threading.Lock()
        self._settings = settings
        self._metadata = None if metadata is None else dict(metadata)
        self._bytes = TokenBytes(backend)
        self.vocab_size = 1 + max(backend.get_vocab(with_added_tokens=True).values())

    @classmethod
    def load(cls, source: str | Path | Mapping[str, Any]) -> "Tokenizer":
        """Read the tokenizer of a model.

        Args:
            source: a folder with `tokenizer.json`, that file itself, or the `tokenizer.*` metadata
                of a GGUF file as a dict.

        Raises:
            OptionError: `source` is some other file.
            MissingError: there is no tokenizer.
            FormatError: it is damaged or hostile.
            UnsupportedError: it is of a kind that we do not build.
        """
        if isinstance(source, Mapping):
            kept = {key: value for key, value in source.items() if key.startswith("tokenizer.")}
            return cls(*tokenizer_gguf.read(kept), kept)
        path = Path(source)
        if path.is_file() and path.name != "tokenizer.json":
            raise OptionError(
                f"tokenizer: {path} is no tokenizer.json; accepted: a folder with one, or the "
                "tokenizer.* metadata of a GGUF file (open_checkpoint(path).tokenizer.source)."
            )
        return cls(*tokenizer_files.read(path.parent if path.is_file() else path))

    @classmethod
    def train(
        cls, texts: Iterable[str], vocab_size: int, chat_template: str | None = None
    ) -> "Tokenizer":
        """Learn a byte-level BPE vocabulary; see `bpe.train`. `<|endoftext|>` is bos and eos.

        Raises:
            OptionError: `vocab_size` is below 257.
        """
        backend = bpe.train(texts, vocab_size)
        end = bpe.END_OF_TEXT_ID
        return cls(backend, Settings(bos_id=end, eos_ids=(end,), chat_template=chat_template))

    @property
    def bos_id(self) -> int | None:
        """The token that begins a text."""
        return self._settings.bos_id

    @property
    def eos_ids(self) -> tuple[int, ...]:
        """The tokens that end a text or a turn, the file's own first."""
        return self._settings.eos_ids

    @property
    def eos_id(self) -> int | None:
        """The first of `eos_ids`."""
        return self.eos_ids[0] if self.eos_ids else None

    @property
    def add_bos(self) -> bool:
        """Whether the model expects `bos_id` in front of every text."""
        return self._settings.add_bos

    @property
    def chat_template(self) -> str | None:
        """The Jinja source that lays out a conversation."""
        return self._settings.chat_template

    @property
    def special_ids(self) -> frozenset[int]:
        """The ids that `encode` gives only with `special=True`."""
        return self._bytes.special

    def encode(self, text: str, bos: bool = False, special: bool = False) -> list[int]:
        """Return the ids of a text.

        Args:
            text: any text without lone surrogates.
            bos: put `bos_id` in front. Pass `tokenizer.add_bos` to do as the model expects.
            special: read the texts of special tokens as those tokens. Only for text that we made
                ourselves, never for a user's.

        Raises:
            InputError: the text cannot be written as UTF-8, or bos is asked of a vocabulary
                without one.
        """
        return self._begin(bos) + self.encode_batch([text], special=special)[0]

    def encode_batch(self, texts: Sequence[str], special: bool = False) -> list[list[int]]:
        """Return the ids of each text, using all cores. Raises: as `encode`."""
        backend = self._special_backend() if special else self._plain
        try:
            batch = backend.encode_batch_fast(list(texts), add_special_tokens=False)
        except (UnicodeEncodeError, TypeError) as error:
            raise InputError(
                "encode: a text must be a str that UTF-8 can write, without lone surrogates. "
                "Read files with errors='replace'."
            ) from error
        return [encoding.ids for encoding in batch]

    def _begin(self, bos: bool) -> list[int]:
        if not bos:
            return []
        if self.bos_id is None:
            raise OptionError("encode: this vocabulary has no bos token; encode with bos=False.")
        return [self.bos_id]

    def _special_backend(self) -> tokenizers.Tokenizer:
        """Return a copy that reads special tokens, made once: a flag on one object would be shared
        by all threads."""
        with self._lock:
            if self._with_special is None:
                self._with_special = tokenizers.Tokenizer.from_str(self._plain.to_str())
                self._with_special.encode_special_tokens = False
            return self._with_special

    def decode(self, ids: Iterable[int], special: bool = False) -> str:
        """Return the text of ids; special tokens leave nothing unless `special`.

        A SentencePiece vocabulary that puts a space before every text drops it again here.
        """
        decoder = self.decoder(start=True, special=special)
        return "".join([decoder.feed(i) for i in ids]) + decoder.flush()

    def decoder(self, start: bool = False, special: bool = False) -> Decoder:
        """Return a decoder to feed id by id, which never gives half a character.

        Args:
            start: the ids begin a text. The default is that they go on from a prompt, where a first
                space belongs to the text.
            special: let special tokens leave their text.
        """
        return Decoder(self._bytes, start=start, special=special)

    def token_bytes(self, token_id: int) -> bytes:
        """Return the bytes of one token, perhaps part of a character."""
        return self._bytes[token_id]

    def render_chat(
        self, messages: Sequence[Mapping[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """Return a conversation as the one text that the model was trained on.

        Encode it with `special=True`; or use `encode_chat`, which also keeps special tokens out of
        what people wrote.

        Raises: as `chat.render`.
        """
        return chat.render(
            self.chat_template,
            messages,
            add_generation_prompt=add_generation_prompt,
            bos_token=self._text_of(self.bos_id),
            eos_token=self._text_of(self.eos_id),
        )

    def encode_chat(
        self, messages: Sequence[Mapping[str, str]], add_generation_prompt: bool = True
    ) -> list[int]:
        """Return the ids of a conversation.

        Special tokens that the template writes are encoded as such; the same text inside a message
        stays plain characters. `bos_id` is put in front if the model expects it and the template
        has not.

        Raises: as `chat.render`.
        """
        specials = [self._text_of(i) for i in sorted(self.special_ids)]
        guarded = chat.guard(messages, specials)
        pieces = chat.split(self.render_chat(guarded, add_generation_prompt))
        ids = [i for part in self.encode_batch(pieces, special=True) for i in part]
        return self._begin(self.add_bos and ids[:1] != [self.bos_id]) + ids

    def _text_of(self, token_id: int | None) -> str:
        return "" if token_id is None else self._plain.id_to_token(token_id) or ""

    def save(self, folder: str | Path) -> None:
        """Write `tokenizer.json` and `tokenizer_config.json`, which AutoTokenizer reads.

        Raises:
            FileError: the system refused.
        """
        tokenizer_files.write(Path(folder), self._plain, self._settings)

    def to_gguf(self) -> dict[str, Any]:
        """Return the `tokenizer.*` metadata of a GGUF file: as it came, if it came from one.

        Raises:
            UnsupportedError: it came from a folder and is no BPE that GGUF has a word for.
        """
        if self._metadata is not None:
            return dict(self._metadata)
        return tokenizer_gguf.write(self._plain, self._settings)

    @property
    def fingerprint(self) -> str:
        """The SHA-256 of the vocabulary and every step, in hex: equal where all ids are equal."""
        return hashlib.sha256(self._plain.to_str().encode()).hexdigest()
