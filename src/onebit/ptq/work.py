"""The folder in which a run leaves what it has done, so that a killed one goes on where it was.

    run.json               what is being done; a folder of another run is refused
    turns.safetensors      rotations, as far as they are learned
    hidden-00003.bin       what block 3 is given, float32
    block-00002.safetensors    the tensors of block 2 as the model's file will hold them
    block-00002.json       written last: block 2 is done; its rows of the report
    lock                   held while a run is at work here; the system lets go of it at a kill

Every file is whole or not there, and a block counts when its last file is. The next block then
begins from the same bytes as it would have, so that the result is the same, bit for bit.
"""

import fcntl
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from onebit.errors import FileError, FormatError, OptionError
from onebit.io import StoredTensor, safetensors
from onebit.io.atomic import write_bytes
from onebit.io.json_file import read_json
from onebit.ptq.report import Row
from onebit.ptq.rows import Rows

_FACTORS = ("scale", "minimum")
KINDS = ("hidden", "float")
"""Of states: through what is rounded, and in the float model."""
LOCK = "lock"
_FILES = (
    LOCK,
    "run.json",
    "turns.safetensors",
    *(f"{kind}-*.bin" for kind in KINDS),
    "block-*.safetensors",
    "block-*.json",
    "scratch-*.bin",
)
ANEW = "begin anew (--restart, or resume=False)"


class Work:
    """A run's folder."""

    def __init__(self, folder: Path, run: Mapping[str, Any], resume: bool) -> None:
        """Make the folder, or go on in it.

        Args:
            folder: made if it is not there.
            run: all that the result depends on, plain data.
            resume: go on where a run of the same was stopped; else begin anew.

        Raises:
            OptionError: the folder holds another run, or other files, or a run is at work in it.
            FileError: the system refused.
        """
        self.folder = folder
        place = folder / "run.json"
        try:
            self._check_files()
            folder.mkdir(parents=True, exist_ok=True)
            self._lock: int | None = _locked(folder)
        except OSError as error:
            raise _unusable(folder, error) from error
        with ExitStack() as refused:
            refused.callback(self.close)
            self._readers: dict[int, safetensors.Reader] = {}
            try:
                if resume and place.exists() and self._begun():
                    _check_same(folder, _read(place), json.loads(json.dumps(run)))
                else:
                    self._clear()
                    write_bytes(place, (json.dumps(run, indent=1) + "\n").encode())
            except OSError as error:
                raise _unusable(folder, error) from error
            self.done = 0
            """Blocks that are finished: 0 ... done - 1."""
            while self._marker(self.done).exists():
                self.done += 1
            self.found = self.done
            """Of them, those that an earlier process finished."""
            refused.pop_all()
        self._checked: dict[str, int] = {}  # of the states that this process wrote itself

    def hidden(self, index: int, shape: tuple[int, int, int], kind: str = "hidden") -> Rows:
        """Return what block `index` is given, to be written, or checked if it was.

        `kind` "float" are the states of the float model.

        Raises:
            FileError: it is not there, or not what was written.
        """
        if not 0 < index <= self.done:
            self._hidden(index, kind).unlink(missing_ok=True)  # of a run that was stopped at it
            return Rows(shape, self._hidden(index, kind))
        path = self._hidden(index, kind)
        if not path.exists():
            raise FileError(f"{path}: is not there. It cannot go on: {ANEW}.")
        rows = Rows(shape, path)
        checksum = _read(self._marker(index - 1))["next_checksums"].get(kind)
        if checksum != self._checked.get(kind):
            with ExitStack() as refused:
                refused.callback(rows.close)
                rows.check(checksum)
                refused.pop_all()
        return rows

    def finish(
        self,
        index: int,
        tensors: Sequence[StoredTensor],
        rows: Sequence[Row],
        peak_bytes: int,
        next_checksums: Mapping[str, int] | None = None,
        time_s: float = 0.0,
    ) -> None:
        """Write a block's tensors and say that it is done.

        Args:
            index: of the block.
            tensors: those that are not as the source has them.
            rows: of the report.
            peak_bytes: the most memory that was held so far.
            next_checksums: kind -> of what the next block is given, which was written before.
            time_s: that the block took.

        Raises:
            FileError: the system refused; the block does not count as done.
        """
        declared, arrays = [], {}
        for tensor in tensors:
            arrays[tensor.name] = np.ascontiguousarray(tensor.data).reshape(-1).view(np.uint8)
            declared.append(safetensors.Declared(tensor.name, "U8", arrays[tensor.name].shape))
            for factor in _FACTORS:
                value = getattr(tensor, factor)
                if value is not None:
                    name = f"{tensor.name}|{factor}"
                    arrays[name] = np.ascontiguousarray(value)
                    declared.append(safetensors.Declared(name, "F32", value.shape))
        formats = {t.name: {"format": t.format, "shape": list(t.shape)} for t in tensors}
        with safetensors.Writer(
            self._tensors(index), declared, {"tensors": json.dumps(formats)}
        ) as file:
            for name, array in arrays.items():
                file.write(name, array)
        self._checked = dict(next_checksums or {})
        marker = {
            "rows": [asdict(row) for row in rows],
            "peak_memory_bytes": peak_bytes,
            "time_s": time_s,
            "next_checksums": self._checked,
        }
        write_bytes(self._marker(index), json.dumps(marker).encode())
        self.done = index + 1
        for kind in KINDS:
            with suppress(OSError):
                self._hidden(index, kind).unlink(missing_ok=True)

    def rows(self) -> list[Row]:
        """Return the report's rows of all blocks that are done."""
        found = []
        for index in range(self.done):
            for row in _read(self._marker(index))["rows"]:
                found.append(Row(**(row | {"shape": tuple(row["shape"])})))
        return found

    def peak_memory_bytes(self) -> int:
        """Return the most memory that the run held while it did the blocks that are done."""
        markers = (_read(self._marker(index)) for index in range(self.done))
        return max((int(marker["peak_memory_bytes"]) for marker in markers), default=0)

    def time_before_s(self) -> float:
        """Return the time that the blocks took which an earlier process finished."""
        return sum(float(_read(self._marker(index))["time_s"]) for index in range(self.found))

    def tensor(self, index: int, name: str) -> StoredTensor | None:
        """Return a tensor of a block that is done; None if it was left as the source has it."""
        reader = self._readers.get(index)
        if reader is None:
            reader = safetensors.Reader(self._tensors(index))
            self._readers = {index: reader}  # what was read of another block is let go
        entry = json.loads(reader.metadata["tensors"]).get(name)
        if entry is None:
            return None
        factors = {
            factor: reader.data(f"{name}|{factor}")
            .view(np.float32)
            .reshape(reader.tensors[f"{name}|{factor}"].shape)
            for factor in _FACTORS
            if f"{name}|{factor}" in reader.tensors
        }
        shape = tuple(entry["shape"])
        scale, minimum = (factors.get(factor) for factor in _FACTORS)
        return StoredTensor(name, entry["format"], shape, reader.data(name), scale, minimum)

    def remove(self) -> None:
        """Remove all that a run puts there, and the folder if nothing else is in it."""
        self._readers.clear()
        with suppress(OSError):
            for file in self._files():
                if _known(file):
                    file.unlink()
            self.folder.rmdir()

    def close(self) -> None:
        """Let go of the files that are mapped, and of the lock."""
        self._readers.clear()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def check_space(self, size_bytes: int) -> None:
        """Refuse a disk that has less room than the run will take.

        Raises:
            FileError: it has.
        """
        free = shutil.disk_usage(self.folder).free
        if free < size_bytes:
            raise FileError(
                f"{self.folder}: the run takes {size_bytes / 1e6:,.0f} MB here and "
                f"{free / 1e6:,.0f} MB are free. Free space, or name another work folder."
            )

    def _begun(self) -> bool:
        """Whether there is anything to go on from."""
        return self._marker(0).exists() or (self.folder / "turns.safetensors").exists()

    def _check_files(self) -> None:
        """Refuse a folder that holds anything but a run."""
        for file in self._files():
            if not _known(file):
                raise OptionError(
                    f"{self.folder} holds {file.name}, which no run has put there. Name another "
                    "work folder."
                )

    def _clear(self) -> None:
        """Remove the files of a run."""
        self._check_files()
        for file in self._files():
            if file.name != LOCK:
                file.unlink()

    def _files(self) -> list[Path]:
        return list(self.folder.iterdir()) if self.folder.exists() else []

    def _hidden(self, index: int, kind: str) -> Path:
        return self.folder / f"{kind}-{index:05}.bin"

    def _tensors(self, index: int) -> Path:
        return self.folder / f"block-{index:05}.safetensors"

    def _marker(self, index: int) -> Path:
        return self.folder / f"block-{index:05}.json"


