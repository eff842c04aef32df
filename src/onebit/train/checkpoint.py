"""Checkpoints: everything a run needs to go on as if it had never stopped.

    checkpoints/step-00000200/
      model.safetensors       the float weights, by name
      optimizer.safetensors   AdamW's two moments of each weight, empty where it never had a
                              gradient, and torch's random state
      state.json              step, time, place in the text, length of metrics.jsonl

A checkpoint is written under a temporary name, brought to the disk and renamed, so a folder named
step-... is whole, whenever the process was killed. The last two are kept. No pickle: tensors are
safetensors, the rest is JSON, and both are checked against the model that reads them.
"""

import json
import os
import re
import shutil
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from onebit.errors import FileError, FormatError

KEPT = 2
_MOMENTS = ("exp_avg", "exp_avg_sq")
_RANDOM = "random_state"
_MAX_STATE_BYTES = 1 << 20


@dataclass(frozen=True)
class Position:
    """Where a run stands, apart from its tensors."""

    step: int
    """Optimizer steps done."""
    elapsed_s: float
    """Seconds spent in them."""
    loss: float
    """Of the last one, nats per token."""
    sampler: dict[str, Any]
    """The sampler's place in the text."""
    metrics_bytes: int
    """Length of metrics.jsonl."""
    threads: int
    """CPU threads in use: another number would sum in another order."""
    precision: str
    """"fp32" or "bf16", never "auto"."""
    adam_before: int = 0
    """Optimizer steps of the run that this one started from, if it took over the moments."""

    @property
    def adam_steps(self) -> int:
        """Steps that Adam's moments have seen."""
        return self.adam_before + self.step


def save(
    folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer, position: Position
) -> Path:
    """Write a checkpoint into `folder` and remove all but the last two; return its path.

    Raises:
        FileError: the disk is full or refuses; the checkpoints there stay.
    """
    temporary = folder / f".writing-{position.step:08d}"
    path = folder / f"step-{position.step:08d}"
    try:
        sweep(folder)
        temporary.mkdir(parents=True)
        _write(temporary, model, optimizer, position)
        os.rename(temporary, path)
        _to_disk(folder)
        for old in _steps(folder)[:-KEPT]:
            _remove(old)
    except (OSError, SafetensorError) as error:
        raise FileError(
            f"{path}: cannot be written ({error}). The checkpoint before it is untouched; "
            "free space and run the same command to go on from there."
        ) from error
    return path


def latest(folder: Path) -> Path | None:
    """Return the newest checkpoint in `folder`, or None."""
    found = _steps(folder)
    return found[-1] if found else None


