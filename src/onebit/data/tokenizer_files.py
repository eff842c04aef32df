"""A tokenizer from, and to, a folder in Hugging Face's form.

`tokenizer.json` holds the vocabulary and all steps; the other files say which tokens begin and end
a text, and how a conversation is laid out. What we write, transformers' AutoTokenizer reads.
"""

import json
import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tokenizers

from onebit.data.settings import Settings, end_ids
from onebit.errors import FileError, FormatError, MissingError

MAX_BYTES = 1 << 28
_SIDE_FILES = (
    "tokenizer_config.json",
    "special_tokens_map.json",
    "generation_config.json",
    "config.json",
)


def read(folder: Path) -> tuple[tokenizers.Tokenizer, Settings]:
    """Read the tokenizer of a model folder.

    Raises:
        MissingError: there is no `tokenizer.json`.
        FormatError: a file is not what it should be.
    """
    path = folder / "tokenizer.json"
    if not path.is_file():
        raise MissingError(
            f"{folder}: there is no tokenizer.json. Give a model folder that has one, or a GGUF "
            "file, which carries its tokenizer inside."
        )
    backend = _backend(path)
    sides = {name: _side(folder / name) for name in _SIDE_FILES}
    return backend, _settings(folder, backend, sides)


def _backend(path: Path) -> tokenizers.Tokenizer:
    text = _read_text(path)
    try:
        backend = tokenizers.Tokenizer.from_str(text)
        backend.no_truncation()  # of training batches; nobody asked for it here
        backend.no_padding()
        if not backend.get_vocab_size(with_added_tokens=True):
            raise ValueError("the vocabulary is empty")
        ids = backend.get_vocab(with_added_tokens=False).values()
        if len(set(ids)) != len(ids):
            raise ValueError("two tokens have the same id")
    except (KeyboardInterrupt, SystemExit, MemoryError):
        raise
    except BaseException as error:  # the library's panics are no Exceptions
        reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        raise FormatError(
            f"{path}: not a tokenizer that the tokenizers library reads ({reason}). "
            "Get the file again from the model's source."
        ) from error
    return backend


def _settings(
    folder: Path, backend: tokenizers.Tokenizer, sides: Mapping[str, dict[str, Any]]
) -> Settings:
    tokenizer, special, generation, model = (sides[name] for name in _SIDE_FILES)
    added = backend.get_added_tokens_decoder()
    specials = {token.content: i for i, token in added.items() if token.special}

    def token(name: str) -> int | None:
        """The id of a token that is named by its text."""
        value = tokenizer.get(name, special.get(name))
        value = value.get("content") if isinstance(value, dict) else value
        if value is None:
            return None
        found = backend.token_to_id(value) if isinstance(value, str) else None
        if found is None:
            raise FormatError(
                f"{folder}: {name} is {value!r}, which is no token of tokenizer.json."
            )
        return found

    ends = [token("eos_token")]
    for file in (generation, model):
        value = file.get("eos_token_id")
        ends += value if isinstance(value, list) else [value]
    first = backend.encode("", add_special_tokens=True).ids[:1]
    begin = token("bos_token")
    if begin is None:
        begin = generation.get("bos_token_id", model.get("bos_token_id"))
    if begin is None and first and first[0] not in ends:
        begin = first[0]
    add_bos = tokenizer.get("add_bos_token")
    size = 1 + max(backend.get_vocab(with_added_tokens=True).values())
    for value in (*ends, begin):
        whole = isinstance(value, int) and not isinstance(value, bool)
        if value is not None and not (whole and 0 <= value < size):
            raise FormatError(
                f"{folder}: a begin or end token has id {value!r}; accepted: 0 to {size - 1}."
            )
    if not isinstance(add_bos, bool):
        add_bos = first == [begin]
    return Settings(
        bos_id=begin,
        eos_ids=end_ids(ends, specials.get),
        add_bos=add_bos and begin is not None,
        chat_template=_template(folder, tokenizer),
    )


def _template(folder: Path, tokenizer: Mapping[str, Any]) -> str | None:
    """Return the chat template: a file of its own, or a field, one text or several with names."""
    path = folder / "chat_template.jinja"
    if path.is_file():
        return _read_text(path)
    value = tokenizer.get("chat_template")
    if isinstance(value, list):
        tables = (item for item in value if isinstance(item, dict))
        value = next((t.get("template") for t in tables if t.get("name") == "default"), None)
    if value is not None and not isinstance(value, str):
        raise FormatError(f"{folder}: chat_template in tokenizer_config.json is not a text.")
    return value or None


def _side(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        value = json.loads(_read_text(path))
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{path}: not JSON ({error}).") from error
    if not isinstance(value, dict):
        raise FormatError(f"{path}: it holds {type(value).__name__}; it must be a JSON object.")
    return value


def _read_text(path: Path) -> str:
    try:
        if path.stat().st_size > MAX_BYTES:
            raise FormatError(f"{path}: larger than {MAX_BYTES} bytes; that is no tokenizer file.")
        return path.read_text("utf-8")
    except UnicodeDecodeError as error:
        raise FormatError(f"{path}: not UTF-8 text (byte {error.start}).") from error
    except OSError as error:
        raise FileError(f"{path}: cannot be read ({error.strerror}).") from error


def write(folder: Path, backend: tokenizers.Tokenizer, settings: Settings) -> None:
    """Write `tokenizer.json` and `tokenizer_config.json`, each wholly or not at all.

    Raises:
        FileError: the system refused.
    """
    config: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
        "add_bos_token": settings.add_bos,
    }
    if settings.bos_id is not None:
        config["bos_token"] = backend.id_to_token(settings.bos_id)
    if settings.eos_ids:
        config["eos_token"] = backend.id_to_token(settings.eos_ids[0])
    if settings.chat_template is not None:
        config["chat_template"] = settings.chat_template
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_atomic(folder / "tokenizer.json", backend.to_str(pretty=True).encode())
        text = json.dumps(config, indent=2, ensure_ascii=False) + "\n"
        write_atomic(folder / "tokenizer_config.json", text.encode())
    except OSError as error:
        raise FileError(f"{folder}: cannot be written ({error.strerror}).") from error


def write_atomic(path: Path, data: bytes) -> None:
    """Write under a temporary name, force to disk, rename: never half a file."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(6)}.tmp")
    try:
        with open(temporary, "xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
