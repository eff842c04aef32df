"""The text of a run: a tokenizer, tokens to learn from and tokens to be measured on.

Prepared once, in a folder that appears whole under its name or not at all, and then only read.
"""

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from onebit.data import Tokenizer
from onebit.data.blocks import TokenFile, write
from onebit.data.corpus import Document, documents, split
from onebit.data.sampler import Sampler
from onebit.train.config import DataConfig
from onebit.train.progress import Progress

_TRAIN, _HELD_OUT = "train.tokens", "held_out.tokens"


@dataclass(frozen=True)
class Text:
    """What `prepare` made."""

    tokenizer: Tokenizer
    train: TokenFile
    held_out: TokenFile


def prepare(config: DataConfig, folder: Path, progress: Progress) -> Text:
    """Open the text in `folder`, after making it there if it is not.

    Raises:
        OnebitError: the source, the split rule or the tokenizer cannot be used.
    """
    if not folder.exists():
        temporary = folder.with_name(f".{folder.name}")
        shutil.rmtree(temporary, ignore_errors=True)
        _make(config, temporary, progress)
        os.rename(temporary, folder)
    text = Text(Tokenizer.load(folder), TokenFile(folder / _TRAIN), TokenFile(folder / _HELD_OUT))
    for file in (text.train, text.held_out):
        file.check(text.tokenizer)
    return text


def next_batch(sampler: Sampler) -> tuple[Tensor, Tensor]:
    """Return inputs and targets of the sampler's next batch, int64 (B, T) each."""
    ids_BT = torch.from_numpy(sampler.next_batch())
    return ids_BT[:, :-1], ids_BT[:, 1:]


def _make(config: DataConfig, folder: Path, progress: Progress) -> None:
    train, held_out = split(documents(config.source), config.held_out)
    folder.mkdir(parents=True)
    progress.say(f"{config.source}: {_size(train)} to train on, {_size(held_out)} held out")
    tokenizer = _tokenizer(config, train, progress)
    tokenizer.save(folder)
    files = [
        write(folder / name, part, tokenizer)
        for name, part in ((_TRAIN, train), (_HELD_OUT, held_out))
    ]
    progress.say(
        f"{len(files[0]):,} tokens of {files[0].size_bytes / len(files[0]):.2f} bytes to train on"
    )


def _tokenizer(config: DataConfig, train: list[Document], progress: Progress) -> Tokenizer:
    if config.tokenizer is not None:
        return Tokenizer.load(config.tokenizer)
    assert config.vocab_size is not None  # DataConfig has one of the two
    progress.say(f"learning a vocabulary of {config.vocab_size:,} tokens")
    return Tokenizer.train((document.text for document in train), config.vocab_size)


def _size(part: list[Document]) -> str:
    characters = sum(len(document.text) for document in part)
    return f"{len(part)} documents of {characters / 1e6:.2f} M characters"
