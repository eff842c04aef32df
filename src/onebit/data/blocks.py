"""Token files: documents as one long row of token ids, mapped into memory.

`write` tokenises documents into two files. `<path>` is nothing but ids, little-endian, two bytes
each (four for vocabularies above 65,536), every document followed by the separator. `<path>.json`
says what they are: how many, of which documents, how many bytes of text, by which tokenizer.

Shape letters: B windows of a batch, T tokens of a window.
"""

import json
import os
import secrets
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import ArrayLike, NDArray

from onebit.data.corpus import Document
from onebit.data.tokenizer import Tokenizer
from onebit.data.tokenizer_files import write_atomic
from onebit.errors import FileError, FormatError, InputError, MissingError, OptionError, ShapeError

FORMAT = "onebit-tokens-1"
MAX_SIDECAR_BYTES = 1 << 30
_DTYPES: dict[str, np.dtype[Any]] = {"uint16": np.dtype("<u2"), "uint32": np.dtype("<u4")}


def write(
    path: str | Path,
    documents: Iterable[Document],
    tokenizer: Tokenizer,
    *,
    separator: int | None = None,
) -> "TokenFile":
    """Tokenise documents to a token file, and open it.

    A crash leaves either the old pair of files, or no `.json`, never a wrong pair.

    Args:
        path: of the ids; `<path>.json` goes beside it.
        documents: what to write; read one batch at a time.
        tokenizer: user text is never read as special tokens.
        separator: the id after each document. The default is the tokenizer's `<|endoftext|>`, or
            its first end token.

    Raises:
        InputError: there are no documents, or a text is not UTF-8.
        OptionError: the tokenizer has no end token, or `separator` is not an id of it.
        FileError: the system refused.
    """
    path = Path(path)
    end = _separator(tokenizer, separator)
    dtype = "uint16" if tokenizer.vocab_size <= 1 << 16 else "uint32"
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(6)}.tmp")
    try:
        try:
            with open(temporary, "xb") as file:
                table = _write_ids(file, documents, tokenizer, end, _DTYPES[dtype])
                file.flush()
                os.fsync(file.fileno())
            sidecar = _sidecar(path)
            sidecar.unlink(missing_ok=True)  # from here until the end, the pair is not whole
            os.replace(temporary, path)
            about = {
                "format": FORMAT,
                "dtype": dtype,
                "vocab_size": tokenizer.vocab_size,
                "separator": end,
                "tokenizer": tokenizer.fingerprint,
                "documents": table,
            }
            write_atomic(sidecar, json.dumps(about).encode())
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise FileError(f"{path}: the token file cannot be written ({error.strerror}).") from error
    return TokenFile(path)


def _separator(tokenizer: Tokenizer, wanted: int | None) -> int:
    if wanted is not None:
        if not 0 <= wanted < tokenizer.vocab_size:
            raise OptionError(
                f"blocks: separator {wanted} is no id; accepted: 0 to {tokenizer.vocab_size - 1}."
            )
        return wanted
    end = next(
        (i for i in tokenizer.eos_ids if tokenizer.token_bytes(i) == b"<|endoftext|>"),
        tokenizer.eos_id,
    )
    if end is None:
        raise OptionError("blocks: the tokenizer has no end token; give the separator's id.")
    return end


def _write_ids(
    file: BinaryIO,
    documents: Iterable[Document],
    tokenizer: Tokenizer,
    end: int,
    dtype: np.dtype[Any],
) -> dict[str, list[Any]]:
    """Write the ids, and return the table of documents, one list per column."""
    names: list[str] = []
    tokens: list[int] = []
    sizes: list[int] = []
    for batch in _batches(documents):
        encoded = tokenizer.encode_batch([document.text for document in batch])
        for document, ids in zip(batch, encoded, strict=True):
            file.write(np.array([*ids, end], dtype=dtype).tobytes())
            names.append(document.name)
            tokens.append(len(ids) + 1)
            sizes.append(len(document.text.encode()))
    if not names:
        raise InputError("blocks: there are no documents to write.")
    return {"name": names, "tokens": tokens, "bytes": sizes}


def _batches(documents: Iterable[Document]) -> Iterator[list[Document]]:
    """Yield batches that keep all cores busy and hold at most 64 documents."""
    rest = iter(documents)
    while batch := list(islice(rest, 64)):
        yield batch


def _sidecar(path: Path) -> Path:
    return path.with_name(path.name + ".json")


