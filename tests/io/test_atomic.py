"""A file is wholly there or not at all: full disk, kill, error, and memory while copying."""

import errno
import os
import signal
import subprocess
import sys
import tracemalloc

import numpy as np
import pytest

from onebit.errors import FileError
from onebit.io import atomic, gguf, safetensors

# Writes tensors until it is stopped: by a limit on the size of files, or by a kill.
WRITE = """
import resource, signal, sys
from onebit.errors import FileError
from onebit.io import gguf, safetensors

kind, path, limit = sys.argv[1], sys.argv[2], int(sys.argv[3])
if limit:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
names = [f"w{i}" for i in range(1024)]
if kind == "gguf":
    writer = gguf.Writer(path, {}, [gguf.Declared(n, "f32", (1 << 14,)) for n in names])
else:
    writer = safetensors.Writer(path, [safetensors.Declared(n, "F32", (1 << 14,)) for n in names])
try:
    for name in names[:-1]:
        writer.write(name, bytes(1 << 16))
    print("written", flush=True)
    sys.stdin.read()
except FileError as error:
    print(error)
"""


def start(kind, path, limit):
    return subprocess.Popen(
        [sys.executable, "-c", WRITE, kind, str(path), str(limit)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize("kind", ["gguf", "safetensors"])
def test_full_disk_is_one_line_and_the_old_file_stays(tmp_path, kind):
    path = tmp_path / "model"
    path.write_bytes(b"old")
    out, err = start(kind, path, 1 << 20).communicate(timeout=60)
    assert err == ""
    assert out.count("\n") == 1
    assert f"{path}: cannot be written (File too large). Nothing was changed" in out
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["model"]


@pytest.mark.parametrize("kind", ["gguf", "safetensors"])
def test_a_kill_leaves_the_old_file(tmp_path, kind):
    path = tmp_path / "model"
    path.write_bytes(b"old")
    with start(kind, path, 0) as process:
        assert process.stdout.readline() == "written\n"
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    assert path.read_bytes() == b"old"


@pytest.mark.parametrize("step", ["write_at", "fsync", "replace"])
def test_every_step_that_the_system_refuses_leaves_the_old_file(tmp_path, monkeypatch, step):
    def refuse(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    path = tmp_path / "model"
    path.write_bytes(b"old")
    if step != "write_at":
        monkeypatch.setattr(atomic.os, step, refuse)
    file = atomic.AtomicFile(path)
    if step == "write_at":
        monkeypatch.setattr(file, "_file", FullFile(file._file))
    with pytest.raises(FileError, match="No space left on device"), file:
        file.write_at(0, b"new")
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["model"]


class FullFile:
    """A file on a full disk: what is written fails, and so does what is left over at the end."""

    def __init__(self, file):
        self._file = file

    def seek(self, offset):
        return self._file.seek(offset)

    def write(self, data):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def close(self):
        self._file.close()
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_an_error_in_the_block_leaves_the_old_file(tmp_path):
    path = tmp_path / "model"
    path.write_bytes(b"old")
    with pytest.raises(ZeroDivisionError), gguf.Writer(path, {}, []):
        _ = 1 / 0
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["model"]


def test_write_bytes_replaces_and_obeys_the_umask(tmp_path):
    path = tmp_path / "model"
    path.write_bytes(b"older and longer")
    atomic.write_bytes(path, b"new")
    assert path.read_bytes() == b"new"
    (tmp_path / "plain").write_bytes(b"")
    assert path.stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_a_folder_is_no_file_to_write(tmp_path):
    with pytest.raises(FileError, match="is a folder"):
        atomic.write_bytes(".", b"")
    with pytest.raises(FileError, match="cannot be written"):
        atomic.write_bytes(tmp_path, b"")
    assert not list(tmp_path.parent.glob("*.tmp"))


def test_a_folder_that_is_not_there_is_one_line(tmp_path):
    with pytest.raises(FileError, match=r"none/model: cannot be written \(No such file"):
        atomic.write_bytes(tmp_path / "none" / "model", b"")


@pytest.mark.parametrize("kind", ["gguf", "safetensors"])
def test_copying_takes_the_memory_of_one_tensor(tmp_path, kind):
    size, count = 1 << 20, 24
    names = [f"w{i}" for i in range(count)]

    def writer(name):
        if kind == "gguf":
            declared = [gguf.Declared(n, "f32", (size // 4,)) for n in names]
            return gguf.Writer(tmp_path / name, {}, declared)
        declared = [safetensors.Declared(n, "F32", (size // 4,)) for n in names]
        return safetensors.Writer(tmp_path / name, declared)

    with writer("a") as file:
        for number, name in enumerate(names):
            file.write(name, np.full(size // 4, number, np.float32))
    tracemalloc.start()
    reader = (gguf if kind == "gguf" else safetensors).Reader(tmp_path / "a")
    with writer("b") as file:
        for name in names:
            file.write(name, reader.data(name).copy())  # as a tensor that is changed on the way
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2.5 * size  # of 24
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
