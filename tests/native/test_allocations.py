"""A decoder that writes takes no memory: allocations.cpp counts, in a program without Python."""

import os
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CSRC = ROOT / "csrc"
# files that a decoder on scalar code lacks
OTHER = r"(\w+_)?module|training|dispatch|machine|body|unpack|avx|neon"
FLAGS = ["-std=c++17", "-pthread", "-fwrapv", "-ffp-contract=off", "-w", f"-iquote{CSRC}"]


def run(*command):
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}{done.stderr}"
    return done.stdout


@pytest.mark.skipif(sys.platform != "linux", reason="needs a linker with --wrap")
def test_tokens_are_written_without_an_allocation(tmp_path):
    compiler = os.environ.get("CXX") or shutil.which("g++") or shutil.which("c++")
    if not compiler:
        pytest.skip("no C++ compiler (g++, c++ or $CXX)")

    def compile_one(source):
        out = str(tmp_path / f"{source.stem}.o")
        run(compiler, *FLAGS, "-c", str(source), "-o", out)
        return out

    listed = re.findall(r"csrc/(\w+)\.cpp", (ROOT / "CMakeLists.txt").read_text("utf-8"))
    parts = dict.fromkeys(part for part in listed if not re.match(OTHER, part))
    sources = [CSRC / f"{part}.cpp" for part in parts]
    sources.append(Path(__file__).with_name("allocations.cpp"))
    with ThreadPoolExecutor(2) as pool:
        objects = list(pool.map(compile_one, sources))
    program = str(tmp_path / "allocations")
    run(compiler, "-pthread", "-Wl,--wrap=calloc", *objects, "-o", program)
    assert run(program) == "nothing was allocated\n"
