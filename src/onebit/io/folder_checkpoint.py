"""A Hugging Face folder as a checkpoint: config.json and safetensors, packed ternary included.

Hugging Face packs ternary weights four to a byte with a `weight_scale` beside them, under one of
two conventions: layers of class "bitlinear" store 1 / mean|W| and divide by it, "autobitlinear"
stores mean|W| and multiplies. Here every scale is multiplied, so the first kind is turned.

Source: transformers, `integrations/bitnet.py`.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from onebit.architecture import RECURRENT
from onebit.errors import FormatError, MissingError, UnsupportedError
from onebit.io import hgrn_names, norm_offset, packed, safetensors
from onebit.io.json_file import read_json
from onebit.io.stored import Checkpoint, StoredTensor, TokenizerSource

_FORMAT_OF = {
    **{"F32": "f32", "F16": "f16", "BF16": "bf16", "F64": "f64"},
    **{"U8": "u8", "I8": "int8", "I16": "i16", "U16": "u16", "I32": "i32", "I64": "i64"},
}
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json")
_PER_BYTE = 4  # ternary codes, of rows R apart


class FolderCheckpoint(Checkpoint):
    """See `Checkpoint`. `path` is the folder, or one .safetensors file beside its config.json.

    Raises:
        MissingError: config.json or the tensors are not there.
        FormatError: a file is damaged.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        folder = path if path.is_dir() else path.parent
        self.config = read_json(folder / "config.json")
        if path.is_dir():
            opened = safetensors.Folder(path)
            reader_of = {name: opened.reader(name) for name in opened.names()}
            readers = opened.readers
        else:
            readers = [safetensors.Reader(path)]
            reader_of = dict.fromkeys(readers[0].tensors, readers[0])
        self._in_file = {self._ours(name): name for name in reader_of}
        if len(self._in_file) < len(reader_of):
            twice = next(name for name in reader_of if self._in_file[self._ours(name)] != name)
            raise FormatError(f"{path}: {twice} is there under two names. The file is damaged.")
        self._reader_of = {ours: reader_of[name] for ours, name in self._in_file.items()}
        self.metadata = {key: text for r in readers for key, text in r.metadata.items()}
        self._packed: dict[str, packed.Packed] = {}
        for reader in readers:
            found = {t.name: (t.dtype, t.shape) for t in reader.tensors.values()}
            form_of = packed.read(reader.metadata, found, "U8", str(reader.path))
            self._packed |= {self._ours(name): form for name, form in form_of.items()}
        self._hf_packed = self._find_hf_packed()
        self._factors = {packed.scale_name(n) for n in self._hf_packed}
        self._factors |= {beside for n in self._packed for beside in packed.beside(n)}
        has_tokenizer = any((folder / name).is_file() for name in _TOKENIZER_FILES)
        self.tokenizer = TokenizerSource("files", folder=folder) if has_tokenizer else None

    def names(self) -> list[str]:
        """Return the names of the tensors, file by file."""
        return [name for name in self._reader_of if name not in self._factors]

    def tensor(self, name: str) -> StoredTensor:
        """Return one tensor."""
        if name not in self._reader_of or name in self._factors:
            raise MissingError(f"{self.path}: there is no tensor {name}.")
        reader, in_file = self._reader_of[name], self._in_file[name]
        info, data = reader.tensors[in_file], reader.data(in_file)
        if name in self._packed:
            form, shape = self._packed[name]
            scale = self._scale(name, shape)
            minimum, zero = self._minimum(name, shape), self._zero(name, shape)
            return StoredTensor(name, form, shape, data, scale, minimum, zero)
        if name in self._hf_packed:
            shape = self._hf_shape(name, info.shape)
            scale = self._scale(name, shape)
            if self._hf_packed[name] != "autobitlinear":
                scale = self._inverse(name, scale)
            return StoredTensor(name, "hf_2bit", shape, data, scale)
        if info.dtype not in _FORMAT_OF:
            raise UnsupportedError(
                f"{self.path}: {name} is {info.dtype}, which is not read; "
                f"read are {', '.join(_FORMAT_OF)}."
            )
        form = _FORMAT_OF[info.dtype]
        if norm_offset.has_offset(self.config, name) and form in ("f32", "f16", "bf16"):
            weight = norm_offset.plus_one(packed.floats(form, data, info.shape))
            return StoredTensor(name, "f32", info.shape, weight.reshape(-1).view(np.uint8))
        return StoredTensor(name, form, info.shape, data)

    def _find_hf_packed(self) -> dict[str, str]:
        """Return the tensors that Hugging Face packed, with their linear_class."""
        hf = self.config.get("quantization_config")
        if not isinstance(hf, Mapping) or hf.get("quant_method") != "bitnet":
            return {}
        linear_class = hf.get("linear_class") or "bitlinear"
        if linear_class not in ("bitlinear", "autobitlinear"):
            raise UnsupportedError(
                f"{self.path}: linear_class is {linear_class!r:.40}; "
                "supported: bitlinear, autobitlinear."
            )
        return {
            name: linear_class
            for name, reader in self._reader_of.items()
            if name.endswith(".weight")
            and name not in self._packed
            and reader.tensors[self._in_file[name]].dtype == "U8"
        }

    def _hf_shape(self, name: str, stored: tuple[int, ...]) -> tuple[int, int]:
        """Return (N, K) of a tensor stored as [ceil(N / 4), K]; N comes from the config."""
        if len(stored) != 2 or not all(stored):
            raise FormatError(f"{self.path}: {name} is packed and of shape {list(stored)}.")
        N = self._rows(name.split(".")[-2])
        if N is None:
            N = _PER_BYTE * stored[0]
        if stored[0] != -(-N // _PER_BYTE):
            raise FormatError(
                f"{self.path}: {name} has {stored[0]} packed rows; "
                f"the config's {N} rows take {-(-N // _PER_BYTE)}."
            )
        return N, stored[1]

    def _rows(self, module: str) -> int | None:
        """Return the rows that the config gives a linear layer, or None where it does not say."""
        heads, hidden = self._whole("num_attention_heads"), self._whole("hidden_size")
        kv_heads = self._whole("num_key_value_heads") or heads
        width = self._whole("head_dim") or (hidden // heads if hidden and heads else None)
        if module in ("gate_proj", "up_proj"):
            width = self._whole("intermediate_size")
            fused = self.config.get("model_type") == RECURRENT
            return 2 * width if width and fused else width
        if module in ("o_proj", "down_proj"):
            return hidden
        if module in ("k_proj", "v_proj", "q_proj") and width and heads and kv_heads:
            return width * (heads if module == "q_proj" else kv_heads)
        return None

    def _whole(self, key: str) -> int | None:
        value = self.config.get(key)
        return value if type(value) is int and 0 < value < packed.MAX_WIDTH else None

    def _scale(self, name: str, shape: tuple[int, int]) -> NDArray[np.float32]:
        own = packed.scale_name(name)
        reader = self._reader_of.get(own)
        if reader is None:
            raise MissingError(f"{self.path}: {name} has no scale; {own} is not there.")
        return self._factor(own, reader, shape)

    def _minimum(self, name: str, shape: tuple[int, int]) -> NDArray[np.float32] | None:
        own = packed.minimum_name(name)
        reader = self._reader_of.get(own)
        return None if reader is None else self._factor(own, reader, shape)

    def _zero(self, name: str, shape: tuple[int, int]) -> NDArray[np.uint8] | None:
        own = packed.zero_name(name)
        if (reader := self._reader_of.get(own)) is None:
            return None
        in_file = self._in_file[own]
        info = reader.tensors[in_file]
        whole = info.dtype == "U8"
        return packed.read_zero(own, whole, reader.data(in_file), info.shape, shape[0])

    def _factor(
        self, own: str, reader: safetensors.Reader, shape: tuple[int, int]
    ) -> NDArray[np.float32]:
        in_file = self._in_file[own]
        info = reader.tensors[in_file]
        form = _FORMAT_OF.get(info.dtype, info.dtype)
        return packed.read_factor(own, form, reader.data(in_file), info.shape, shape)

    def _ours(self, in_file: str) -> str:
        """Return the name here of a tensor of the file, or of what stands beside one."""
        return hgrn_names.ours(self.config, in_file)

    def _inverse(self, name: str, scale: NDArray[np.float32]) -> NDArray[np.float32]:
        """Turn 1 / mean|W|, as "bitlinear" stores it, into the factor mean|W|."""
        with np.errstate(over="ignore", divide="ignore"):
            inverse: NDArray[np.float32] = np.float32(1) / scale
        if not np.isfinite(inverse).all():
            raise FormatError(
                f"{self.path}: {packed.scale_name(name)} holds a zero or nearly one, and "
                "linear_class bitlinear divides by it. The file is damaged."
            )
        return inverse
