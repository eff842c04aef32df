"""The quantized model as a checkpoint: what the run has left, and the rest as the source has it."""

import re
from typing import Any

from onebit import tensors
from onebit.io import Checkpoint, StoredTensor
from onebit.ptq import packing
from onebit.ptq.source import Source
from onebit.ptq.work import Work
from onebit.scheme import Scheme

_STATIC = (".input_scale", ".input_zero")
_LAYER = re.compile(r"model\.layers\.([0-9]+)\.")


class Result(Checkpoint):
    """Reads like any model on disk, so that `models.export` writes it like any other."""

    def __init__(self, source: Source, work: Work, scheme: Scheme) -> None:
        """`work` has all blocks done; `scheme` is what the model carries from now on."""
        self.path = source.checkpoint.path
        self.config: dict[str, Any] = {**source.config, "onebit_scheme": scheme.to_dict()}
        self.metadata = source.checkpoint.metadata
        self.tokenizer = source.checkpoint.tokenizer
        self._source, self._work = source, work
        found = tensors.shapes(source.architecture, scheme)
        self._static = [name for name in found if name.endswith(_STATIC)]

    def names(self) -> list[str]:
        own = (name for name in self._source.names() if not name.endswith(_STATIC))
        return [*own, *self._static]

    def tensor(self, name: str) -> StoredTensor:
        found = _LAYER.match(name)
        stored = self._work.tensor(int(found[1]), name) if found else None
        if stored is None:
            stored = self._source.stored(name)
        return packing.floats(name, self._source.tensor(name)) if stored is None else stored
