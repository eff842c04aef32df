"""compare.cpp on the CPUs there are: this one, and others under QEMU's user-mode emulation: an x86
without AVX, and 64-bit Arm.

It compares every operation of every instruction set that the CPU runs with scalar's; on Arm, on
models that have all of the extensions in use, some, and none. Neither the Arm compiler nor the
emulators are needed for development: without them the tests are skipped. On Debian:
apt install g++-aarch64-linux-gnu qemu-user-static

ONEBIT_SANITIZE=address,undefined compiles the program for this CPU with those (two minutes more).
"""

import os
import platform
import re
import shutil
import subprocess
import sysconfig
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
COMPARE = Path(__file__).parent / "compare.cpp"
BUILD = (ROOT / "CMakeLists.txt").read_text("utf-8")

# A CPU of QEMU and the instruction sets that it runs. Pointer authentication is slow to emulate.
ARM_CPUS = {
    "max,sve=off,pauth-impdef=on": ["neon_i8mm", "neon_dotprod", "scalar"],
    "neoverse-n1": ["neon_dotprod", "scalar"],
    "cortex-a72": ["scalar"],
}


def listed(command):
    """The arguments of a CMake command on the module."""
    words = re.search(rf"{command}\(cpu (?:NB_\w+|NOMINSIZE|PRIVATE| )+([^)]*)\)", BUILD)
    return words.group(1).split()


def sources():
    return [ROOT / name for name in listed("nanobind_add_module") if "module" not in name]


def tables():
    return {
        file for file in (ROOT / "csrc").glob("*.cpp") if "make_ops(" in file.read_text("utf-8")
    }


def build(folder, compiler, optimize, *flags):
    """The program, of the sources and with the options of the Python module.

    The tables that are compared are optimized; scalar, which takes as long to compile, is not.
    """
    command = [compiler, "-std=c++17", "-pthread", *listed("target_compile_options"), *flags]
    fast = tables() - {ROOT / "csrc" / "scalar.cpp"}

    def compile_one(source):
        out = folder / f"{source.stem}.o"
        level = optimize if source in fast else "-O0"
        run([*command, level, "-w", f"-iquote{ROOT / 'csrc'}", "-c", str(source), "-o", str(out)])
        return str(out)

    with ThreadPoolExecutor(2) as pool:
        objects = list(pool.map(compile_one, [*sources(), COMPARE]))
    program = folder / "compare"
    run([*command, *objects, "-o", str(program)])
    return str(program)


def emulator_of(machine):
    """The emulator's path, or None."""
    return shutil.which(f"qemu-{machine}-static") or shutil.which(f"qemu-{machine}")


def run(command, **environment):
    done = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, **environment}, check=False
    )
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}{done.stderr}"
    return done.stdout


def test_every_table_equals_scalar_on_this_cpu(tmp_path):
    from onebit.kernels import ops

    compiler = os.environ.get("CXX") or shutil.which("g++") or shutil.which("c++")
    if not compiler:
        pytest.skip("no C++ compiler (g++, c++ or $CXX)")
    sanitize = os.environ.get("ONEBIT_SANITIZE")
    flags = ["-g", f"-fsanitize={sanitize}", "-fno-sanitize-recover=all"] if sanitize else []
    # Unoptimized, as compiling takes longest here: the tests of kernels run the optimized tables.
    program = build(tmp_path, compiler, "-O1" if sanitize else "-O0", *flags)
    assert "numbers are equal" in run([program, *ops.isas()], ONEBIT_ISA="")
    emulator = emulator_of("x86_64")
    if emulator and platform.machine() == "x86_64" and not sanitize:
        assert "numbers are equal" in run([emulator, "-cpu", "Nehalem", program, "scalar"])


def test_every_table_equals_scalar_on_arm(tmp_path):
    compiler = shutil.which("aarch64-linux-gnu-g++")
    emulator = emulator_of("aarch64")
    if platform.machine() == "aarch64":
        pytest.skip("this is a 64-bit Arm CPU, and the test before runs on it")
    if not compiler:
        pytest.skip("no compiler for 64-bit Arm (aarch64-linux-gnu-g++)")
    if not emulator:
        pytest.skip("no emulator of 64-bit Arm (qemu-aarch64-static)")
    program = build(tmp_path, compiler, "-O1", "-static")
    with ThreadPoolExecutor(2) as pool:
        on_each = pool.map(
            lambda cpu: run([emulator, "-cpu", cpu, program, *ARM_CPUS[cpu]]), ARM_CPUS
        )
        assert all("numbers are equal" in said for said in on_each)


def test_the_module_compiles_for_arm():
    """What the comparison leaves out; this Python's headers serve for Arm too."""
    nanobind = pytest.importorskip("nanobind")
    compiler = shutil.which("aarch64-linux-gnu-g++")
    headers = Path(sysconfig.get_path("include"))
    if not compiler or not (headers / "Python.h").exists():
        pytest.skip("no compiler for 64-bit Arm (aarch64-linux-gnu-g++), or no Python.h")
    flags = [*listed("target_compile_options"), "-Werror", "-fsyntax-only"]
    system = ["-isystem", nanobind.include_dir(), "-isystem", str(headers)]
    for name in listed("nanobind_add_module"):
        if "module" in name:
            run([compiler, "-std=c++17", *flags, *system, str(ROOT / name)])


def test_every_operation_is_compared():
    """A new entry of the table needs a comparison; products are reached through the layers."""
    ops = (ROOT / "csrc" / "ops.h").read_text("utf-8")
    body = re.sub(r"//.*", "", ops[ops.index("struct Ops {") : ops.index("extern const Ops")])
    names = re.findall(r"\(\*(\w+)\)", body)
    program = COMPARE.read_text("utf-8")
    assert len(names) > 10
    assert [name for name in names if not re.search(rf"ops\.{name}\b", program, re.I)] == []


def test_every_instruction_set_is_compiled():
    assert tables() <= set(sources())
    known = {n.lower() for n in re.findall(r"&k(\w+)", (ROOT / "csrc/dispatch.cpp").read_text())}
    assert known == {table.stem.replace("_", "") for table in tables()}
