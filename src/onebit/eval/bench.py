"""A model on this machine, measured in rounds: how fast it reads and writes, alone and in batches,
how soon it answers, what it takes of memory, and how much of what the machine could do that is.

Everything takes turns within a round, a rival engine too, so that a slow moment of a shared machine
meets all alike. Shares and ratios are taken within a round; their medians are what is reported.
"""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from datetime import date
from pathlib import Path
from typing import Any

from onebit.errors import OptionError
from onebit.eval import speed
from onebit.eval.bench_lines import Line
from onebit.eval.bench_options import BenchOptions
from onebit.eval.bench_run import Progress, Run
from onebit.eval.machine import Machine
from onebit.io import open_checkpoint
from onebit.kernels import ops
from onebit.runtime.llm import LLM


@dataclass(frozen=True)
class Opened:
    """A model in memory, opened for a number of threads."""

    threads: int
    body: str
    """The layout of ternary weights, empty if it has none; `LLM` may choose another for other
    threads."""
    memory_bytes: int
    """Of all matrices, as the kernels hold them."""
    token_bytes: int
    """Of these, read to compute one token."""


@dataclass(frozen=True)
class Bench:
    """What was measured, and on what."""

    model: str
    """As its user calls it."""
    scheme: str
    machine: Machine
    options: BenchOptions
    lines: list[Line]
    file_bytes: int
    opened: list[Opened]
    """As it stood in memory for each number of threads."""
    kv_token_bytes: int
    """Of keys and values, for each token of a context."""
    difference: float | None
    """From the rival, before anything was timed; see `rivals.difference`."""
    day: str = field(default_factory=lambda: date.today().isoformat())

    def line(self, name: str, threads: int) -> Line:
        """Return the line of this name."""
        return next(x for x in self.lines if (x.name, x.threads) == (name, threads))

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        return asdict(replace(self, lines=[])) | {"lines": [line.to_dict() for line in self.lines]}


def bench(
    model: str | Path,
    options: BenchOptions,
    name: str | None = None,
    begin: Callable[[], None] = lambda: None,
    progress: Progress = lambda done, total: None,
) -> Bench:
    """Check a model, and time it.

    Args:
        model: as `LLM` takes it.
        options: what to measure.
        name: what to call the model; None means `model`.
        begin: called once the model is open and the options are found good, before the check.
        progress: called with how many measurements are done, and of how many.

    Raises:
        OnebitError: the model cannot be opened, an option is out of range, or the engine is wrong:
            a prompt gives other bits than its tokens one by one or in a batch, or differs from the
            rival by more than rounding.
    """
    counts = tuple(dict.fromkeys(options.threads)) or (ops.default_threads(),)
    options = replace(options, threads=counts)
    checkpoint = open_checkpoint(model)
    with ExitStack() as stack:
        llms = {
            threads: stack.enter_context(
                LLM(model, threads, None, options.kv_bits, options.body, options.input_bits)
            )
            for threads in options.threads
        }
        llm = llms[options.threads[0]]
        room = llm.context - speed.START
        if options.decode > room:
            raise OptionError(
                f"bench: decode {options.decode}; accepted: 1 to {room}, for this context."
            )
        run = Run(llms, checkpoint, options)
        begin()
        for each in llms.values():
            speed.check(each)
        difference = run.open_rivals()
        run.all_rounds(progress)
        ternary = any(linear.weight == "ternary" for linear in llm.scheme.layers.values())
        return Bench(
            name or str(model),
            llm.scheme.name,
            Machine.here(),
            options,
            run.lines,
            run.file_bytes,
            [
                Opened(n, x.body if ternary else "", x.size_bytes, x.token_bytes)
                for n, x in llms.items()
            ],
            run.kv_token_bytes,
            difference,
        )
