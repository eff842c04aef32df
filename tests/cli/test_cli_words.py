"""The words that commands list by hand, so that --help stays quick, are those that work."""

import re

import pytest

from onebit.cli.bench import bench
from onebit.cli.eval import eval_
from onebit.cli.export import export
from onebit.cli.run import run
from onebit.eval import random_bytes, shapes
from onebit.eval.bench_options import PARTS, BenchOptions
from onebit.eval.rivals import RIVALS
from onebit.models import export_plan
from onebit.runtime.load import BODIES
from onebit.scheme import KV_BITS


def option(command, name):
    return next(p for p in command.params if p.name == name)


@pytest.mark.parametrize(
    ("name", "formats"),
    [("format", export_plan.FORMATS), ("embed", export_plan.EMBED_FORMATS)],
)
def test_choices_of_export(name, formats):
    words = {word for accepted in formats.values() for word in accepted}
    assert set(option(export, name).type.choices) == words


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("shape", shapes.SHAPES),
        ("format", random_bytes.BODY),
        ("embed", random_bytes.EMBED),
        ("body", BODIES),
        ("against", RIVALS),
    ],
)
def test_words_of_bench(name, words):
    listed = re.findall(r"[\w.-]*\w", option(bench, name).help)
    assert set(words) <= set(listed)


def test_defaults_of_bench():
    default, words = BenchOptions(), {}
    for name in ("prompts", "only"):
        words[name] = tuple(option(bench, name).default.split(","))
    assert words == {"prompts": tuple(map(str, default.prompts)), "only": PARTS}
    for name in ("decode", "rounds", "body"):
        assert option(bench, name).default == getattr(default, name)


@pytest.mark.parametrize("command", [run, eval_], ids=lambda c: c.name)
def test_bits_of_the_cache(command):
    text = option(command, "kv_bits").help.partition("[")[0]
    assert tuple(map(int, re.findall(r"\d+", text))) == KV_BITS


def test_body_of_run():
    assert all(body in option(run, "body").help for body in BODIES)
