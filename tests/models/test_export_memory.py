"""Reading, packing and loading a model take the memory of about one matrix over what stays.

Held by the system itself: a process whose writable memory is limited (RLIMIT_DATA) does the work.
Mapped files do not count, as the system may drop their pages.
"""

import json
import os
import subprocess
import sys

import ml_dtypes
import numpy as np
import pytest

from onebit import Architecture
from onebit.io import safetensors
from onebit.runtime import load
from onebit.scheme import SCHEMES

pytestmark = pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="RLIMIT_DATA counts mappings on Linux only"
)

SHAPE = {
    "vocab_size": 512,
    "hidden_size": 512,
    "intermediate_size": 2048,
    "num_attention_heads": 8,
    "num_key_value_heads": 8,
    "head_dim": 64,
    "max_position_embeddings": 64,
    "tie_word_embeddings": True,
}
LAYERS = 16
# What is freed goes back to the system at once: else holes between what stays count too, and how
# many there are is chance.
GIVEN_BACK = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_ARENA_MAX": "1"}

# First the small model, so that what is imported and started on the way is there; then the limit.
LIMITED = """
import json, resource, sys
from onebit import LLM, models
from onebit.errors import OptionError

def data_bytes():
    with open("/proc/self/status") as status:
        return 1024 * int(next(line for line in status if line.startswith("VmData")).split()[1])

work, small, large, megabytes = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])
def do(path):
    if work == "load":
        with LLM(path, threads=1) as llm:
            return len(llm.logits([1, 2, 3]))
    return models.export(path, path + ".out", work).parameters

do(small)
limit = data_bytes() + (megabytes << 20)
resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
try:
    print(json.dumps(do(large)))
except (MemoryError, OptionError):  # in a matrix; in the cache
    print(json.dumps("out of memory"))
"""


def write_masters(folder, layers):
    """Write bf16 masters matrix by matrix: the test, too, takes the memory of one."""
    a = Architecture(**SHAPE, num_hidden_layers=layers)
    shapes = {f"{linear.name}.weight": (linear.N, linear.K) for linear in load.linears(a)}
    shapes |= {f"{name}.weight": (size,) for name, size in load.norms(a)}
    folder.mkdir()
    config = a.to_config() | {"onebit_scheme": SCHEMES["bitnet-b1.58"].to_dict()}
    (folder / "config.json").write_text(json.dumps(config))
    rng = np.random.default_rng(0)
    declared = [safetensors.Declared(name, "BF16", shape) for name, shape in shapes.items()]
    with safetensors.Writer(folder / "model.safetensors", declared) as writer:
        for name, shape in shapes.items():
            w = rng.standard_normal(shape, np.float32) if len(shape) == 2 else np.ones(shape)
            writer.write(name, w.astype(ml_dtypes.bfloat16))
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Masters of one layer, and of sixteen: 65 million weights, 128 MB in bf16."""
    folder = tmp_path_factory.mktemp("memory")
    return write_masters(folder / "small", 1), write_masters(folder / "large", LAYERS)


def work(what, small, large, megabytes):
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, what, str(small), str(large), str(megabytes)],
        capture_output=True,
        text=True,
        env=os.environ | GIVEN_BACK,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_export_and_load_hold_one_matrix_at_a_time(folders):
    """The largest matrix has a million weights: 4 MB as float32, and a few copies on the way."""
    small, large = folders
    # all codes would take 64 MB, and all that is packed 13 on top of the matrix at hand
    assert work("t1_6", small, large, megabytes=20) > 50e6
    packed = [f"{folder}.out" for folder in folders]
    # two bits a weight stay: 16 MB, and no matrix fits beside them into 12
    assert work("load", *packed, megabytes=26) == 3
    assert work("load", *packed, megabytes=12) == "out of memory"  # the limit does limit
