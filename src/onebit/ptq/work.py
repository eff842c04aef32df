"""The folder in which a run leaves what it has done, so that a killed one goes on where it was.

    run.json               what is being done; a folder of another run is refused
    turns.safetensors      rotations, as far as they are learned
    hidden-00003.bin       what block 3 is given, float32
    block-00002.safetensors    the tensors of block 2 as the model's file will hold them
    block-00002.json       written last: block 2 is done; its rows of the report

Every file is whole or not there, and a block counts when its last file is. The next block then
begins from the same bytes as it would have, so that the result is the same, bit for bit.
"""

import json
import shutil
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from onebit.errors import FileError, OptionError
from onebit.io import StoredTensor, safetensors
from onebit.io.atomic import write_bytes
from onebit.io.json_file import read_json
from onebit.ptq.report import Row
from onebit.ptq.rows import Rows

_FACTORS = ("scale", "minimum")
KINDS = ("hidden", "float")
"""Of states: through what is rounded, and in the float model."""


class Work:
    """A run's folder."""

    def __init__(self, folder: Path, run: Mapping[str, Any], resume: bool) -> None:
        """Make the folder, or go on in it.

        Args:
            folder: made if it is not there.
            run: all that the result depends on, plain data.
            resume: go on where a run of the same was stopped; else begin anew.

        Raises:
            OptionError: the folder holds another run, or other files.
            FileError: the system refused.
        """
        self.folder = folder
        place = folder / "run.json"
        try:
            if resume and place.exists():
                _check_same(folder, read_json(place), json.loads(json.dumps(run)))
            else:
                self._clear()
                folder.mkdir(parents=True, exist_ok=True)
                write_bytes(place, (json.dumps(run, indent=1) + "\n").encode())
        except OSError as error:
            raise FileError(f"{folder}: cannot be used ({error.strerror or error}).") from error
        self.done = 0
        """Blocks that are finished: 0 ... done - 1."""
        while self._marker(self.done).exists():
            self.done += 1
        self._readers: dict[int, safetensors.Reader] = {}
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
            raise FileError(f"{path}: is not there. Begin anew with resume off.")
        rows = Rows(shape, path)
        checksum = read_json(self._marker(index - 1))["next_checksums"].get(kind)
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
    ) -> None:
        """Write a block's tensors and say that it is done.

        Args:
            index: of the block.
            tensors: those that are not as the source has them.
            rows: of the report.
            peak_bytes: the most memory that was held so far.
            next_checksums: kind -> of what the next block is given, which was written before.

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
            for row in read_json(self._marker(index))["rows"]:
                found.append(Row(**(row | {"shape": tuple(row["shape"])})))
        return found

    def peak_memory_bytes(self) -> int:
        """Return the most memory that the run held while it did the blocks that are done."""
        markers = (read_json(self._marker(index)) for index in range(self.done))
        return max((int(marker["peak_memory_bytes"]) for marker in markers), default=0)

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
        """Remove the folder, with all that a run puts there."""
        self._readers.clear()
        self._clear()
        with suppress(OSError):
            self.folder.rmdir()

    def close(self) -> None:
        """Let go of the files that are mapped."""
        self._readers.clear()

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

    def _clear(self) -> None:
        """Remove the files of a run; refuse a folder that holds anything else."""
        if not self.folder.exists():
            return
        files = list(self.folder.iterdir())
        kinds = (
            "run.json",
            "turns.safetensors",
            *(f"{kind}-*.bin" for kind in KINDS),
            "block-*.safetensors",
            "block-*.json",
            "scratch-*.bin",
        )
        for file in files:
            known = any(file.match(kind) for kind in kinds) or file.name.endswith(".tmp")
            if not known or not file.is_file():
                raise OptionError(
                    f"{self.folder} holds {file.name}, which no run has put there. Name another "
                    "work folder."
                )
        for file in files:
            file.unlink()

    def _hidden(self, index: int, kind: str) -> Path:
        return self.folder / f"{kind}-{index:05}.bin"

    def _tensors(self, index: int) -> Path:
        return self.folder / f"block-{index:05}.safetensors"

    def _marker(self, index: int) -> Path:
        return self.folder / f"block-{index:05}.json"


def _check_same(folder: Path, there: Mapping[str, Any], run: Mapping[str, Any]) -> None:
    other = sorted(key for key in {*there, *run} if there.get(key) != run.get(key))
    if other:
        raise OptionError(
            f"{folder} holds another run: {', '.join(other)} differ. Name another work folder, or "
            "begin anew with resume off."
        )
