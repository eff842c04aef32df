"""A benchmark's result for people: a table for the terminal, a page to keep."""

import json
import re
from pathlib import Path

from rich import box
from rich.table import Table

from onebit.errors import FileError
from onebit.eval.bench import Bench
from onebit.eval.bench_lines import Line


def tables(bench: Bench) -> list[Table]:
    """Return a table for each number of threads."""
    return [_table(bench, threads) for threads in bench.options.threads]


def facts(bench: Bench) -> list[str]:
    """Return what the tables do not say, a sentence or so each."""
    m, options = bench.machine, bench.options
    kept = "a state in place of keys and values"
    if bench.kv_token_bytes:
        kept = f"keys and values {bench.kv_token_bytes / 1e3:.1f} kB a token"
    found = [
        f"{bench.model}, scheme {bench.scheme}: file {bench.file_bytes / 1e6:.0f} MB, {kept}.",
        *(
            f"{_title(x.threads)}: {f'ternary weights as {x.body}, ' if x.body else ''}matrices in "
            f"memory {x.memory_bytes / 1e6:.0f} MB, of which a token reads "
            f"{x.token_bytes / 1e6:.0f} MB."
            for x in bench.opened
        ),
        f"{m.processor}, {m.cores} cores, {m.memory_bytes / 2**30:.0f} GiB, {m.system}; "
        f"kernels {m.isa}. Medians of {options.rounds} rounds; +- is half the range.",
        "Roofline: the least time in which this machine, measured in the same round, can read the "
        "bytes and do the operations, over the time taken.",
    ]
    if bench.difference is not None:
        found.append(
            f"{options.against} on the same file, in turns. Difference of log-probabilities before "
            f"the timing: {bench.difference:.3f}, weighted by probability."
        )
    return found


def markdown(bench: Bench) -> str:
    """Return the page that is kept."""
    parts = [f"# onebit bench: {bench.model}, {bench.day}", *facts(bench)]
    parts.append(f"Flags: {' '.join(bench.machine.flags)}.")
    for threads in bench.options.threads:
        head = [_title(threads), *_columns(bench)]
        rows = [head, ["---"] * len(head), *_rows(bench, threads)]
        parts.append("\n".join("| " + " | ".join(row) + " |" for row in rows))
    return "\n\n".join(parts) + "\n"


def save(bench: Bench, folder: str | Path) -> Path:
    """Write <day>-<model>.md and .json into a folder, and return the page's path.

    Raises:
        FileError: the folder is not there, or cannot be written to.
    """
    name = re.sub(r"[^a-z0-9._]+", "-", bench.model.lower()).strip("-")
    page = Path(folder) / f"{bench.day}-{name}.md"
    try:
        page.write_text(markdown(bench), "utf-8")
        data = json.dumps(bench.to_dict(), indent=1)
        page.with_suffix(".json").write_text(data + "\n", "utf-8")
    except OSError as error:
        raise FileError(
            f"{page}: {error.strerror}. Give a folder that can be written to."
        ) from None
    return page


def _title(threads: int) -> str:
    return "1 thread" if threads == 1 else f"{threads} threads"


def _columns(bench: Bench) -> list[str]:
    against = [bench.options.against, "ratio"] if bench.options.against else []
    return ["onebit", "+-", "roofline", "MB a token", "relative", *against]


def _table(bench: Bench, threads: int) -> Table:
    table = Table(title=_title(threads), box=box.SIMPLE_HEAD, title_justify="left")
    table.add_column("", no_wrap=True)
    for column in _columns(bench):
        table.add_column(column, justify="right", no_wrap=True)
    for row in _rows(bench, threads):
        table.add_row(*row)
    return table


def _rows(bench: Bench, threads: int) -> list[list[str]]:
    return [
        _row(line, bench.options.against is not None)
        for line in bench.lines
        if line.threads == threads
    ]


def _row(line: Line, against: bool) -> list[str]:
    row = [
        line.name,
        _number(line.value, line.unit),
        f"{line.spread:.0%}",
        "" if line.share is None else f"{line.share:.0%}",
        "" if line.token_bytes is None else f"{line.token_bytes / 1e6:.1f}",
        "" if line.factor is None else f"{line.factor:.2f} x {line.base}",
    ]
    if against:
        row.append("" if line.rival is None else _number(line.rival, line.unit))
        row.append("" if line.ratio is None else f"{line.ratio:.2f}")
    return row


def _number(value: float, unit: str) -> str:
    digits = {"s": 2, "tokens/s": 1, "GB/s": 1}.get(unit, 0)
    return f"{value:,.{digits}f} {unit}"
