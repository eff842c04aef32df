"""`onebit export`: a model in others' formats. What was written goes to stdout."""

import json
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from onebit.models import ExportReport

_BLOCKS = ("q8_0", "q6_k", "q5_k", "q5_1", "q5_0", "q4_k", "q4_1", "q4_0", "q3_k", "q2_k")
_OURS = ("t1_6", "t2", "b1", "i2", "i3", "i4", "i5", "i6", "i7", "i8")
EMBED = ("f16", "f32", "bf16", *_BLOCKS)
_FORMATS = (*_OURS, "tq1_0", "tq2_0", "i2_s", "hf_2bit", *_BLOCKS, "f16", "bf16", "f32")


@click.command()
@click.argument("model")
@click.option("-o", "--out", required=True,
              help="A file that ends in .gguf, or a folder for safetensors.")  # fmt: skip
@click.option("-f", "--format", type=click.Choice(_FORMATS),
              help="Of the linear layers. GGUF: all but hf_2bit. "
              "safetensors: t1_6, t2, b1, i2 to i8, hf_2bit, f16, bf16, f32. Default: for each "
              "layer what holds its codes in the fewest bits: t1_6, b1, or i2 to i8.")  # fmt: skip
@click.option("--embed", type=click.Choice(EMBED),
              help="Of embedding and head; f32 keeps the trained logits to the bit. Default: "
              "FORMAT if it is a float type; else, in GGUF, the blocks of codes that are there, or "
              "q8_0; f16 in safetensors. q6_k is a quarter smaller and costs about 0.8 % of "
              "perplexity.")  # fmt: skip
@click.option("--force", is_flag=True, help="Overwrite OUT if it exists.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def export(
    model: str, out: str, format: str | None, embed: str | None, force: bool, as_json: bool
) -> None:
    """Write MODEL for others to run, its codes packed.

    MODEL is a folder, a .gguf file or a name such as smollm2. llama.cpp runs tq1_0 and tq2_0,
    bitnet.cpp i2_s, transformers hf_2bit, onebit all of them. Weights are quantized once: what is
    packed or on a grid keeps its codes and scale. Where a format asked for rounds codes again, the
    report says so.
    """
    from onebit import models
    from onebit.cli import progress

    report = models.export(
        model, out, format, embed=embed, force=force, progress=progress.of("export: tensor")
    )
    click.echo(json.dumps(asdict(report)) if as_json else _lines(report))


def _lines(r: "ExportReport") -> str:
    parts = ", ".join(f"{part} {size:,}" for part, size in r.part_bytes.items() if size)
    body = (
        f"{r.body_weights:,} linear weights in {r.format}, {r.body_bits_per_weight:.3f} bits each"
    )
    again = "".join(
        f"  rounded a second time: {count:,} weights, {which}; from the float model they would "
        "lose less\n"
        for which, count in r.rounded_again.items()
    )
    return (
        f"{r.path}: {r.size_bytes:,} bytes, {r.parameters:,} parameters, scheme {r.scheme}\n"
        f"  {body}; embedding in {r.embed}\n"
        f"{again}  bytes: {parts}"
    )
