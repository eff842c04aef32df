"""CPUs by mask and quota, memory by its groups: what a container allows, in both versions."""

import os
import subprocess
import sys

import pytest

from onebit.kernels import cpu

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc and /sys")

CPUS = len(os.sched_getaffinity(0)) if sys.platform == "linux" else 0
GB = 1 << 30


def system(root, files):
    """Write the system's files under `root`; return it as the engine takes it."""
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return str(root)


def test_this_machine_has_some_of_both():
    assert 1 <= cpu.default_threads() <= CPUS
    assert cpu.available_memory() > 1 << 20


def test_threads_are_those_of_the_affinity_mask():
    one = min(os.sched_getaffinity(0))
    code = (
        f"import os; os.sched_setaffinity(0, [{one}]); from onebit.kernels import cpu; "
        "print(cpu.default_threads(), cpu.threads())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["1", "1"]


QUOTAS = {
    "version 2": {
        "proc/self/cgroup": "0::/pod/box\n",
        "sys/fs/cgroup/pod/box/cpu.max": "50000 100000\n",
    },
    "version 2, around it": {
        "proc/self/cgroup": "0::/pod/box\n",
        "sys/fs/cgroup/pod/cpu.max": "100000 100000\n",
        "sys/fs/cgroup/pod/box/cpu.max": "max 100000\n",
    },
    "version 1": {
        "proc/self/cgroup": "5:memory:/\n4:cpu,cpuacct:/box\n0::/\n",
        "sys/fs/cgroup/cpu/box/cpu.cfs_quota_us": "90000\n",
        "sys/fs/cgroup/cpu/box/cpu.cfs_period_us": "100000\n",
    },
    "version 1, seen from inside a container": {
        "proc/self/cgroup": "4:cpu:/docker/0123\n",
        "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "100000\n",
        "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
    },
}


@pytest.mark.parametrize("files", QUOTAS.values(), ids=QUOTAS)
def test_threads_are_no_more_than_a_quota_gives_time_for(tmp_path, files):
    assert cpu.default_threads(system(tmp_path, files)) == 1


NO_QUOTAS = {
    "nothing to read": {},
    "version 2": {"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "max 100000\n"},
    "version 1": {
        "proc/self/cgroup": "1:cpu:/\n",
        "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n",
        "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
    },
    "more than there are": {
        "proc/self/cgroup": "0::/\n",
        "sys/fs/cgroup/cpu.max": "99900000 100000\n",
    },
    "no sense": {
        "proc/self/cgroup": "0::/\n1:cpu\nnothing\n::\n",
        "sys/fs/cgroup/cpu.max": "much 0\n",
    },
}


@pytest.mark.parametrize("files", NO_QUOTAS.values(), ids=NO_QUOTAS)
def test_without_a_quota_the_mask_counts(tmp_path, files):
    assert cpu.default_threads(system(tmp_path, files)) == CPUS


MACHINE = {"proc/meminfo": f"MemTotal: 99999999 kB\nMemAvailable:   {16 * GB >> 10} kB\n"}
V2 = {
    "proc/self/cgroup": "0::/pod/box\n",
    "sys/fs/cgroup/pod/box/memory.max": "max\n",
    "sys/fs/cgroup/pod/box/memory.current": f"{GB}\n",
    "sys/fs/cgroup/pod/memory.max": f"{4 * GB}\n",
    "sys/fs/cgroup/pod/memory.current": f"{3 * GB}\n",
    "sys/fs/cgroup/pod/memory.stat": f"anon 5\ninactive_file {2 * GB}\n",
}
V1 = {
    "proc/self/cgroup": "4:memory:/box\n",
    "sys/fs/cgroup/memory/box/memory.limit_in_bytes": f"{2 * GB}\n",
    "sys/fs/cgroup/memory/box/memory.usage_in_bytes": f"{3 * GB}\n",
    "sys/fs/cgroup/memory/box/memory.stat": f"total_inactive_file {2 * GB}\n",
}


@pytest.mark.parametrize(
    ("files", "left"),
    [({}, None), (MACHINE, 16 * GB), (MACHINE | V2, 3 * GB), (MACHINE | V1, GB), (V1, GB)],
)
def test_memory_is_what_machine_and_groups_have_left(tmp_path, files, left):
    """What is only cached of files counts as free. None: as much as one can say."""
    found = cpu.available_memory(system(tmp_path, files))
    assert found == left if left else found > 1 << 62


COUNT_THREADS = """
import os
import numpy as np
from onebit.kernels import ops
before = len(os.listdir("/proc/self/task"))
for threads in (1, 3):
    ops.set_threads(threads)
    w, x = ops.repack_floats(np.ones((640, 64), np.float32)), np.ones((9, 64), np.float32)
    ops.linear(w, x)
    print(len(os.listdir("/proc/self/task")) - before)
"""


def test_one_thread_is_no_pool():
    command = [sys.executable, "-c", COUNT_THREADS]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["0", "2"]