def _known(file: Path) -> bool:
    named = any(file.match(kind) for kind in _FILES) or file.name.endswith(".tmp")
    return named and file.is_file()


def _locked(folder: Path) -> int:
    """Return the open lock of a folder, which is this process's alone until it is closed."""
    lock = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        raise OptionError(
            f"{folder}: another run is at work in this folder. Wait for its end, or name another "
            "work folder."
        ) from None
    except OSError:  # a file system without locks
        pass
    return lock


def _unusable(folder: Path, error: OSError) -> FileError:
    return FileError(
        f"{folder}: cannot be used ({error.strerror or error}). Name another work folder."
    )


def _read(place: Path) -> dict[str, Any]:
    try:
        return read_json(place)
    except FormatError as error:
        raise FormatError(f"{error} Name another work folder, or {ANEW}.") from error


def _check_same(folder: Path, there: Mapping[str, Any], run: Mapping[str, Any]) -> None:
    other = sorted(key for key in {*there, *run} if there.get(key) != run.get(key))
    if other:
        how = "; ".join(_difference(key, there.get(key), run.get(key)) for key in other)
        raise OptionError(
            f"{folder} holds another run: {how}. Give the same command again, name another work "
            f"folder, or {ANEW}."
        )


def _difference(key: str, there: Any, now: Any) -> str:
    """Return how a part of two runs differs, in few words."""
    if key == "options" and isinstance(there, Mapping):
        parts = [name for name in now if there.get(name) != now[name]]
        return ", ".join(
            f"{name} is {there.get(name)!r:.30}, not {now[name]!r:.30}" for name in parts
        )
    if key == "scheme" and isinstance(there, Mapping) and there.get("name") != now["name"]:
        return f"scheme is {there.get('name')!r:.60}, not {now['name']!r:.60}"
    if key == "method":
        return f"method is {there!r:.60}, not {now!r:.60}"
    return f"{key} differ" + ("s" if key in ("model", "scheme", "calibration") else "")