def position(path: Path) -> Position:
    """Return the position that a checkpoint stands for.

    Raises:
        FormatError: its state.json is damaged.
    """
    file = path / "state.json"
    try:
        if file.stat().st_size > _MAX_STATE_BYTES:
            raise _damaged(file, f"larger than {_MAX_STATE_BYTES:,} bytes")
        state = json.loads(file.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise _damaged(file, f"unreadable ({error})") from error
    kinds = {item.name: _type_of(item.type) for item in fields(Position)}
    if isinstance(state, dict):
        state.setdefault("adam_before", 0)  # not in checkpoints of version 0.1
    if not isinstance(state, dict) or state.keys() != kinds.keys():
        raise _damaged(file, f"expected exactly {', '.join(kinds)}")
    for name, kind in kinds.items():
        if type(state[name]) is not kind or (kind in (int, float) and not state[name] >= 0):
            raise _damaged(file, f"{name} is {state[name]!r:.80}, not a usable {kind.__name__}")
    if not 1 <= state["threads"] <= 1024 or state["precision"] not in ("fp32", "bf16"):
        raise _damaged(file, f"threads {state['threads']!r:.40} or precision is none we use")
    return Position(**state)


def load(
    path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, position: Position
) -> None:
    """Put the weights, moments and random state of the checkpoint at `position` in place.

    Raises:
        FormatError: a file is damaged, or belongs to another model.
    """
    weights = dict(model.named_parameters())
    shapes = {name: tuple(weight.shape) for name, weight in weights.items()}
    stored = _read_tensors(path / "model.safetensors", shapes)
    state = {f"{moment}.{name}": shapes[name] for name in shapes for moment in _MOMENTS}
    state[_RANDOM] = tuple(torch.get_rng_state().shape)
    moments = _read_tensors(path / "optimizer.safetensors", state)
    with torch.no_grad():
        for name, weight in weights.items():
            weight.copy_(stored[name])
            own = {moment: moments[f"{moment}.{name}"] for moment in _MOMENTS}
            optimizer.state.pop(weight, None)
            if any(moment.shape != weight.shape for moment in own.values()):
                continue  # it never had a gradient: AdamW begins with its first
            optimizer.state[weight] = {"step": torch.tensor(float(position.adam_steps))} | own
    torch.set_rng_state(moments[_RANDOM])


def weights(path: Path) -> dict[str, Tensor]:
    """Return the float weights of a checkpoint by name.

    Raises:
        FormatError: the file is damaged.
    """
    file = path / "model.safetensors"
    try:
        return safetensors.torch.load_file(file)
    except (OSError, SafetensorError) as error:
        raise _damaged(file, f"unreadable ({error})") from error


def sweep(folder: Path) -> None:
    """Remove what a killed process left half-written or half-removed."""
    for left_over in folder.glob(".*ing-*"):
        shutil.rmtree(left_over)


def _write(
    temporary: Path, model: nn.Module, optimizer: torch.optim.Optimizer, position: Position
) -> None:
    """Write the three files and force them to the disk."""
    weights = dict(model.named_parameters())  # a tied weight appears once
    moments = {
        f"{moment}.{name}": optimizer.state.get(weight, {}).get(moment, torch.empty(0))
        for name, weight in weights.items()
        for moment in _MOMENTS  # AdamW has none where there was no gradient
    }
    tensors = {name: weight.detach() for name, weight in weights.items()}
    safetensors.torch.save_file(tensors, temporary / "model.safetensors")
    moments[_RANDOM] = torch.get_rng_state()
    safetensors.torch.save_file(moments, temporary / "optimizer.safetensors")
    (temporary / "state.json").write_text(json.dumps(asdict(position), indent=1) + "\n")
    for file in (*temporary.iterdir(), temporary):
        _to_disk(file)


def _steps(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("step-*") if re.fullmatch(r"step-\d{8,}", path.name))


def _remove(path: Path) -> None:
    doomed = path.with_name(f".removing-{path.name}")
    os.rename(path, doomed)  # in one go, so that no half of it keeps the good name
    shutil.rmtree(doomed)


def _to_disk(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _damaged(path: Path, what: str) -> FormatError:
    return FormatError(f"{path}: {what}. Remove {path.parent} to go on from an older checkpoint.")


def _type_of(annotation: Any) -> type:
    """Return the plain type of an annotation: dict for dict[str, Any]."""
    kind: type = getattr(annotation, "__origin__", annotation)
    return kind


def _read_tensors(path: Path, shapes: dict[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """Read a file that must hold exactly these tensors, float32 but for the random state. Both
    moments of a weight may be empty."""
    try:
        tensors = safetensors.torch.load_file(path)
    except (OSError, SafetensorError) as error:
        raise _damaged(path, f"unreadable ({error})") from error
    if tensors.keys() != shapes.keys():
        name = sorted(tensors.keys() ^ shapes.keys())[0]
        raise _damaged(path, f"{name} is in the file or in the model, but not in both")
    for name, shape in shapes.items():
        dtype = torch.uint8 if name == _RANDOM else torch.float32
        fits = tuple(tensors[name].shape) == shape or _both_empty(tensors, name)
        if not fits or tensors[name].dtype != dtype:
            raise _damaged(path, f"{name} is {tensors[name].dtype} {list(tensors[name].shape)}")
    return tensors


def _both_empty(tensors: dict[str, Tensor], name: str) -> bool:
    """Whether this is a moment of a weight that has none."""
    moment, _, weight = name.partition(".")
    if moment not in _MOMENTS:
        return False
    return all(tuple(tensors[f"{other}.{weight}"].shape) == (0,) for other in _MOMENTS)
