"""Recipes: a `TrainConfig` as a TOML file, with changes from the command line.

    scheme = "bitnet-b1.58"
    [model]
    hidden_size = 256
    ...

Nothing in a file is ignored: a key that no table knows is an error that names the ones it does.
"""

import json
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

from onebit import scheme as schemes
from onebit.errors import FormatError, MissingError, OptionError
from onebit.scheme import SCHEMES, Scheme
from onebit.train.config import TrainConfig
from onebit.train.setting import dotted

_MAX_BYTES = 1 << 20  # a recipe is a page of text; a larger file is something else


def find(recipe: Path) -> Path:
    """Return the file that a recipe's path names, or recipes/NAME.toml for a bare name.

    Raises:
        MissingError: there is neither.
    """
    if recipe.is_file():
        return recipe
    named = Path("recipes") / f"{recipe}.toml"
    if len(recipe.parts) == 1 and named.is_file():
        return named
    known = sorted(file.stem for file in Path("recipes").glob("*.toml"))
    raise MissingError(
        f"{recipe}: no such recipe. Name a .toml file"
        + (f", or one of recipes/: {', '.join(known)}." if known else ".")
    )


def read(path: Path, overrides: Iterable[str] = ()) -> TrainConfig:
    """Read a recipe and apply changes to it.

    Args:
        path: a TOML file.
        overrides: "key=value" each; the key dotted ("schedule.lr") or, where only one table has
            it, bare ("lr"); the value as TOML writes it, quotes around a word optional.

    Raises:
        MissingError: there is no such file.
        FormatError: it is not TOML.
        OptionError: a key is unknown or missing, or a value cannot be used.
    """
    if not path.is_file():
        raise MissingError(f"{path}: no such recipe. Name a .toml file.")
    if path.stat().st_size > _MAX_BYTES:
        raise FormatError(f"{path}: larger than {_MAX_BYTES:,} bytes; that is no recipe.")
    try:
        table = tomllib.loads(path.read_text("utf-8"))
    except (ValueError, RecursionError) as error:  # of the syntax, of UTF-8, of a number's length
        raise FormatError(f"{path}: not TOML: {error}.") from error
    for override in overrides:
        apply(table, override)
    return from_dict(table)


def apply(table: dict[str, Any], override: str) -> None:
    """Write one "key=value" into the plain tables of a recipe, in place."""
    if not override.isascii() and override != override.encode("utf-8", "replace").decode():
        raise OptionError(f"--set {override!r:.80}: is not UTF-8 text.")
    key, equals, text = override.partition("=")
    key = key.strip()
    if not equals or not key:
        raise OptionError(f"--set {override!r:.80}: write it as key=value, for instance lr=2e-3.")
    *path, name = _full_name(key).split(".")
    inner: Any = table
    for i, part in enumerate(path):
        if part == "scheme" and isinstance(inner, dict) and isinstance(inner.get(part), str):
            inner[part] = {"name": inner[part]}  # --set scheme.kv_bits=4 of a named scheme
        is_list = isinstance(inner, list)
        inner = _entry(inner, part, key) if is_list else inner.setdefault(part, {})
        if not isinstance(inner, dict) and not (isinstance(inner, list) and path[i + 1 :]):
            raise OptionError(f"--set {key}: {part} is a value, not a table.")
    inner[name] = _parse(text.strip())


def from_dict(table: Mapping[str, Any]) -> TrainConfig:
    """Build the config from plain tables, as `tomllib` returns them.

    Raises:
        OptionError: a key is unknown or missing, or a value cannot be used.
    """
    config: TrainConfig = _build(TrainConfig, table, "")
    return config


def to_dict(config: Any) -> dict[str, Any]:
    """Return plain tables that `from_dict` reads back to an equal config; None is left out."""
    table: dict[str, Any] = {}
    for item in fields(config):
        value = getattr(config, item.name)
        if isinstance(value, Scheme):
            value = value.name if SCHEMES.get(value.name) == value else value.to_dict()
        elif is_dataclass(value):
            value = to_dict(value)
        elif isinstance(value, tuple):
            value = [to_dict(part) if is_dataclass(part) else part for part in value] or None
        if value is not None:
            table[item.name] = value
    return table


def write(config: TrainConfig) -> str:
    """Return the config as TOML, every setting spelled out."""
    return "\n".join(_lines(to_dict(config), ())).lstrip("\n") + "\n"


