"""onebit: train, verify, pack, export and run 1-bit and 1.58-bit (ternary) language models.

Nothing is imported until it is used, so running a model never loads torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from onebit.architecture import Architecture
    from onebit.errors import (
        FileError,
        FormatError,
        InputError,
        MissingError,
        NotTernaryError,
        OnebitError,
        OptionError,
        ShapeError,
        UnsupportedError,
    )
    from onebit.runtime.batch import Batch
    from onebit.runtime.llm import LLM
    from onebit.scheme import SCHEMES, LinearScheme, Scheme

# public name -> the module it lives in
_HOME = {
    "LLM": "onebit.runtime.llm",
    "Batch": "onebit.runtime.batch",
    "Architecture": "onebit.architecture",
    "SCHEMES": "onebit.scheme",
    "Scheme": "onebit.scheme",
    "LinearScheme": "onebit.scheme",
    "OnebitError": "onebit.errors",
    "InputError": "onebit.errors",
    "ShapeError": "onebit.errors",
    "OptionError": "onebit.errors",
    "NotTernaryError": "onebit.errors",
    "FileError": "onebit.errors",
    "MissingError": "onebit.errors",
    "FormatError": "onebit.errors",
    "UnsupportedError": "onebit.errors",
}

__all__ = [
    "LLM",
    "SCHEMES",
    "Architecture",
    "Batch",
    "FileError",
    "FormatError",
    "InputError",
    "LinearScheme",
    "MissingError",
    "NotTernaryError",
    "OnebitError",
    "OptionError",
    "Scheme",
    "ShapeError",
    "UnsupportedError",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("onebit")
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module 'onebit' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
