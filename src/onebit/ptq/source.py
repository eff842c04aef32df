"""A float model that is read tensor by tensor, so that no more than a block is in memory.

A rotation is a Source around a Source: it gives other tensors, and maybe another config.
"""

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from onebit.architecture import RECURRENT, Architecture
from onebit.errors import InputError, UnsupportedError
from onebit.io import Checkpoint, StoredTensor, mapped, open_checkpoint
from onebit.models import stored_weight
from onebit.scheme import role_of
from onebit.tensors import linears


class Source(ABC):
    """A float model by the Hugging Face names of its tensors."""

    config: dict[str, Any]
    """In the style of config.json, of the model that these tensors make."""
    checkpoint: Checkpoint
    """The file under it all: tokenizer, metadata, path."""

    @property
    def architecture(self) -> Architecture:
        """The model's shape."""
        return Architecture.from_config(self.config)

    @abstractmethod
    def names(self) -> list[str]:
        """Return the names of the tensors, in the order in which a file will have them."""

    @abstractmethod
    def tensor(self, name: str) -> Tensor:
        """Return a tensor as new float32 values; packed codes are dequantized.

        Raises:
            MissingError, FormatError: it is not there, or damaged.
        """

    def stored(self, name: str) -> StoredTensor | None:
        """Return the tensor as the file holds it, where `tensor` gives just its values.

        None where a rotation or the like made other values of it.
        """
        return None


class FileSource(Source):
    """The tensors of a checkpoint as they are."""

    def __init__(self, model: str | Path | Checkpoint) -> None:
        """Open a model: what `io.open_checkpoint` takes.

        Raises:
            FileError, UnsupportedError: as `open_checkpoint`.
        """
        is_open = isinstance(model, Checkpoint)
        self.checkpoint = model if is_open else open_checkpoint(model)  # type: ignore[assignment, arg-type]
        self.config = self.checkpoint.config
        if self.config.get("model_type") == RECURRENT:
            raise UnsupportedError(
                f"{self.checkpoint.path}: a {RECURRENT} model was trained as ternary; methods "
                "after training take models with attention. `onebit export` packs it."
            )

    def names(self) -> list[str]:
        return self.checkpoint.names()

    def tensor(self, name: str) -> Tensor:
        stored = self.checkpoint.tensor(name)
        values = torch.from_numpy(stored_weight.values(stored))
        mapped.drop(stored.data)  # of what is read once
        return values

    def stored(self, name: str) -> StoredTensor | None:
        return self.checkpoint.tensor(name)


def layers_of(source: Source) -> dict[str, tuple[int, int]]:
    """Return name and shape (N, K) of the linears to quantize: all but embedding and head."""
    found = linears(source.architecture)
    return {x.name: (x.N, x.K) for x in found if role_of(x.name) not in ("embed", "head")}


def finite(source: Source, name: str) -> Tensor:
    """Return a tensor of the source.

    Raises:
        InputError: a value is not finite.
    """
    values = source.tensor(name)
    if not bool(torch.isfinite(values).all()):
        module, _, leaf = name.rpartition(".")
        raise InputError(
            f"{module}: {leaf}s that are not finite. The file is damaged, or the run that made it "
            "failed; take an earlier one."
        )
    return values
