"""`onebit bench`: how fast a model loads, reads and writes on this machine."""

import json
import tempfile
from contextlib import nullcontext
from pathlib import Path

import click


def _list(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _numbers(context: click.Context, option: click.Parameter, text: str | None) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in _list(text or ""))
    except ValueError:
        raise click.BadParameter(f"{text!r} is not whole numbers with commas between.") from None


@click.command()
@click.argument("model", required=False)
@click.option("--shape",
              help="Time random weights in this shape instead of MODEL: "
              "tiny, 0.7b, 2b4t, 3b, 8b, matmulfree-tiny, matmulfree-370m, matmulfree-1.3b or "
              "matmulfree-2.7b.")  # fmt: skip
@click.option("--scheme", help="Of the shape's layers, such as bitnet-v2-a4 or int4-lsq. "
              "Default: bitnet-b1.58, or matmulfree.")  # fmt: skip
@click.option("--format", help="Of the shape's ternary layers: tq2_0, tq1_0, t1_6, t2 or i2_s. "
              "Default: tq2_0, or t1_6 where blocks of 256 do not fit.")  # fmt: skip
@click.option("--embed", help="Of the shape's embedding and head: q6_k, q5_k, q4_k, q8_0, q5_0, "
              "q4_0 or f16. Default: q6_k, or q8_0 where blocks of 256 do not fit.")  # fmt: skip
@click.option("--keep", type=click.Path(dir_okay=False, path_type=Path),
              help="Keep the shape's file here, and take it from here if it is there; "
              "else it is deleted.")  # fmt: skip
@click.option("--threads", callback=_numbers,
              help="CPU threads; each number is timed, such as 1,2. Default: all.")  # fmt: skip
@click.option("--kv-bits", type=int, help="Bits of a cached key or value.")
@click.option("--input-bits", type=int, default=16, show_default=True,
              help="Of inputs that the model leaves floats: 16 or 8.")  # fmt: skip
@click.option("--body", default="auto", show_default=True,
              help="Ternary weights in memory: t2, t1_6 or auto.")  # fmt: skip
@click.option("--prompts", callback=_numbers, default="128,512,2048", show_default=True,
              help="Tokens of the prompts that are read.")  # fmt: skip
@click.option("--decode", type=int, default=64, show_default=True, help="Tokens written a round.")
@click.option("--rounds", type=int, default=3, show_default=True, help="Medians are over these.")
@click.option("--only", default="kernels,prefill,decode,batch,start", show_default=True,
              help="What to measure, with commas between.")  # fmt: skip
@click.option("--against", help="Time this engine too, on the same file and in turns: llama.cpp.")
@click.option("--save", type=click.Path(path_type=Path),
              help="Write the result into this folder as <date>-<model>.md and .json.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def bench(
    model: str | None,
    shape: str | None,
    scheme: str | None,
    format: str | None,
    embed: str | None,
    keep: Path | None,
    threads: tuple[int, ...],
    kv_bits: int | None,
    input_bits: int,
    body: str,
    prompts: tuple[int, ...],
    decode: int,
    rounds: int,
    only: str,
    against: str | None,
    save: Path | None,
    as_json: bool,
) -> None:
    """Time MODEL, or a random model of a named shape: reading prompts, writing alone and in a batch
    of 8, its start in a fresh process, and its memory; with what this machine's memory and
    multipliers could do at best in the same minute.

    First a prompt is computed whole, token by token and in a batch, and must come out the same.
    """
    from rich.console import Console

    from onebit.cli import progress
    from onebit.errors import MissingError
    from onebit.eval import bench_table
    from onebit.eval.bench import bench as measure
    from onebit.eval.bench_options import BenchOptions
    from onebit.eval.random_model import model_of_shape

    if (model is None) == (shape is None):
        raise click.UsageError("Give a MODEL or a --shape, one of the two.")
    if shape is None and (scheme or format or embed or keep):
        raise click.UsageError("--scheme, --format, --embed and --keep go with --shape.")
    if save and not save.is_dir():  # said now, not after minutes
        raise MissingError(f"{save}: there is no such folder. Make it, or name another.")

    def begin() -> None:
        click.echo("Checking, then timing ...", err=True)

    def writing(label: str) -> None:
        click.echo(f"Writing a random model, {label} ...", err=True)

    options = BenchOptions(
        threads=threads,
        rounds=rounds,
        decode=decode,
        prompts=prompts,
        only=_list(only),
        against=against,
        kv_bits=kv_bits,
        input_bits=input_bits,
        body=body,
        random_weights=shape is not None,
    )
    with nullcontext() if keep or model else tempfile.TemporaryDirectory() as folder:
        if shape is None:
            path, name = Path(str(model)), Path(str(model)).name
        else:
            path = keep or Path(str(folder)) / "model.gguf"
            against_llama = against is not None
            name = model_of_shape(path, shape, format, embed, against_llama, writing, scheme)
        result = measure(path, options, name, begin, progress.of("bench:"))
    if save:
        click.echo(f"Written to {bench_table.save(result, save)}.", err=True)
    if as_json:
        click.echo(json.dumps(result.to_dict()))
        return
    console = Console(width=132)
    for table in bench_table.tables(result):
        console.print(table)
    for fact in bench_table.facts(result):
        click.echo(fact)
