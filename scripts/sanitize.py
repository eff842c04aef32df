"""Build the native engine with a sanitizer, in a folder of its own, and run the tests on it.

    python scripts/sanitize.py address                   memory errors and undefined behaviour
    python scripts/sanitize.py thread                    data races
    python scripts/sanitize.py thread tests/kernels -x   with arguments for pytest

`make sanitize` runs the first two. GCC, on Linux; half an hour of one core each, most of it for the
compiler. Whatever a sanitizer finds ends the run and says where.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TESTS = ["tests/kernels", "tests/runtime", "-m", "not slow", "-p", "no:cacheprovider", "-q"]
# Their results are times, sizes of memory or numbers of threads, which a sanitizer changes.
TESTS += ["--ignore", "tests/kernels/test_machine.py", "--ignore", "tests/runtime/test_leaks.py"]
TESTS += ["--ignore", "tests/runtime/test_fuzz.py"]
TESTS += ["--deselect", "tests/kernels/test_limits.py::test_one_thread_is_no_pool"]

# What is compiled in. Left out of "undefined" are checks of every pointer: they multiply the time
# to compile, and the other sanitizer finds what they would lead to.
FLAGS = {
    "address": "-fsanitize=address,undefined -fno-sanitize=null,alignment,object-size,vptr "
    "-fno-sanitize-recover=undefined",
    "thread": "-fsanitize=thread",
}
# Memory that Python keeps to its end is none of ours; tests/runtime/test_leaks.py watches growth.
OPTIONS = {
    "address": {"ASAN_OPTIONS": "detect_leaks=0:allocator_may_return_null=1"},
    "thread": {
        "TSAN_OPTIONS": "halt_on_error=1:allocator_may_return_null=1:die_after_fork=0:"
        "ignore_noninstrumented_modules=1"
    },
}
LIBRARY = {"address": "libasan.so", "thread": "libtsan.so"}

# The tests import the copy, whatever an editable installation would have them import.
PYTEST = """
import sys
sys.meta_path[:] = [f for f in sys.meta_path if "editable" not in type(f).__module__]
sys.path.insert(0, sys.argv[1])
import onebit.kernels.cpu as cpu
assert cpu.__file__.startswith(sys.argv[1]), cpu.__file__
import pytest
sys.exit(pytest.main(sys.argv[2:]))
"""


def build(which: str, folder: Path) -> Path:
    """Return a folder from which the package is imported with its sanitized module."""
    configure = [
        *("cmake", "-S", ROOT, "-B", folder, "-DCMAKE_BUILD_TYPE=None"),
        f"-DCMAKE_CXX_FLAGS=-O1 -g1 -fno-omit-frame-pointer {FLAGS[which]}",
        *("-DCMAKE_CXX_COMPILER=g++", f"-DPython_EXECUTABLE={sys.executable}"),
    ]
    subprocess.run(configure, check=True)
    jobs = os.environ.get("JOBS", str(os.cpu_count()))
    subprocess.run(["cmake", "--build", folder, "--target", "cpu", "--parallel", jobs], check=True)
    site = folder / "site"
    shutil.rmtree(site, ignore_errors=True)
    ignore = shutil.ignore_patterns("*.so", "__pycache__")
    shutil.copytree(ROOT / "src" / "onebit", site / "onebit", ignore=ignore)
    for module in folder.glob("cpu*.so"):
        shutil.copy(module, site / "onebit" / "kernels")
    return site


def run(which: str, site: Path, arguments: list[str]) -> int:
    """Run pytest on that package; return its exit code."""
    # Before Python, which is not sanitized itself; with the library whose exceptions it watches.
    preload = [_library(name) for name in (LIBRARY[which], "libstdc++.so.6")]
    environment = os.environ | OPTIONS[which]
    environment |= {
        "LD_PRELOAD": " ".join(preload),
        "PYTHONPATH": str(site),  # for the processes that tests start
        "PYTHONMALLOC": "malloc",
        "OMP_NUM_THREADS": "1",
    }
    # A sanitizer writes past sys.stderr, and would be captured with the test that it ends.
    tests = ["--capture=sys", *(arguments or TESTS)]
    command = ["setarch", "-R", sys.executable, "-c", PYTEST, site, *tests]
    return subprocess.run(command, cwd=ROOT, env=environment).returncode


def _library(name: str) -> str:
    command = ["g++", f"-print-file-name={name}"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def main(arguments: list[str]) -> int:
    """Build and run; returns the exit code."""
    if not arguments or arguments[0] not in FLAGS:
        print(__doc__, file=sys.stderr)
        return 2
    which, *rest = arguments
    folder = Path(os.environ.get("SANITIZE_FOLDER", ROOT / "build")) / f"sanitize-{which}"
    return run(which, build(which, folder), rest)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
