"""GGUF, the file format of llama.cpp: `Reader` and `Writer`, tensor by tensor.

    reader = gguf.Reader("model.gguf")
    reader.metadata["general.architecture"], reader.tensors["output_norm.weight"].shape

    with gguf.Writer("copy.gguf", reader.metadata, declared, kinds=reader.kinds) as writer:
        for name in reader.tensors:
            writer.write(name, reader.data(name))

How onebit uses it is in docs/formats/container.md.
"""

from onebit.io.gguf_read import Reader, TensorInfo
from onebit.io.gguf_types import READABLE, TENSOR_IDS, TENSOR_TYPES, TensorType
from onebit.io.gguf_write import Declared, Writer, size_bytes

__all__ = [
    "READABLE",
    "TENSOR_IDS",
    "TENSOR_TYPES",
    "Declared",
    "Reader",
    "TensorInfo",
    "TensorType",
    "Writer",
    "size_bytes",
]
