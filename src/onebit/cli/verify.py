"""`onebit verify`: what a model's weights really are.

A table to stdout; exit code 1, and a line on stderr, if the model is not what its scheme claims.
"""

import json
from typing import TYPE_CHECKING

import click

from onebit.errors import NotTernaryError

if TYPE_CHECKING:
    from rich.table import Table

    from onebit.analyze.verify import Report, TensorReport

_LEAST_WIDTH = 120  # columns: a cut table says nothing, a wrapped line still does


@click.command()
@click.argument("model")
@click.option("--against", metavar="MASTERS",
              help="The masters MODEL was made from: quantize them again and compare.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def verify(model: str, against: str | None, as_json: bool) -> None:
    """Say tensor by tensor what the weights of MODEL are, and whether they match its scheme.

    MODEL is a folder, a .gguf file or a name such as smollm2. Exit code 1 if the weights are not
    what the scheme claims, or were quantized twice, or if the tensors are not those of the model
    that the config describes. One file cannot show everything: a single float32 scale that was made
    from float32 weights already on a grid looks like any other. The masters show it.
    """
    from onebit.analyze.verify import verify
    from onebit.cli import progress

    report = verify(model, against, progress.of("verify: matrix"))
    if as_json:
        click.echo(json.dumps(report.to_dict()))
    else:
        _show(report)
    if not report.ok:
        raise NotTernaryError(_verdict(report))


def _verdict(report: "Report") -> str:
    wrong = [tensor for tensor in report.tensors if not tensor.ok]
    first = [f"{t.name}: {f.text}" for t in wrong for f in t.findings if f.level == "error"]
    first += [finding.text for finding in report.findings if finding.level == "error"]
    count = f"{len(wrong)} of {len(report.tensors)} matrices are" if wrong else "the model is"
    claim = f"what scheme {report.scheme!r} claims" if report.scheme else "sound"
    return f"{report.path}: {count} not {claim}. {first[0]}."


def _show(report: "Report") -> None:
    """Print the table of matrices, the notes and the sums."""
    from rich.console import Console
    from rich.markup import escape

    console = Console()
    console.width = max(console.width, _LEAST_WIDTH)
    console.print(_table(report.tensors))
    for finding in report.findings:
        console.print(f"{finding.level}: {escape(finding.text)}", soft_wrap=True)
    for text, names in _gathered(report.tensors).items():
        more = f" and {len(names) - 1} more" if names[1:] else ""
        console.print(f"{escape(text)} ({escape(names[0])}{more})", soft_wrap=True)
    for line in _inputs(report):
        console.print(escape(line), soft_wrap=True)
    body = report.body_bits_per_weight
    shares = {"ternary": report.ternary_share} | report.shares
    kinds = ", ".join(f"{100 * share:.1f} % {kind}" for kind, share in shares.items())
    console.print(
        f"scheme {escape(report.scheme) or 'none claimed'}; "
        f"{report.parameters:,} parameters, {kinds}; "
        f"{report.size_bytes:,} bytes, {report.bits_per_weight:.3f} bits per weight"
        + ("" if body is None else f", {body:.3f} in the linear layers"),
        soft_wrap=True,
    )
    if report.ok:
        console.print("The weights are what the scheme claims." if report.scheme else "")


def _inputs(report: "Report") -> list[str]:
    """Return what the scheme says of the inputs of layers, each once with the roles it is of."""
    roles: dict[str, list[str]] = {}
    for tensor in report.tensors:
        of = roles.setdefault(tensor.input, [])
        if tensor.role and tensor.role not in of:
            of.append(tensor.role)
    lines = [f"input of {', '.join(of)}: {said}" for said, of in roles.items() if said]
    if report.kv_bits != 16 or report.q_bits != 16:
        lines.append(f"keys and values {report.kv_bits} bits, queries {report.q_bits} bits")
    return lines


def _gathered(tensors: tuple["TensorReport", ...]) -> dict[str, list[str]]:
    """Return each finding once, with the tensors it was made on."""
    gathered: dict[str, list[str]] = {}
    for tensor in tensors:
        for finding in tensor.findings:
            gathered.setdefault(f"{finding.level}: {finding.text}", []).append(tensor.name)
    return gathered


def _table(tensors: tuple["TensorReport", ...]) -> "Table":
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 1, 0, 0))
    for heading in ("", "matrix"):
        table.add_column(heading, no_wrap=True)
    table.add_column("shape", justify="right", no_wrap=True)
    for heading in ("stored", "claimed", "is"):
        table.add_column(heading, no_wrap=True)
    for heading in ("levels", "zeros", "scale", "bits", "entropy"):
        table.add_column(heading, justify="right", no_wrap=True)
    for t in tensors:
        table.add_row(
            "ok" if t.ok else "NO",
            escape(t.name.removeprefix("model.").removeprefix("layers.").removesuffix(".weight")),
            f"{t.shape[0]}x{t.shape[1]}",
            t.format,
            t.claim or "-",
            t.kind if t.sharing in ("", "tensor") else f"{t.kind} per {t.sharing}",
            _count(t.values if t.levels is None else t.levels),
            f"{100 * t.zeros:.1f} %",
            _scale(t.scale),
            f"{t.stored_bits:.3f}",
            "-" if t.entropy_bits is None else f"{t.entropy_bits:.3f}",
        )
    return table


def _count(values: int | None) -> str:
    return "many" if values is None else f"{values:,}"


def _scale(scale: tuple[float, float] | None) -> str:
    if scale is None:
        return "-"
    low, high = (f"{value:.4g}" for value in scale)
    return low if low == high else f"{low}..{high}"
