"""A GGUF file as a checkpoint: Hugging Face names, config and row order over GGUF's.

What the file does not say is filled in from what its types mean. I2_S is Microsoft's type for
models trained with BitNet b1.58, whose activations are int8 per token; TQ1_0, TQ2_0 and Q2_0 hold
any ternary weights, and mean int8 activations only in a file of a BitNet architecture. Q2_0 has a
fourth code: tensors that use it are not ternary, and nothing is implied of them.
"""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onebit import scheme
from onebit.errors import FormatError, MissingError, ShapeError, UnsupportedError
from onebit.io import gguf_names, packed, rope_rows
from onebit.io.gguf import READABLE, Reader
from onebit.io.gguf_config import (
    ROPE_FACTORS_NAME,
    architecture_of,
    metadata_to_config,
    model_type_of,
)
from onebit.io.gguf_metadata import Metadata
from onebit.io.gguf_types import NAMED
from onebit.io.stored import Checkpoint, StoredTensor, TokenizerSource

_TERNARY = ("tq1_0", "tq2_0", "i2_s", "q2_0", "q2_0_g128")
_I2_S_ROW_BLOCK, _I2_S_TAIL_BYTES = 128, 32
_LOOKED_AT_BLOCKS = 4096
"""Of a tensor, for the fourth code: what is not ternary uses it in nearly every block."""


