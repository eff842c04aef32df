"""Run by test_fuzz.py in a process of its own: damages a model in many ways, and opens, runs and
verifies each.

    python damaged_models.py MODEL SEED COUNT

Before each try its number is printed, so that a crash can be laid at its door; whatever is raised
but an OnebitError of one line ends the process with a traceback.
"""

import json
import resource
import shutil
import sys
import tempfile
import warnings
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "io"))
from test_io_fuzz import MUTATIONS

from onebit import LLM
from onebit.analyze.verify import verify
from onebit.errors import OnebitError
from onebit.io import gguf

MEMORY_BYTES = 4 << 30
VALUES = (None, True, -1, 0, 3, 1 << 40, 10**400, 0.0, 1e-40, 1e30, "", "x", "group:7", [], [[1]])


def anywhere(raw, rng):
    """Overwrite a few bytes of the whole file, weights and all."""
    changed = np.frombuffer(raw, np.uint8).copy()
    size = int(rng.integers(1, 65))
    at = int(rng.integers(0, len(raw) - size))
    changed[at : at + size] = rng.choice([0, 0x7C, 0x7F, 0xFF, 0x80], size)
    return changed.tobytes()


def other(rng, value, values):
    """Return something that may stand in the place of `value`, of its own type or not."""
    same = [v for v in values if type(v) is type(value)]
    if isinstance(value, list) and value and rng.integers(0, 2):
        short = value[: int(rng.integers(0, len(value)))]
        return short or [*value[1:], value[0]]
    pool = same if same and rng.integers(0, 2) else list(VALUES)
    return pool[int(rng.integers(0, len(pool)))]


def json_field(raw, rng):
    """Drop or replace one field, however deep."""
    whole = json.loads(raw)
    table = whole
    while True:
        keys = list(table) if isinstance(table, dict) else list(range(len(table)))
        key = keys[int(rng.integers(0, len(keys)))]
        inner = table[key]
        if not isinstance(inner, dict | list) or not inner or not rng.integers(0, 4):
            break
        table = inner
    if rng.integers(0, 4):
        table[key] = other(rng, inner, list(table.values() if isinstance(table, dict) else table))
    else:
        del table[key]
    return json.dumps(whole).encode()


def gguf_field(path, raw, rng):
    """Write the file anew with one key or one tensor's shape changed."""
    path.write_bytes(raw)
    reader = gguf.Reader(path)
    metadata, tensors = dict(reader.metadata), dict(reader.tensors)
    data = {name: bytes(reader.data(name)) for name in tensors}
    shapes = {name: info.shape for name, info in tensors.items()}
    if rng.integers(0, 2):
        name = sorted(shapes)[int(rng.integers(0, len(shapes)))]
        shapes[name] = [shapes[name][::-1], (), (1,), (2, 3, 4)][int(rng.integers(0, 4))]
    else:
        key = sorted(metadata)[int(rng.integers(0, len(metadata)))]
        metadata[key] = other(rng, metadata[key], list(metadata.values()))
    try:
        declared = [gguf.Declared(name, tensors[name].type.name, shapes[name]) for name in tensors]
        with gguf.Writer(path, metadata, declared) as writer:
            for name, kind, shape in declared:
                size = gguf.TENSOR_TYPES[gguf.TENSOR_IDS[kind]].size_bytes(shape)
                writer.write(name, data[name][:size].ljust(size, b"\0"))
    except OnebitError:  # what cannot even be written
        path.write_bytes(anywhere(raw, rng))


def damage(file, raw, rng):
    """Leave a damaged version of `raw` in `file`."""
    ways = [*MUTATIONS, "anywhere", "field", "field"]
    way = ways[int(rng.integers(0, len(ways)))]
    if way == "field" and file.suffix == ".gguf":
        gguf_field(file, raw, rng)
    elif way == "field" and file.suffix == ".json":
        file.write_bytes(json_field(raw, rng))
    elif way in MUTATIONS:
        head = min(len(raw), 16_384)
        file.write_bytes(MUTATIONS[way](raw, head, rng))
    else:
        file.write_bytes(anywhere(raw, rng))


def use(path):
    """Open, run and verify; return what was refused."""
    refused = []
    for step in (run, verify):
        try:
            step(path)
        except OnebitError as error:
            if "\n" in str(error):
                raise AssertionError(f"several lines: {error}") from error
            refused.append(step)
    return refused


def run(path):
    with LLM(path, threads=1) as llm:
        llm.generate([1, 2, 3], max_tokens=2, logprobs=1)
        llm.generate("It was <|endoftext|> é", max_tokens=2, temperature=1.0, seed=0)
        llm.chat("It was", max_tokens=2)


def main(model, seed, count):
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    warnings.simplefilter("error")
    rng = np.random.default_rng(seed)
    refused = 0
    with tempfile.TemporaryDirectory() as name:
        place = Path(name) / model.name
        (shutil.copytree if model.is_dir() else shutil.copy)(model, place)
        assert use(place) == []
        files = sorted(place.iterdir()) if place.is_dir() else [place]
        whole = {file: file.read_bytes() for file in files}
        for i in range(count):
            print(f"try {i}", flush=True)
            file = files[int(rng.integers(0, len(files)))]
            damage(file, whole[file], rng)
            refused += bool(use(place))
            file.write_bytes(whole[file])
    print(f"refused {refused}", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
