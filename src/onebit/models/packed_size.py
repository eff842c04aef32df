"""What a packed model weighs, to the byte, from its shape alone: nothing is allocated.

    packed_size(Architecture.from_config(config), SCHEMES["matmulfree"]).body_bytes

The export plans the tensors that such a model would have, and the writer of GGUF lays the file out.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from onebit import pack, tensors
from onebit.architecture import Architecture
from onebit.io import Checkpoint, StoredTensor
from onebit.models import export_gguf
from onebit.models.export_plan import Planned, plan
from onebit.models.export_weights import FLOATS
from onebit.scheme import Scheme


class PackedSize(NamedTuple):
    """Bytes of a GGUF file and of its parts, scales included."""

    parameters: int
    body_bytes: int
    """Of the linear layers without embedding and head."""
    head_bytes: int
    """0 where it is the embedding."""
    embed_bytes: int
    other_bytes: int
    """Norms, biases, lower bounds."""
    file_bytes: int
    """With names, keys, the tokenizer that was given, and what fills places up to 32 bytes."""


def packed_size(
    architecture: Architecture,
    scheme: Scheme,
    format: str | None = None,
    embed: str | None = None,
    tokenizer: Mapping[str, Any] | None = None,
) -> PackedSize:
    """Return what `export` would write of float masters of this shape.

    Args:
        architecture, scheme: of the model.
        format, embed: as for `export`.
        tokenizer: the keys "tokenizer.*" of the file; None leaves them out.

    Raises:
        OptionError, ShapeError, UnsupportedError: as `export`.
    """
    checkpoint = _Shapes(architecture, scheme)
    planned = plan(checkpoint, scheme, "gguf", format, embed)
    part = dict.fromkeys(("body", "head", "embed", "other"), 0)
    for entry in planned:
        part[entry.part] += _size_bytes(entry)
    parameters = sum(math.prod(entry.shape) for entry in planned)
    config = checkpoint.config
    whole = export_gguf.size_bytes(checkpoint, config, planned, format, tokenizer or {})
    body, head, embedding, other = part.values()
    return PackedSize(parameters, body, head, embedding, other, whole)


def _size_bytes(entry: Planned) -> int:
    if entry.format in FLOATS:
        return int(FLOATS[entry.format].itemsize) * math.prod(entry.shape)
    size = pack.FORMATS[entry.format].size_bytes(*entry.matrix)
    if entry.scale_shape is None:
        return size
    zeros = math.prod(entry.zero_shape) if entry.zero_shape else 0
    scales = int(FLOATS[entry.scale_type].itemsize) * math.prod(entry.scale_shape)
    return size + scales + zeros


class _Shapes(Checkpoint):
    """Masters of a shape, without the masters."""

    def __init__(self, architecture: Architecture, scheme: Scheme) -> None:
        self.path = Path(architecture.model_type)
        self.config = architecture.to_config() | {"onebit_scheme": scheme.to_dict()}
        self.metadata = {}
        self.tokenizer = None
        self._shapes = tensors.shapes(architecture, scheme)

    def names(self) -> list[str]:
        return list(self._shapes)

    def tensor(self, name: str) -> StoredTensor:
        return StoredTensor(name, "f32", self._shapes[name], np.empty(0, np.uint8))
