"""The folder of a run, and whose it is.

runs/demo-ternary/
  recipe.toml     the recipe, every setting spelled out
  data/           tokenizer and tokens; written once, then only read
  checkpoints/    the last two
  metrics.jsonl   losses, rates, measurements
  loss.png        the loss curve            } written at the end
  model/          the trained model         }
  result.json     what came out             }
"""

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from onebit.errors import FileError, OptionError
from onebit.io.atomic import write_bytes
from onebit.train import recipe
from onebit.train.config import TrainConfig


@contextmanager
def claim(path: Path, config: TrainConfig) -> Iterator[None]:
    """Make the folder this run's own for as long as the block runs.

    Raises:
        OptionError: it holds a run of another recipe.
        FileError: another process trains in it, or it cannot be written.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        lock = os.open(path / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise FileError(f"{path}: cannot be written ({error.strerror}). Choose another.") from error
    try:
        _lock(lock, path)
        _match(path / "recipe.toml", config)
        yield
    finally:
        os.close(lock)  # the system also does this for a process that is killed


def _lock(descriptor: int, path: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise FileError(
            f"{path}: another process is training here. Wait for it, or choose another folder."
        ) from error


def _match(file: Path, config: TrainConfig) -> None:
    """Save the recipe, or check that the one saved is the same.

    A run that never came to a checkpoint has nothing to lose: another recipe takes its place.
    """
    folder = file.parent
    if file.exists():
        different = recipe.differences(recipe.read(file), config)
        if not different:
            return
        if (folder / "checkpoints").exists() or (folder / "result.json").exists():
            raise OptionError(
                f"{folder}: holds a run with another {', '.join(different)}. "
                "Choose another folder, or remove this one to start again."
            )
        shutil.rmtree(folder / "data", ignore_errors=True)
    elif any(not entry.name.startswith(".") for entry in folder.iterdir()):
        raise OptionError(f"{folder}: not empty, and not a training run. Choose another folder.")
    write_bytes(file, recipe.write(config).encode())
