"""The group: help without torch, and every foreseen error as one line and the right exit code."""

import builtins
import errno
import importlib.metadata
import subprocess
import sys
import types

import click
import pytest
from click.testing import CliRunner

from onebit import cli
from onebit.errors import FormatError, OptionError

HELP_LOADS_NO_TORCH = """
import sys
from onebit.cli import main
try:
    main({args!r}, prog_name="onebit")
except SystemExit as end:
    assert not end.code, end.code
heavy = sorted({{"torch", "transformers", "matplotlib", "onebit.models"}} & set(sys.modules))
assert not heavy, heavy
"""


@pytest.fixture
def command(monkeypatch):
    """Registers a command made from a function, as if it stood in onebit/cli/<word>.py."""

    def register(function, word="fake"):
        module = types.ModuleType(f"onebit.cli.{word}")
        name = f"{word}_" if hasattr(builtins, word) else word
        setattr(module, name, click.command(name=word)(function))
        monkeypatch.setitem(sys.modules, module.__name__, module)
        monkeypatch.setitem(cli.COMMANDS, word, "A command of this test.")
        return word

    return register


def run_raising(command, error):
    def fake():
        raise error

    return CliRunner().invoke(cli.main, [command(fake)])


@pytest.mark.parametrize("word", [None, *cli.COMMANDS])
def test_help_loads_no_torch(word):
    args = ["--help"] if word is None else [word, "--help"]
    done = subprocess.run(
        [sys.executable, "-c", HELP_LOADS_NO_TORCH.format(args=args)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("Usage: onebit")


def test_help_lists_every_command_without_importing_one(monkeypatch):
    monkeypatch.setattr(cli.importlib, "import_module", lambda name: pytest.fail(name))
    out = CliRunner().invoke(cli.main, ["--help"]).stdout
    for word, line in cli.COMMANDS.items():
        assert f"  {word} " in out
        assert line.split()[0] in out


def test_version_is_the_package_s():
    out = CliRunner().invoke(cli.main, ["--version"]).stdout
    assert out.split()[-1] == importlib.metadata.version("onebit")


def test_unknown_command_is_a_usage_error():
    result = CliRunner().invoke(cli.main, ["quantise"])
    assert result.exit_code == 2
    assert "No such command 'quantise'" in result.stderr


def test_a_command_named_like_a_builtin_is_found(command):
    def said():
        click.echo("max_ ran")

    result = CliRunner().invoke(cli.main, [command(said, word="max")])
    assert (result.exit_code, result.stdout) == (0, "max_ ran\n")


@pytest.mark.parametrize("error", [OptionError("x is 3; accepted: 1."), FormatError("a\n  b")])
def test_our_error_is_one_line_on_stderr(command, error):
    result = run_raising(command, error)
    assert result.exit_code == 1
    assert result.stdout == ""
    assert result.stderr == f"Error: {' '.join(str(error).split())}\n"


def test_a_file_s_escape_codes_do_not_reach_the_terminal(command):
    assert "\x1b" not in run_raising(command, FormatError("tensor \x1b[2J is damaged")).stderr


def test_permission_denied_is_one_line(command):
    result = run_raising(command, PermissionError(errno.EACCES, "Permission denied", "out.gguf"))
    assert result.exit_code == 1
    assert result.stderr.startswith("Error: out.gguf: Permission denied.")
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize(
    "error",
    [MemoryError(), RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory")],
)
def test_out_of_memory_is_one_line(command, error):
    result = run_raising(command, error)
    assert result.exit_code == 1
    assert result.stderr.startswith("Error: `onebit fake` ran out of memory.")


def test_missing_torch_names_the_extra(command):
    def fake():
        import torch  # noqa: F401

    word = command(fake)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "torch", None)  # what `import torch` meets where it is missing
        result = CliRunner().invoke(cli.main, [word])
    assert result.exit_code == 1
    assert result.stderr == "Error: `onebit fake` needs PyTorch: pip install 'onebit[train]'\n"


def test_interrupt_exits_130_without_a_traceback(command):
    result = run_raising(command, KeyboardInterrupt())
    assert result.exit_code == 130
    assert result.stderr == "Interrupted.\n"


def test_our_own_mistakes_keep_their_traceback(command):
    assert isinstance(run_raising(command, KeyError("bug")).exception, KeyError)


def test_a_closed_pipe_is_quiet():
    code = (
        "import sys, types, click, onebit.cli as cli\n"
        "def fake():\n    [click.echo('x' * 100) for _ in range(10_000)]\n"
        "module = types.ModuleType('onebit.cli.fake')\n"
        "module.fake = click.command()(fake)\n"
        "sys.modules[module.__name__] = module\n"
        "cli.COMMANDS['fake'] = ''\n"
        "cli.main(['fake'])\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b""
