"""`onebit export`: thin, and wrong requests are one line."""

import json

import pytest
from click.testing import CliRunner

from onebit.cli import main, progress

TEXT = "the cat sat on the mat. " * 3


@pytest.fixture(scope="module")
def ternary(save_tiny):
    return str(save_tiny(TEXT, "bitnet-b1.58"))


def onebit(*args):
    return CliRunner().invoke(main, [str(arg) for arg in args])


def refused(*args):
    result = onebit(*args)
    assert result.exit_code == 1
    assert result.stdout == ""
    assert result.stderr.startswith("Error: ")
    assert result.stderr.count("\n") == 1
    return result.stderr


def test_what_was_written_is_said(ternary, tmp_path):
    out = tmp_path / "m.gguf"
    result = onebit("export", ternary, "-o", out)
    assert result.exit_code == 0
    assert result.stdout.startswith(f"{out}: {out.stat().st_size:,} bytes")
    assert "linear weights in t1_6, 1.6" in result.stdout


def test_json(ternary, tmp_path):
    result = onebit("export", ternary, "-o", tmp_path / "m", "-f", "t2", "--embed", "f32", "--json")
    report = json.loads(result.stdout)
    assert (report["format"], report["embed"], report["container"]) == ("t2", "f32", "safetensors")
    assert report["scheme"] == "bitnet-b1.58"
    assert report["part_bytes"]["embed"] == 300 * 64 * 4


def test_existing_files_are_kept_unless_forced(ternary, tmp_path):
    out = tmp_path / "m.gguf"
    out.write_text("mine")
    assert "--force" in refused("export", ternary, "-o", out)
    assert out.read_text() == "mine"
    assert onebit("export", ternary, "-o", out, "--force").exit_code == 0


def test_weights_that_are_not_ternary(save_tiny, tmp_path):
    line = refused("export", save_tiny(TEXT), "-o", tmp_path / "m.gguf")
    assert "distinct values" in line
    assert "q_proj.weight" in line or "down_proj.weight" in line


def test_widths_that_do_not_fit(ternary, tmp_path):
    line = refused("export", ternary, "-o", tmp_path / "m.gguf", "-f", "tq1_0")
    assert "64 columns do not fill" in line or "128 columns do not fill" in line
    assert "t1_6" in line


def test_a_missing_model(tmp_path):
    assert "no such file" in refused("export", tmp_path / "none", "-o", tmp_path / "m.gguf")


def test_a_place_that_cannot_be_written(ternary, tmp_path):
    (tmp_path / "file").write_text("")
    line = refused("export", ternary, "-o", tmp_path / "file" / "m.gguf")
    assert "cannot be made" in line or "Not a directory" in line


def test_an_unknown_format_is_a_usage_error(ternary, tmp_path):
    result = onebit("export", ternary, "-o", tmp_path / "m.gguf", "-f", "q9")
    assert result.exit_code == 2
    assert "'t1_6', 't2', 'b1'" in result.stderr


def test_progress_is_shown_to_a_terminal_alone(capsys, monkeypatch):
    progress.of("export: tensor")(1, 2)
    assert capsys.readouterr().err == ""
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    for done in (1, 2):
        progress.of("export: tensor")(done, 2)
    assert capsys.readouterr().err == "\rexport: tensor 1 of 2\rexport: tensor 2 of 2\n"