class TokenFile:
    """A token file, open for reading; nothing is in memory until it is asked for."""

    names: list[str]
    """Of the documents, in order."""
    starts: NDArray[np.int64]
    """(documents + 1,): document i is tokens starts[i] to starts[i + 1], its separator last."""
    sizes_bytes: NDArray[np.int64]
    """(documents,): UTF-8 bytes of each text."""

    def __init__(self, path: str | Path) -> None:
        """Open and check.

        Raises:
            MissingError: a file of the pair is not there.
            FormatError: the `.json` is damaged, or the ids are more or fewer than it says.
        """
        self.path = Path(path)
        about = _read_sidecar(self.path)
        place = _sidecar(self.path)
        try:
            if about["format"] != FORMAT:
                raise ValueError(f"format is {about['format']!r}, not {FORMAT!r}")
            dtype = _DTYPES[about["dtype"]]
            self.vocab_size = _count(about["vocab_size"], 1 << 8 * dtype.itemsize)
            self.separator = _count(about["separator"], self.vocab_size - 1)
            self.fingerprint = str(about["tokenizer"])
            table = about["documents"]
            self.names = [str(name) for name in table["name"]]
            counts = [_count(n, 1 << 48) for n in table["tokens"]]
            sizes = [_count(n, 1 << 48) for n in table["bytes"]]
            _count(sum(counts), 1 << 48)
            _count(sum(sizes), 1 << 48)
            if not 0 < len(self.names) == len(counts) == len(sizes):
                raise ValueError("the columns of documents differ in length, or are empty")
        except (KeyError, TypeError, ValueError) as error:
            raise FormatError(
                f"{place}: damaged ({type(error).__name__}: {str(error)[:150]}). "
                "Write the token file again."
            ) from error
        self.starts = np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])
        self.sizes_bytes = np.array(sizes, dtype=np.int64)
        self.tokens = self._map(dtype)

    def _map(self, dtype: np.dtype[Any]) -> NDArray[Any]:
        expected = int(self.starts[-1]) * dtype.itemsize
        try:
            size = self.path.stat().st_size
        except OSError as error:
            raise MissingError(f"{self.path}: cannot be opened ({error.strerror}).") from error
        if size != expected or not size:
            raise FormatError(
                f"{self.path}: {size} bytes, and {_sidecar(self.path).name} speaks of {expected}. "
                "One of them is cut off or of another run; write the token file again."
            )
        return np.memmap(self.path, dtype=dtype, mode="r")

    def __len__(self) -> int:
        """The number of tokens, separators included."""
        return int(self.starts[-1])

    @property
    def size_bytes(self) -> int:
        """UTF-8 bytes of all texts: what bits per byte are divided by."""
        return int(self.sizes_bytes.sum())

    def check(self, tokenizer: Tokenizer) -> None:
        """Raise InputError unless `tokenizer` is the one that made this file."""
        if tokenizer.fingerprint != self.fingerprint:
            raise InputError(
                f"{self.path}: made by another tokenizer (of {self.vocab_size} tokens). "
                "Write the token file again with this one."
            )

    def document(self, i: int) -> NDArray[np.int64]:
        """Return the ids of document `i`, without its separator."""
        if not 0 <= i < len(self.names):
            raise InputError(f"{self.path}: there are documents 0 to {len(self.names) - 1}.")
        return self._checked(self.tokens[self.starts[i] : self.starts[i + 1] - 1])

    def batch(self, first_B: ArrayLike, length: int) -> NDArray[np.int64]:
        """Return windows of `length` tokens and the one that follows, (B, length + 1).

        Args:
            first_B: where each window begins, 0 to len(self) - length - 1.
            length: T.

        Raises:
            ShapeError: a window reaches past the end.
            FormatError: an id is not in the vocabulary: the file is damaged.
        """
        first = np.asarray(first_B, dtype=np.int64).reshape(-1)
        last = len(self) - length - 1
        if length < 1 or (first.size and not 0 <= first.min() <= first.max() <= last):
            raise ShapeError(
                f"{self.path}: windows of {length} + 1 tokens may begin at 0 to {last}; "
                f"got {first.min()} to {first.max()}."
            )
        return self._checked(self.tokens[first[:, None] + np.arange(length + 1)])

    def _checked(self, ids: NDArray[Any]) -> NDArray[np.int64]:
        if ids.size and int(ids.max()) >= self.vocab_size:
            raise FormatError(
                f"{self.path}: holds id {int(ids.max())}, and the vocabulary ends at "
                f"{self.vocab_size - 1}. The file is damaged; write it again."
            )
        return ids.astype(np.int64)


def _read_sidecar(path: Path) -> dict[str, Any]:
    place = _sidecar(path)
    try:
        if place.stat().st_size > MAX_SIDECAR_BYTES:
            raise FormatError(f"{place}: larger than {MAX_SIDECAR_BYTES} bytes; not one of ours.")
        about = json.loads(place.read_bytes())
    except OSError as error:
        raise MissingError(
            f"{place}: cannot be opened ({error.strerror}). A token file is the pair `<name>` and "
            "`<name>.json`; without the second it was never finished. Write it again."
        ) from error
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{place}: not JSON ({error}). Write the token file again.") from error
    if not isinstance(about, dict):
        raise FormatError(f"{place}: damaged, no JSON object. Write the token file again.")
    return about


def _count(value: Any, limit: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= limit:
        raise ValueError(f"{value!r:.40} is no whole number from 0 to {limit}")
    return value