class GgufCheckpoint(Checkpoint):
    """See `Checkpoint`. The names, the config and every shape are checked on opening.

    Raises:
        MissingError, FormatError: the file is not there, damaged or incomplete.
        UnsupportedError: the model is none that onebit builds.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._reader = Reader(path)
        self.metadata: Metadata = self._reader.metadata
        arch = architecture_of(self.metadata)  # before its names, which may be strange too
        model_type = model_type_of(self.metadata)
        found = {t.name: (t.type.name, t.shape) for t in self._reader.tensors.values()}
        self._packed = packed.read(self.metadata, found, "i8", str(path))
        factors = {beside for name in self._packed for beside in packed.beside(name)}
        self._gguf_name = {
            gguf_names.to_huggingface(name, model_type): name
            for name in self._reader.tensors
            if name not in factors and name != ROPE_FACTORS_NAME
        }
        shapes = {name: self._described(name)[1] for name in self._gguf_name.values()}
        self.config = metadata_to_config(self.metadata, shapes, self._rope_factors())
        self._imply_scheme()
        self._heads = self._permuted_heads() if arch == "llama" else {}
        self.tokenizer = self._tokenizer()

    def names(self) -> list[str]:
        """Return the Hugging Face names of the tensors, in the order of the file."""
        return list(self._gguf_name)

    def tensor(self, name: str) -> StoredTensor:
        """Return one tensor; rows of q and k are in Hugging Face's order."""
        if name not in self._gguf_name:
            raise MissingError(f"{self.path}: there is no tensor {name}.")
        own = self._gguf_name[name]
        form, shape = self._described(own)
        data = self._reader.data(own)
        if own not in self._packed and form not in READABLE:
            raise UnsupportedError(
                f"{self.path}: {own} is of type {form}, which is not read. "
                f"Read are {', '.join(READABLE)}; convert the model to one of them."
            )
        if own not in self._packed and form == "i8":
            form = "int8"  # plain integers; "i8" is a format of codes, which come with a scale
        factors = self._factors(own, shape) if own in self._packed else {}
        *_, module, kind = name.rsplit(".", 2)
        heads = self._heads.get(module) if kind in ("weight", "bias") else None
        if heads:
            data, factors = self._unpermuted(own, form, shape, data, factors, heads)
        return StoredTensor(name, form, shape, data, **factors)

    def _described(self, own: str) -> tuple[str, tuple[int, ...]]:
        """Return the format and the logical shape of a tensor by its GGUF name."""
        if own in self._packed:
            return self._packed[own]
        info = self._reader.tensors[own]
        return info.type.name, info.shape

    def _factors(self, own: str, shape: tuple[int, ...]) -> dict[str, NDArray[Any]]:
        """Return the scale, and the minimum or zero-points where there are any."""
        if packed.scale_name(own) not in self._reader.tensors:
            raise MissingError(
                f"{self.path}: {own} has no scale; {packed.scale_name(own)} is not there."
            )
        found: dict[str, NDArray[Any]] = {}
        for name in packed.beside(own):
            if (info := self._reader.tensors.get(name)) is None:
                continue
            data, form, stored = self._reader.data(name), info.type.name, info.shape
            if name == packed.zero_name(own):
                found["zero"] = packed.read_zero(name, form == "i8", data, stored, shape[0])
            else:
                word = name.rpartition("_")[2]
                found[word] = packed.read_factor(name, form, data, stored, shape)
        return found

    def _rope_factors(self) -> NDArray[np.float32] | None:
        info = self._reader.tensors.get(ROPE_FACTORS_NAME)
        if info is None:
            return None
        if info.type.name != "f32":
            raise FormatError(f"{self.path}: {ROPE_FACTORS_NAME} is {info.type.name}, not f32.")
        return packed.floats("f32", self._reader.data(ROPE_FACTORS_NAME), info.shape)

    def _imply_scheme(self) -> None:
        """Give the config the scheme that the tensors' types mean, where the file names none."""
        forms = {
            name.removesuffix(".weight"): (own, self._described(own)[0])
            for name, own in self._gguf_name.items()
            if scheme.role_of(name.removesuffix(".weight")) not in ("", "embed", "head")
        }
        if "onebit_scheme" in self.config:
            return
        used = {form for own, form in forms.values() if self._holds_ternary(own, form)}
        if not used:
            return
        trained = "i2_s" in used or self.config["model_type"] == "bitnet"
        implied = scheme.SCHEMES["bitnet-b1.58" if trained else "ternary-weights"]
        exempt = {
            module: scheme.FP
            for module, (own, form) in forms.items()
            if not self._holds_ternary(own, form)
        }
        self.config["onebit_scheme"] = scheme.Scheme(
            implied.name, {**exempt, **implied.layers}
        ).to_dict()

    def _holds_ternary(self, own: str, form: str) -> bool:
        if not form.startswith("q2_0"):
            return form in _TERNARY
        blocks = self._reader.data(own).reshape(-1, NAMED[form].block_bytes)
        pairs = blocks[:_LOOKED_AT_BLOCKS, 2:]  # after the scale
        return not (pairs & (pairs >> 1) & 0x55).any()

    def _permuted_heads(self) -> dict[str, int]:
        """Return the modules whose rows are permuted, with their number of heads."""
        return {
            "q_proj": self.config["num_attention_heads"],
            "k_proj": self.config["num_key_value_heads"],
        }

    def _unpermuted(
        self,
        own: str,
        form: str,
        shape: tuple[int, ...],
        data: NDArray[np.uint8],
        factors: dict[str, NDArray[Any]],
        heads: int,
    ) -> tuple[NDArray[np.uint8], dict[str, NDArray[Any]]]:
        """Put the rows of q or k, and their factors, in Hugging Face's order."""
        if not shape:
            raise FormatError(f"{self.path}: {own} is one number; rows are expected.")
        tail = _I2_S_TAIL_BYTES if form == "i2_s" else 0
        if tail and shape[-1] % _I2_S_ROW_BLOCK:
            raise UnsupportedError(
                f"{self.path}: {own} is i2_s with rows of {shape[-1]}, which are no multiple of "
                f"{_I2_S_ROW_BLOCK}: its permuted rows share bytes and are not read."
            )
        body = data[: data.size - tail]
        try:
            rows = rope_rows.unpermute(body.reshape(shape[0], -1), heads).reshape(-1)
            factors = {
                word: rope_rows.unpermute(f, heads) if f.shape and f.shape[0] == shape[0] > 1 else f
                for word, f in factors.items()
            }
        except (ShapeError, ValueError) as error:
            raise FormatError(f"{self.path}: {own}: {error}") from error
        return (np.concatenate([rows, data[body.size :]]) if tail else rows), factors

    def _tokenizer(self) -> TokenizerSource | None:
        keys = self.metadata.part("tokenizer.")
        return TokenizerSource("gguf", metadata=keys) if "tokenizer.ggml.tokens" in keys else None
