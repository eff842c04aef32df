"""`onebit bench`."""

import json

import pytest
from click.testing import CliRunner

from onebit.cli import main

QUICK = ("--decode", 3, "--rounds", 1, "--threads", 1, "--only", "decode", "--prompts", 64)


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """A random model, kept by the first run that names it."""
    path = tmp_path_factory.mktemp("bench") / "model.gguf"
    result = onebit("bench", "--shape", "tiny", "--keep", path, *QUICK)
    assert (result.exit_code, path.is_file()) == (0, True)
    return str(path)


def onebit(*args):
    return CliRunner().invoke(main, [str(arg) for arg in args])


def test_json(file):
    result = onebit("bench", file, *QUICK, "--json")
    data = json.loads(result.stdout)
    assert data["model"] == "model.gguf"  # no path: results are to be shared
    assert data["options"]["threads"] == [1]
    assert {"decode", "decode after 64", "DRAM read"} <= {line["name"] for line in data["lines"]}
    assert result.stderr == "Checking, then timing ...\n"


def test_table_names_units_and_machine(file, tmp_path):
    result = onebit("bench", file, *QUICK, "--save", tmp_path)
    for word in ("decode", "tokens/s", "GB/s", "roofline", "1 thread", "kernels "):
        assert word in result.stdout
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".json", ".md"]


def test_a_kept_file_is_used_again(file):
    again = onebit("bench", "--shape", "tiny", "--keep", file, *QUICK, "--json")
    assert "Writing" not in again.stderr
    assert json.loads(again.stdout)["model"] == "tiny tq2_0 q6_k"
    other = onebit("bench", "--shape", "tiny", "--embed", "q8_0", "--keep", file, *QUICK)
    assert "is another model than tiny tq2_0 q8_0. Name another file" in other.stderr


def test_a_model_with_a_state_is_timed_whole():
    only = ("--only", "prefill,decode,batch,start")
    result = onebit("bench", "--shape", "matmulfree-tiny", *QUICK, *only)
    assert result.exit_code == 0, result.stderr
    for word in ("matmulfree-tiny tq2_0 q6_k, scheme matmulfree", "batch of 8", "peak memory"):
        assert word in result.stdout
    assert "a state in place of keys and values" in result.stdout


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["nothing"], "nothing: there is no such"),
        (["FILE", "--rounds", 0], "rounds 0"),
        (["FILE", "--prompts", ""], "prompts []"),
        (["FILE", "--body", "t3"], "body is 't3'; accepted: "),
        (["FILE", "--only", "all"], "only is 'all'; accepted: kernels, prefill"),
        (["FILE", "--against", "gpt"], "against is 'gpt'; accepted: llama.cpp"),
        (["FILE", "--save", "nowhere"], "nowhere: there is no such folder"),
        (["--shape", "7b"], "'7b' is no shape; accepted: tiny"),
        (["--shape", "tiny", "--format", "q4_k"], "format is 'q4_k'; accepted: tq2_0"),
        (["--shape", "3b", "--format", "tq2_0"], "3200 columns do not fill whole blocks of 256"),
    ],
)
def test_announces_no_timing_before_an_error(file, args, message):
    result = onebit("bench", *[file if arg == "FILE" else arg for arg in args])
    assert (result.exit_code, result.stdout) == (1, "")
    assert message in result.stderr
    assert "timing" not in result.stderr


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ([], "Give a MODEL or a --shape"),
        (["FILE", "--shape", "tiny"], "one of the two"),
        (["FILE", "--format", "t1_6"], "--format, --embed and --keep go with --shape"),
        (["FILE", "--threads", "1,two"], "'1,two' is not whole numbers"),
    ],
)
def test_a_wrong_command_line_is_exit_code_2(file, args, message):
    result = onebit("bench", *[file if arg == "FILE" else arg for arg in args])
    assert result.exit_code == 2
    assert message in result.stderr
