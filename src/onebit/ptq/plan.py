"""A plan: how each linear layer will be held, as a TOML file that people read, edit and replay.

name = "smollm2 at 3.2 bits"
kv_bits = 16

[layers]                                              # the first line that fits a layer counts
"model.layers.0.self_attn.q_proj" = "w4a16-g64"       # a scheme: `scheme.find` knows the names
"model.layers.*.mlp.down_proj" = "q4_k"               # or a block format of ggml
"model.layers.29.*" = "keep"                          # the codes that the file has already
"*" = "f16"                                           # floats

[made]                                                # by whom, from what; for people only
budget_bytes = 50_000_000

plan.read("model.toml").scheme(layers)                # what the quantized model will carry
"""

import json
import tomllib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, NamedTuple

from onebit import pack, scheme
from onebit.errors import FileError, FormatError, MissingError, OptionError
from onebit.io.atomic import write_bytes
from onebit.scheme import FP, LinearScheme, Scheme, role_of

KEEP, FLOAT = "keep", "f16"
MAX_BYTES = 10_000_000
"""Of a file; a line per layer of the largest models is a hundredth of it."""


class Held(NamedTuple):
    """What a word of a plan means for a layer."""

    scheme: LinearScheme
    """FP where it stays float, lies in blocks, or is kept."""
    format: str = ""
    """A block format of ggml, `KEEP` or `FLOAT`; "" for the codes of `scheme`."""


@dataclass(frozen=True)
class Plan:
    """How each layer will be held."""

    name: str
    layers: Mapping[str, str]
    """Name of a layer, or a glob over such names -> a scheme's name, a block format, "keep" or
    "f16". The first that fits counts."""
    kv_bits: int = 16
    """Bits of keys and values."""
    made: Mapping[str, str | int | float] = field(default_factory=dict)
    """How it came to be; nothing reads it but people."""

    def __post_init__(self) -> None:
        if not self.layers:
            raise OptionError(
                'plan: [layers] is empty. Add a line, for instance "*" = "w4a16-g64".'
            )
        for glob, word in self.layers.items():
            if not isinstance(word, str):
                raise OptionError(
                    f'line "{glob!s:.80}" = {word!r:.40}: accepted is the name of a scheme or '
                    'format in quotes, such as "w4a16-g64".'
                )
        for text in (self.name, *self.layers, *self.layers.values(), *self.made):
            if not isinstance(text, str) or not 0 < len(text) <= 200 or not text.isprintable():
                raise OptionError(
                    f"plan: {text!r:.80} is no name; accepted: up to 200 characters that print."
                )
        Scheme(self.name, kv_bits=self.kv_bits)  # raises
        for glob, word in self.layers.items():
            try:
                _meaning(glob, word, self.kv_bits)
            except OptionError as error:
                raise OptionError(f'line "{glob}" = "{word}": {error}') from error

    def word(self, layer: str) -> str:
        """Return what the plan says of a layer.

        Raises:
            OptionError: nothing.
        """
        return self.layers[self._line(layer)]

    def held(self, layer: str) -> Held:
        """Return how a layer will be held. A line "*" is not meant for embedding and head.

        Raises:
            OptionError: the plan does not say.
        """
        glob = self._line(layer)
        if glob == "*" and role_of(layer) in ("embed", "head"):
            return Held(FP)
        return _meaning(layer, self.layers[glob], self.kv_bits)

    def _line(self, layer: str) -> str:
        for glob in self.layers:
            if fnmatchcase(layer, glob):
                return glob
        raise OptionError(
            f"plan {self.name}: no line fits {layer}. Add one under [layers], or a last line "
            '"*" = ... for the rest.'
        )

    def scheme(self, layers: Sequence[str]) -> Scheme:
        """Return the scheme of a model with these linear layers.

        The commonest form is its "body"; the layers that differ are named.

        Raises:
            OptionError: the plan says nothing of a layer, or a line of it fits no layer.
        """
        self.check(layers)
        linears = {layer: self.held(layer).scheme for layer in layers}
        inner = Counter(
            s for layer, s in linears.items() if role_of(layer) not in ("embed", "head")
        )
        body = inner.most_common(1)[0][0] if inner else FP
        usual = Scheme(self.name, {"body": body})
        named = {layer: s for layer, s in linears.items() if usual.linear(layer) != s}
        return Scheme(self.name, named | ({} if body == FP else {"body": body}), self.kv_bits)

    def check(self, layers: Iterable[str]) -> None:
        """Refuse a layer of which nothing is said, and a line that says something of no layer.

        Raises:
            OptionError: there is one; a slip of the pen would change other layers than was meant.
        """
        layers = list(layers)
        used = {self._line(layer) for layer in layers}
        for glob in self.layers:
            if glob in used or glob == "*":
                continue
            fits = [layer for layer in layers if fnmatchcase(layer, glob)]
            why = f"lines above it take {fits[0]} already" if fits else "no layer is called so"
            if role_of(glob) in ("embed", "head"):
                why = "embedding and head are not in a plan; --embed says their format"
            raise OptionError(
                f"plan {self.name}: the line {glob!r:.80} does nothing: {why}. Move or remove it."
            )

    def to_toml(self, comments: Mapping[str, str] | None = None) -> str:
        """Return the file's text.

        Args:
            comments: behind the line of a layer or glob, one line each.
        """
        comments = comments or {}
        lines = [f"name = {_quoted(self.name)}", f"kv_bits = {self.kv_bits}", "", "[layers]"]
        for glob, word in self.layers.items():
            behind = f"  # {comments[glob]}" if glob in comments else ""
            lines.append(f"{_quoted(glob)} = {_quoted(word)}{behind}")
        if self.made:
            lines += ["", "[made]"]
            lines += [f"{_quoted(key)} = {_value(value)}" for key, value in self.made.items()]
        return "\n".join(lines) + "\n"

    def write(self, path: str | Path, comments: Mapping[str, str] | None = None) -> None:
        """Write the plan as TOML.

        Raises:
            FileError: the system refused.
        """
        write_bytes(path, self.to_toml(comments).encode())


