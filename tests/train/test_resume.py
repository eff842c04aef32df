"""Killed and continued: whatever the moment, the losses are those of a run never stopped.

Each run is a process of its own that is killed with SIGKILL, at random moments and at chosen ones:
at every point where a checkpoint is half-way to the disk.
"""

import multiprocessing
import random
import signal
import time

import pytest

from onebit.train import metrics

# forked from a clean process that has torch loaded: starting a run costs milliseconds, not seconds
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["onebit.train.loop", "torch._dynamo", "matplotlib.figure"])

RUN = """
import os, signal
from pathlib import Path
from onebit.train import recipe
from onebit.train.loop import train

def die_at(module, name, call):
    "Kill this process when module.name is called for the given time."
    real, calls = getattr(module, name), [0]
    def counting(*args, **kwargs):
        calls[0] += 1
        if calls[0] == call:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*args, **kwargs)
    setattr(module, name, counting)

if death:
    import shutil, safetensors.torch
    die_at({"os": os, "shutil": shutil, "safetensors": safetensors.torch}[death[0]], *death[1:])
train(recipe.read(Path(path)), Path(out))
"""


def start(path, out, death=None):
    names = {"path": str(path), "out": str(out), "death": death}
    process = PROCESSES.Process(target=exec, args=(RUN, names))
    process.start()
    return process


def finish(path, out):
    process = start(path, out)
    process.join()
    assert process.exitcode == 0


def numbers(run):
    """Everything in metrics.jsonl but the clock."""
    lines = metrics.read(run / "metrics.jsonl")
    return [{key: value for key, value in line.items() if key != "time_s"} for line in lines]


@pytest.fixture(scope="module")
def whole(tiny_recipe, tmp_path_factory):
    """The numbers of a run that was left alone, the same twice."""
    folder = tmp_path_factory.mktemp("whole")
    for name in ("a", "b"):
        finish(tiny_recipe, folder / name)
    assert numbers(folder / "a") == numbers(folder / "b")
    return numbers(folder / "a")


# 1 save = 2 safetensors files, 4 forced writes, a rename, a forced folder, and a removal.
DEATHS = {
    "before any checkpoint": ("safetensors", "save_file", 1),
    "weights on disk, moments not": ("safetensors", "save_file", 4),
    "nothing forced to the disk": ("os", "fsync", 12),
    "about to be renamed": ("os", "rename", 3),
    "while an old one is removed": ("shutil", "rmtree", 1),
    "while the model is renamed": ("os", "rename", 8),
}


@pytest.mark.parametrize("death", DEATHS.values(), ids=DEATHS)
def test_killed_at_a_chosen_moment(tiny_recipe, whole, tmp_path, death):
    process = start(tiny_recipe, tmp_path / "run", death)
    process.join()
    assert process.exitcode == -signal.SIGKILL
    finish(tiny_recipe, tmp_path / "run")
    assert numbers(tmp_path / "run") == whole
    assert (tmp_path / "run" / "model" / "config.json").is_file()


@pytest.mark.parametrize("seed", range(3))
def test_killed_again_and_again_at_random_moments(tiny_recipe, whole, tmp_path, seed):
    chance = random.Random(seed)
    run = tmp_path / "run"
    for lines in sorted(chance.sample(range(20), 4)):
        process = start(tiny_recipe, run)
        while process.is_alive() and written(run) < lines:
            time.sleep(0.001)
        time.sleep(chance.uniform(0, 0.03))
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL
    finish(tiny_recipe, run)
    assert numbers(run) == whole
    left = sorted(path.name for path in (run / "checkpoints").iterdir())
    assert left == ["step-00000015", "step-00000020"]


def written(run):
    """Lines of metrics so far."""
    path = run / "metrics.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0
