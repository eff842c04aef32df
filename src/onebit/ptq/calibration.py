"""Calibration: the tokens whose way through the model shows what its layers are given.

A text becomes windows of equal length, drawn without overlap from all over it by a seed, so that a
long text is represented by its whole and the same text always gives the same windows.

Shape letters: W windows, T tokens of a window.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from onebit.data import Tokenizer, corpus
from onebit.errors import InputError, MissingError, OptionError
from onebit.eval import texts

WINDOWS = 64
WINDOW = 512


@dataclass(frozen=True)
class Calibration:
    """Tokens, and where they come from in words."""

    name: str
    tokens_WT: NDArray[np.int64]
    description: str

    @property
    def tokens(self) -> int:
        return self.tokens_WT.size


def read(
    name: str,
    tokenizer: Tokenizer,
    *,
    windows: int = WINDOWS,
    length: int = WINDOW,
    seed: int = 0,
    bos: int | None = None,
) -> Calibration:
    """Return windows of a text.

    Args:
        name: "wiki" or "sotu", of which the parts that `eval.texts` measures are left out, or what
            `data.corpus.documents` takes: a file, a glob, a folder.
        tokenizer: the model's.
        windows: how many; a text that has fewer gives what it has.
        length: tokens of a window; `bos`, if the model wants one, is the first of each.
        seed: of the draw.

    Raises:
        MissingError, FormatError: there is no such text, or its package is not installed.
        InputError: the text does not fill one window.
        OptionError: no windows, or windows of fewer than 2 tokens.
    """
    if windows < 1 or length < 2:
        raise OptionError(
            f"calibration: {windows} windows of {length} tokens; accepted: at least 1 of 2."
        )
    text = _text(name)
    if "\0" in text:
        raise InputError(f"calibration: {name} holds zero bytes, so it is no text. Give a text.")
    ids = np.asarray(tokenizer.encode(text), np.int64)
    step = length - (bos is not None)
    there = len(ids) // step
    if not there:
        raise InputError(
            f"calibration: {name} has {len(ids)} tokens, and a window takes {step}. "
            "Give a longer text, or shorter windows."
        )
    chosen = np.random.default_rng(seed).permutation(there)[:windows]
    chosen.sort()
    tokens_WT = ids[: there * step].reshape(there, step)[chosen]
    if bos is not None:
        tokens_WT = np.pad(tokens_WT, ((0, 0), (1, 0)), constant_values=bos)
    what = f"{len(chosen)} of {there} windows of {length} tokens of {name}, drawn by seed {seed}"
    return Calibration(name, tokens_WT, what)


def _text(name: str) -> str:
    """Return the text that may be calibrated on: what `eval.texts` measures is not in it."""
    if name in texts.REST:
        return texts.REST[name]()
    try:
        return texts.BETWEEN.join(d.text for d in corpus.documents(name))
    except MissingError as error:
        if name.startswith("package:"):
            raise
        raise MissingError(
            f"calibration: {name}: there is no such file, and no text of that name "
            f"({', '.join(texts.NAMED)}, package:NAME). A folder or glob must have .txt, .jsonl "
            "or .parquet files."
        ) from error