def read(path: str | Path) -> Plan:
    """Return the plan in a TOML file.

    Raises:
        MissingError, FileError: it cannot be read.
        FormatError: it is no TOML.
        OptionError: it is no plan: the line says what is wrong.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
    except FileNotFoundError as error:
        raise MissingError(f"{path}: there is no such file.") from error
    except OSError as error:
        raise FileError(f"{path}: cannot be read ({error.strerror or error}).") from error
    if len(raw) > MAX_BYTES:
        raise FormatError(f"{path}: over {MAX_BYTES} bytes; that is no plan.")
    try:
        data = tomllib.loads(raw.decode("utf-8-sig"))  # editors put a mark in front
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{path}: not valid TOML ({error!s:.120}).") from error
    return from_dict({"name": path.stem, **data}, str(path))


def from_dict(data: Mapping[str, Any], where: str = "plan") -> Plan:
    """Return the plan in what a TOML file holds; `where` names it in errors.

    Raises:
        OptionError: it is none.
    """
    layers, made = data.get("layers"), data.get("made", {})
    unknown = sorted(set(data) - {"name", "kv_bits", "layers", "made"})
    if layers is None:
        raise OptionError(
            f'{where}: has no [layers]. Add it, with a line such as "*" = "w4a16-g64".'
        )
    if unknown or not isinstance(layers, Mapping) or not isinstance(made, Mapping):
        raise OptionError(
            f"{where}: {unknown[0] if unknown else 'layers or made'!r:.40} is not a part of a plan "
            "in this form; accepted: name, kv_bits, [layers] with a line for each, [made]."
        )
    try:
        return Plan(data.get("name", "plan"), dict(layers), data.get("kv_bits", 16), dict(made))
    except OptionError as error:
        raise OptionError(f"{where}: {error}") from error


def uniform(name: str) -> Plan:
    """Return the plan that holds every layer as the scheme or block format of this name.

    Raises:
        OptionError: there is none.
    """
    known = name in (KEEP, FLOAT) or _is_block(name)
    return Plan(name, {"*": name}, 16 if known else scheme.find(name).kv_bits)


def _meaning(layer: str, word: str, kv_bits: int) -> Held:
    if word in (KEEP, FLOAT):
        return Held(FP, word)
    if _is_block(word):
        return Held(FP, word)
    found = scheme.find(word)
    if found.kv_bits not in (16, kv_bits) or found.q_bits != 16:
        raise OptionError(
            f"plan: {layer} is to be {word}, which has keys and values of {found.kv_bits} bits, "
            f"and the plan's kv_bits is {kv_bits}. Keys and values belong to the whole model: name "
            "the scheme without them, and set kv_bits above [layers]."
        )
    inner = role_of(layer) not in ("", "embed", "head")
    linear = found.linear(layer) if inner else found.layers.get("body", FP)
    return Held(linear, FLOAT if inner and linear == FP else "")


def _is_block(word: str) -> bool:
    return word in pack.FORMATS and pack.FORMATS[word].scale_inside and pack.FORMATS[word].packs


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)  # of what prints, JSON's strings are TOML's


def _value(value: str | int | float) -> str:
    return _quoted(value) if isinstance(value, str) else repr(value)
