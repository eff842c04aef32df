"""The command line: one file per command, imported only when that command runs.

`onebit --help` and `onebit COMMAND --help` load neither torch nor NumPy: a command's module imports
what is heavy inside its function. Results go to stdout, progress to stderr. Whatever goes wrong in
a way we foresee is one line on stderr and exit code 1, with nothing half-said on stdout:

    0    done                          2    the command line itself is wrong (click's own)
    1    an error, in one line         130  interrupted (Ctrl-C)
"""

import builtins
import importlib
from typing import Any

import click

from onebit.errors import OnebitError

# Word on the command line -> its line of help. The code is onebit/cli/<word>.py, function <word>;
# where Python has a builtin of that name, the function is <word>_ (so `eval` is eval.eval_).
COMMANDS = {
    "train": "Train a model as a recipe says, and save checkpoints.",
    "quantize": "Quantize a trained model after training, and say what it cost.",
    "verify": "Say what a model's weights really are, and whether they match its scheme.",
    "export": "Write a model to GGUF or safetensors, ternary weights packed.",
    "run": "Continue a prompt.",
    "chat": "Talk with a model in the terminal.",
    "eval": "Measure perplexity on texts, and accuracy on multiple-choice tasks.",
    "bench": "Time a model on this machine.",
}

# Import name of what only an extra brings -> (what people call it, the extra)
_OPTIONAL = {
    "torch": ("PyTorch", "train"),
    "matplotlib": ("matplotlib", "train"),
    "pyarrow": ("pyarrow", "train"),
}


class Commands(click.Group):
    """Lists commands without importing them, and shows foreseen errors as one line."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        function = f"{name}_" if hasattr(builtins, name) else name
        command: click.Command = getattr(importlib.import_module(f"onebit.cli.{name}"), function)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            click.echo("Interrupted.", err=True)
            ctx.exit(130)
        except BrokenPipeError:
            raise  # the reader went away: click ends quietly
        except Exception as error:
            line = _explain(error, ctx.invoked_subcommand or "")
            if line is None:
                raise  # our own mistake: the traceback is what its report needs
            raise click.ClickException(_one_line(line)) from error


def _explain(error: Exception, command: str) -> str | None:
    """Return what to tell the user about `error`, or None if it is nothing we foresee."""
    if isinstance(error, OnebitError):
        return str(error)
    if isinstance(error, ModuleNotFoundError):
        if (root := (error.name or "").partition(".")[0]) not in _OPTIONAL:
            return None
        called, extra = _OPTIONAL[root]
        return f"`onebit {command}` needs {called}: pip install 'onebit[{extra}]'"
    if isinstance(error, OSError) and error.strerror:
        where = f"{error.filename}: " if error.filename is not None else ""
        return f"{where}{error.strerror}. Check the path, its permissions and the space left."
    if _out_of_memory(error):
        return (
            f"`onebit {command}` ran out of memory. "
            "Use a smaller model, context or batch, or a machine with more."
        )
    return None


def _out_of_memory(error: Exception) -> bool:
    """Whether memory ran out: Python's error, or torch's for a GPU or for the CPU's allocator."""
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or (isinstance(error, RuntimeError) and "DefaultCPUAllocator" in str(error))
    )


def _one_line(text: str) -> str:
    """Return `text` on one line, with what a hostile file could send to a terminal escaped."""
    text = " ".join(text.split())
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


@click.command(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="onebit", prog_name="onebit")
def main() -> None:
    """Train, verify, pack, export and run 1-bit and ternary language models."""
