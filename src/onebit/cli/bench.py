"""`onebit bench`: how fast a model loads, reads and writes on this machine."""

import json

import click


@click.command()
@click.argument("model")
@click.option("--decode", type=int, default=64, show_default=True, help="Tokens written a round.")
@click.option("--rounds", type=int, default=3, show_default=True, help="Medians are over these.")
@click.option("--threads", type=int, help="CPU threads; default: all.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def bench(model: str, decode: int, rounds: int, threads: int | None, as_json: bool) -> None:
    """Time MODEL: prompts of 128 and 512 tokens, writing, loading; and its memory.

    First a prompt is computed whole and token by token, and must come out the same.
    """
    from onebit.eval.bench import bench_model

    def begin() -> None:
        click.echo("Checking, then timing ...", err=True)

    result = bench_model(model, decode=decode, rounds=rounds, threads=threads, begin=begin)
    if as_json:
        click.echo(json.dumps({"model": model, **result.to_dict()}))
        return
    speed = result.speed
    for length, rate in speed.prefill_rates_tokens_per_s.items():
        click.echo(f"prefill {length:>4}    {rate:10.1f} tokens/s")
    click.echo(f"decode          {speed.decode_rate_tokens_per_s:10.1f} tokens/s")
    click.echo(f"weights read    {speed.weight_rate_bytes_per_s / 1e9:10.2f} GB/s")
    click.echo(f"bytes per token {speed.token_bytes / 1e6:10.1f} MB")
    click.echo(f"load            {result.load_time_s:10.2f} s")
    click.echo(f"peak memory     {result.peak_memory_bytes / 1e6:10.0f} MB")
    click.echo(f"{speed.threads} threads, {result.isa}, {result.processor}; medians of {rounds}")
