"""The one door to a model on disk: a folder, a file or a name in, a `Checkpoint` out."""

from pathlib import Path

from onebit.errors import FileError, MissingError, UnsupportedError
from onebit.io import catalog
from onebit.io.folder_checkpoint import FolderCheckpoint
from onebit.io.gguf_checkpoint import GgufCheckpoint
from onebit.io.stored import Checkpoint, StoredTensor, TokenizerSource

__all__ = ["Checkpoint", "StoredTensor", "TokenizerSource", "open_checkpoint"]

_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")


def open_checkpoint(path: str | Path) -> Checkpoint:
    """Open a model: a folder of config.json and safetensors, a .safetensors file beside its
    config.json, a .gguf file (or a folder that holds one and no safetensors), or a name of the
    catalog ("smollm2").

    The head of the file is read and checked; tensors are read when asked for.

    Raises:
        MissingError: nothing is there, or a part of it is not.
        FormatError: a file is damaged or of another format.
        UnsupportedError: the model is none that onebit builds, or is in a format it does not read.
    """
    found = Path(path)
    try:
        if found.is_dir():
            return _open_folder(found)
        if found.exists():
            return _open_file(found)
    except OSError as error:
        raise FileError(f"{path}: cannot be read ({error.strerror or error}).") from error
    if str(path) in catalog.CATALOG:
        return GgufCheckpoint(catalog.find(str(path)))
    raise MissingError(
        f"{path}: there is no such file or folder, and no model of the catalog has that name "
        f"({', '.join(catalog.CATALOG)})."
    )


def _open_file(path: Path) -> Checkpoint:
    if path.suffix in _PICKLES:
        raise UnsupportedError(
            f"{path}: a pickle can run code and is never opened. Convert it to safetensors."
        )
    return FolderCheckpoint(path) if path.suffix == ".safetensors" else GgufCheckpoint(path)


def _open_folder(folder: Path) -> Checkpoint:
    if any(folder.glob("*.safetensors")):
        return FolderCheckpoint(folder)
    files = sorted(folder.glob("*.gguf"))
    if len(files) == 1:
        return GgufCheckpoint(files[0])
    raise MissingError(
        f"{folder}: a model's folder has config.json and safetensors, or one .gguf file; "
        f"this one has no .safetensors and {len(files)} .gguf files."
    )
