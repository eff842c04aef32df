"""What a checkpoint gives out: tensors as the file holds them, a config, a tokenizer's source."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class StoredTensor:
    """A tensor, not decoded; `pack.decode(t.format, t.data, t.shape, t.scale, t.minimum, t.zero)`
    does."""

    name: str
    """As in Hugging Face's checkpoints: "model.layers.0.mlp.up_proj.weight"."""
    format: str
    """A key of `pack.FORMATS`, or f32 f16 bf16 f64, or of plain integers int8 u8 i16 i32 i64."""
    shape: tuple[int, ...]
    """Of the values, not of the bytes; (N, K) for a matrix."""
    data: NDArray[np.uint8]
    """The bytes, one-dimensional; a view of the file unless rows had to be put in order."""
    scale: NDArray[np.float32] | None = None
    """For formats that hold none; value = code x scale. Broadcasts to (N, G)."""
    minimum: NDArray[np.float32] | None = None
    """Added to that, where the file has a minimum; of the scale's shape."""
    zero: NDArray[np.uint8] | None = None
    """Or the codes that stand for 0, one for each scale, as rows of bytes of the same format."""


@dataclass(frozen=True)
class TokenizerSource:
    """Where a tokenizer is to be built from."""

    kind: Literal["files", "gguf"]
    folder: Path | None = None
    """For "files": the folder that has tokenizer.json or tokenizer.model."""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    """For "gguf": the keys that begin with "tokenizer."."""

    @property
    def source(self) -> Path | Mapping[str, Any]:
        """The folder or the metadata, whichever there is: what `Tokenizer.load` takes."""
        return self.folder if self.folder is not None else self.metadata


class Checkpoint(ABC):
    """A model on disk, the same to look at whatever container it is in."""

    path: Path
    config: dict[str, Any]
    """In the style of Hugging Face's config.json; `onebit_scheme` where the file says it."""
    metadata: Mapping[str, Any]
    """What else the container says: GGUF keys, or the strings of the safetensors headers."""
    tokenizer: TokenizerSource | None

    @abstractmethod
    def names(self) -> list[str]:
        """Return the names of the model's tensors, scales of packed ones not among them."""

    @abstractmethod
    def tensor(self, name: str) -> StoredTensor:
        """Return one tensor.

        Raises:
            MissingError: it, or its scale, is not there.
            FormatError: what the file says of it cannot be.
            UnsupportedError: it is of a type that onebit does not read.
        """
