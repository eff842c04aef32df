"""The rules of the house that no linter knows."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import onebit
from onebit import pack, scheme

ROOT = Path(__file__).parents[2]
SOURCES = sorted((ROOT / "src" / "onebit").rglob("*.py"))

TORCH_FREE = [
    "onebit",
    "onebit.architecture",
    "onebit.scheme",
    "onebit.hadamard",
    "onebit.tensors",
    "onebit.pack",
    "onebit.io",
    "onebit.data",
    "onebit.kernels.ops",
    "onebit.runtime.llm",
    "onebit.eval",
    "onebit.cli",
]


@pytest.mark.parametrize("module", TORCH_FREE)
def test_imports_no_torch(module):
    code = f"import sys, {module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_public_names_are_all_there():
    for name in onebit.__all__:
        assert getattr(onebit, name).__name__ if name != "SCHEMES" else onebit.SCHEMES


def test_no_drawer_for_odds_and_ends():
    drawers = {"utils.py", "helpers.py", "common.py", "misc.py"}
    assert [f for f in SOURCES if f.name in drawers] == []


def test_rounding_happens_in_quant_only():
    """Weights and activations are rounded in quant/ (and natively, in csrc/); nowhere else."""
    rounding = re.compile(r"\.round\(|\.rint\(|np\.round|torch\.round|\.sign\(\)")
    allowed = {"quant", "kernels", "analyze"}  # the native rounding written slowly; a ruler
    found = [
        f"{f.relative_to(ROOT)}:{n}"
        for f in SOURCES
        if f.relative_to(ROOT / "src" / "onebit").parts[0] not in allowed
        for n, line in enumerate(f.read_text(encoding="utf-8").splitlines(), 1)
        if rounding.search(line)
    ]
    assert found == []


def test_every_format_has_its_page():
    pages = "\n".join(f.read_text(encoding="utf-8") for f in (ROOT / "docs/formats").glob("*.md"))
    assert [name for name in pack.FORMATS if f"`{name}`" not in pages] == []


def test_every_scheme_is_documented():
    pages = "\n".join(f.read_text(encoding="utf-8") for f in (ROOT / "docs/methods").glob("*.md"))
    assert [name for name in scheme.SCHEMES if f"`{name}`" not in pages] == []


def test_every_module_says_what_it_is():
    silent = [f for f in SOURCES if not f.read_text(encoding="utf-8").startswith('"""')]
    assert silent == []


def test_made_pages_are_up_to_date():
    subprocess.run([sys.executable, ROOT / "scripts/docs.py", "--check"], check=True)


def test_versions_agree():
    version = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["version"]
    assert onebit.__version__ == version
    assert f"## {version}" in (ROOT / "CHANGELOG.md").read_text("utf-8")


def test_no_pickle():
    loads = re.compile(r"import pickle|torch\.(load|save)\(|allow_pickle=True")
    assert [f for f in SOURCES if loads.search(f.read_text("utf-8"))] == []


def test_files_are_small():
    tracked = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    big = [f for f in tracked.split("\0") if f and (ROOT / f).stat().st_size > 1 << 20]
    assert big == []
