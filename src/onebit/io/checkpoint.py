"""The one door to a model on disk: a folder, a file or a name in, a `Checkpoint` out."""

from pathlib import Path

from onebit.errors import MissingError, UnsupportedError
from onebit.io import catalog
from onebit.io.folder_checkpoint import FolderCheckpoint
from onebit.io.gguf_checkpoint import GgufCheckpoint
from onebit.io.stored import Checkpoint, StoredTensor, TokenizerSource

__all__ = ["Checkpoint", "StoredTensor", "TokenizerSource", "open_checkpoint"]

_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")


def open_checkpoint(path: str | Path) -> Checkpoint:
    """Open a model: a folder of config.json and safetensors, a .safetensors file beside its
    config.json, a .gguf file (or a folder that holds one and no config.json), or a name of the
    catalog ("smollm2").

    The head of the file is read and checked; tensors are read when asked for.

    Raises:
        MissingError: nothing is there, or a part of it is not.
        FormatError: a file is damaged or of another format.
        UnsupportedError: the model is none that onebit builds, or is in a format it does not read.
    """
    found = Path(path)
    if found.is_dir():
        return _open_folder(found)
    if not found.exists():
        if str(path) in catalog.CATALOG:
            return GgufCheckpoint(catalog.find(str(path)))
        raise MissingError(
            f"{path}: there is no such file or folder, and no model of the catalog has that name "
            f"({', '.join(catalog.CATALOG)})."
        )
    if found.suffix in _PICKLES:
        raise UnsupportedError(
            f"{path}: a pickle can run code and is never opened. Convert it to safetensors."
        )
    return FolderCheckpoint(found) if found.suffix == ".safetensors" else GgufCheckpoint(found)


def _open_folder(folder: Path) -> Checkpoint:
    if (folder / "config.json").exists():
        return FolderCheckpoint(folder)
    files = sorted(folder.glob("*.gguf"))
    if len(files) == 1:
        return GgufCheckpoint(files[0])
    raise MissingError(
        f"{folder}: a model's folder has config.json and safetensors, or one .gguf file; "
        f"this one has no config.json and {len(files)} .gguf files."
    )
