"""Text to tokens: tokenizers, chat templates, documents, and token files for training.

tokenizer  encode, decode, chat; from a folder, from GGUF metadata, or trained
corpus     documents from files and installed packages, split by document
blocks     documents as one memory-mapped file of token ids, and how to draw from it
"""

from onebit.data.tokenizer import Tokenizer

__all__ = ["Tokenizer"]
