"""Text to tokens: tokenizers, chat templates, documents, and token files for training.

tokenizer  encode, decode, chat; from a folder, from GGUF metadata, or trained
corpus     documents from files and installed packages, split by document
blocks     documents as one memory-mapped file of token ids, and how to draw from it
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from onebit.data.tokenizer import Tokenizer

__all__ = ["Tokenizer"]


def __getattr__(name: str) -> Any:
    if name == "Tokenizer":  # whose libraries take longer to import than a small model to open
        from onebit.data.tokenizer import Tokenizer

        return Tokenizer
    raise AttributeError(f"module 'onebit.data' has no attribute {name!r}")
