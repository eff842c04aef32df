"""Read JSON that a stranger may have written: bounded in size, and any damage is one line."""

import json
import stat
from collections import Counter
from pathlib import Path
from typing import Any

from onebit.errors import FileError, FormatError, MissingError

MAX_BYTES = 100_000_000


def read_json(path: Path) -> dict[str, Any]:
    """Return the object that the file at `path` holds.

    Raises:
        MissingError: there is no such file.
        FormatError: it holds no JSON object, or more than `MAX_BYTES`.
        FileError: the system refuses to open it.
    """
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):  # to read a pipe would be to wait
            raise FileError(f"{path}: is no regular file.")
        if found.st_size > MAX_BYTES:
            raise FormatError(f"{path}: over {MAX_BYTES} bytes of JSON; that is no model's.")
        raw = path.read_bytes()
    except FileNotFoundError as error:
        raise MissingError(f"{path}: there is no such file.") from error
    except OSError as error:
        raise FileError(f"{path}: cannot be read ({error.strerror or error}).") from error
    return parse_object(raw, str(path))


def parse_object(raw: bytes | str, where: str) -> dict[str, Any]:
    """Return the object that `raw` holds; `where` names it in errors.

    Raises:
        FormatError: it is no JSON object, has a key twice, or is larger than `MAX_BYTES`.
    """
    if len(raw) > MAX_BYTES:
        raise FormatError(f"{where}: over {MAX_BYTES} bytes of JSON; that is no model's.")
    try:
        text = raw if isinstance(raw, str) else raw.decode("utf-8")
        found = json.loads(text, object_pairs_hook=_without_duplicates)
    except (ValueError, RecursionError) as error:
        reason = str(error) or "nested too deeply"
        raise FormatError(f"{where}: not valid JSON ({reason:.120}).") from error
    if not isinstance(found, dict):
        raise FormatError(f"{where}: holds a JSON {type(found).__name__}; expected an object.")
    return found


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        counts = Counter(key for key, _ in pairs)
        raise ValueError(f"the key {counts.most_common(1)[0][0]!r:.60} stands there twice")
    return found