def differences(a: TrainConfig, b: TrainConfig) -> list[str]:
    """Return the full names of the settings in which two configs differ."""
    left, right = _flat(to_dict(a), ""), _flat(to_dict(b), "")
    return sorted(name for name in left.keys() | right.keys() if left.get(name) != right.get(name))


def _build(kind: Any, table: Any, where: str) -> Any:
    """Build the dataclass `kind` from a table, refusing what it does not know."""
    known = {item.name: item for item in fields(kind)}
    if not isinstance(table, Mapping):
        raise OptionError(f"recipe: {where} is {table!r:.80}; accepted: a table [{where}].")
    for name in table:
        if name not in known:
            raise OptionError(
                f"recipe: {dotted(where, name)} is not a setting. Accepted: {', '.join(known)}."
            )
    for name, item in known.items():
        if name not in table and item.default is MISSING and item.default_factory is MISSING:
            raise OptionError(f"recipe: {dotted(where, name)} is missing.")
    hints = get_type_hints(kind)
    return kind(**{name: _value(hints[name], table[name], name, where) for name in table})


def _value(kind: Any, value: Any, name: str, where: str) -> Any:
    if kind is Scheme:
        return _scheme(value)
    table, many = _table_of(kind), get_origin(kind) is tuple
    if table is None:
        return value
    if not many:
        return _build(table, value, dotted(where, name))
    if not isinstance(value, list):
        raise OptionError(f"recipe: {name} is {value!r:.80}; accepted: tables [[{name}]].")
    return tuple(_build(table, part, f"{dotted(where, name)}.{i}") for i, part in enumerate(value))


def _scheme(value: Any) -> Scheme:
    """Return the scheme of a name or a table; a table with no layers has those of its name."""
    if isinstance(value, str):
        return schemes.find(value)
    scheme = Scheme.from_dict(value)
    if "layers" in value or scheme.name not in SCHEMES:
        return scheme
    return replace(scheme, layers=SCHEMES[scheme.name].layers)


def _entry(tables: list[Any], part: str, key: str) -> Any:
    """Return the table that a number names, in --set stages.0.until=0.9."""
    if not (part.isdecimal() and int(part) < len(tables)):
        raise OptionError(
            f"--set {key}: {part!r:.40} is none of the {len(tables)} tables; they count from 0."
        )
    return tables[int(part)]


def _full_name(key: str) -> str:
    """Return "schedule.lr" for "lr": the one setting of that name, if a single table has it."""
    if "." in key or key in {item.name for item in fields(TrainConfig)}:
        return key
    homes = [
        name
        for name, kind in get_type_hints(TrainConfig).items()
        if get_origin(kind) is not tuple
        and (table := _table_of(kind)) is not None
        and key in {item.name for item in fields(table)}
    ]
    return f"{homes[0]}.{key}" if len(homes) == 1 else key


def _table_of(kind: Any) -> Any:
    """Return the dataclass that a setting's table, or list of tables, is read into, or None."""
    for found in (kind, *get_args(kind)):
        if is_dataclass(found) and found is not Scheme:
            return found
    return None


def _parse(text: str) -> Any:
    """Read a TOML value; what TOML cannot read is taken as a word."""
    try:
        table = tomllib.loads(f"value = {text}")
    except (ValueError, RecursionError):
        return text
    return table["value"] if len(table) == 1 else text


def _flat(table: Mapping[str, Any], where: str) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in table.items():
        full = dotted(where, name)
        if _is_tables(value):
            value = {str(i): part for i, part in enumerate(value)}
        flat |= _flat(value, full) if isinstance(value, Mapping) else {full: value}
    return flat


def _is_tables(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(part, Mapping) for part in value)


def _lines(table: Mapping[str, Any], path: tuple[str, ...], head: str = "[{}]") -> list[str]:
    """Write a table: its values first, then the tables in it, as TOML wants them."""
    inner = {k: v for k, v in table.items() if isinstance(v, Mapping) or _is_tables(v)}
    lines = [f"{name} = {_json(value)}" for name, value in table.items() if name not in inner]
    if path:
        lines.insert(0, "\n" + head.format(".".join(map(_key, path))))
    for name, value in inner.items():
        if isinstance(value, Mapping):
            lines += _lines(value, (*path, name))
        else:
            for part in value:
                lines += _lines(part, (*path, name), "[[{}]]")
    return lines


def _key(name: str) -> str:
    bare = name.replace("_", "").replace("-", "")
    return name if bare.isascii() and bare.isalnum() else _json(name)


def _json(value: Any) -> str:
    """Write a value as JSON, whose strings, numbers and booleans are TOML's too, but for one."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
