"""From measured costs and a budget to a plan."""

import itertools
import math

import pytest

from onebit import models, ptq
from onebit.errors import OptionError
from onebit.io import open_checkpoint
from onebit.ptq import budget, plan
from onebit.ptq.sensitivity import Entry, Sensitivity

WORDS = {"w2a16-g64": 2.28125, "w3a16-g64": 3.3125, "w4a16-g64": 4.3125}
LAYERS = [f"model.layers.{i}.mlp.{name}_proj" for i in range(2) for name in ("up", "down")]


def table():
    return Sensitivity(
        [
            Entry(layer, word, (8, 64), int(bits * 64), 0.5, 0.25, 1.0, weight * 4.0 ** -int(bits))
            for layer, weight in zip(LAYERS, (1, 40, 5, 90), strict=True)
            for word, bits in WORDS.items()
        ]
    )


def test_the_plan_is_the_best_that_fits(tmp_path):
    for bits in (2.3, 2.8, 3.0, 3.31, 3.9, 8):
        allowed = budget.bytes_of_bits(bits, table())
        made, found = budget.plan(table(), allowed)
        ways = itertools.product(*table().of_layers().values())
        best = min(
            sum(e.fisher for e in way) for way in ways if sum(e.size_bytes for e in way) <= allowed
        )
        assert found.cost == pytest.approx(best)
        assert found.size_bytes <= allowed
        assert dict(made.layers) == {name: choice.name for name, choice in found.choices.items()}
        made.write(tmp_path / "p.toml", budget.comments(table(), found))
        assert plan.read(tmp_path / "p.toml") == made
        assert sum(budget.shares(found).values()) == 4


def test_the_layer_that_suffers_gets_the_bits():
    made, _ = budget.plan(table(), budget.bytes_of_bits(3.3, table()))
    assert made.layers[LAYERS[3]] == "w4a16-g64"
    assert made.layers[LAYERS[0]] == "w2a16-g64"


def test_a_measure_that_was_not_taken_is_refused():
    with pytest.raises(OptionError, match=r"'loss' of .* was not measured"):
        budget.plan(table(), 10**6, by="loss")
    with pytest.raises(OptionError, match="smallest choices take"):
        budget.plan(table(), 10)


@pytest.mark.parametrize(
    ("text", "size"),
    [("60MB", 60_000_000), ("1.5 GiB", 3 << 29), ("123", 123), ("2kb", 2000), (" 7 b ", 7)],
)
def test_sizes(text, size):
    assert budget.read_size(text) == size


@pytest.mark.parametrize("text", ["", "MB", "-3MB", "1e9", "60 XB", "6 0MB", "nan"])
def test_what_is_no_size(text):
    with pytest.raises(OptionError, match="is no size"):
        budget.read_size(text)


def test_bits_count_every_weight():
    assert budget.weights_of(table()) == 4 * 512
    assert budget.bytes_of_bits(3.5, table()) == 896
    for bits in (0, -1, math.nan, 33):
        with pytest.raises(OptionError, match="a mean of"):
            budget.bytes_of_bits(bits, table())


TEXT = "The quick brown fox jumps over the lazy dog, and the dog sleeps on. " * 40


@pytest.fixture(scope="module")
def tiny_gguf(save_tiny, tmp_path_factory):
    out = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    models.export(save_tiny(TEXT, spread=20.0), out, "f32", embed="q8_0")
    return out


def test_from_a_file_and_a_text_to_a_plan(tiny_gguf, tmp_path):
    (tmp_path / "text.txt").write_text(TEXT)
    words = ["w2a16-g32", "w4a16-g32", "q8_0"]
    table = budget.measure(
        tiny_gguf, str(tmp_path / "text.txt"), words, method="gptq", windows=4, window=32, losses=1
    )
    assert len(table.entries) == 7 * 3
    assert table.made["method"] == "gptq"
    for entries in table.of_layers().values():
        errors = [entry.output for entry in entries]
        assert errors == sorted(errors, reverse=True)
    plain = budget.measure(
        tiny_gguf, str(tmp_path / "text.txt"), words[:1], method="rtn", windows=4, window=32
    )
    better = [e.output for e in table.entries if e.word == words[0]]
    assert sum(better) < sum(e.output for e in plain.entries)  # GPTQ's errors, not RTN's
    made, found = budget.plan(table, budget.bytes_of_bits(6, table))
    assert made.scheme(list(found.choices)).quantized


def test_one_block_at_a_time_finds_the_same(save_tiny, tmp_path):
    (tmp_path / "text.txt").write_text(TEXT)
    model = save_tiny(TEXT, spread=20.0, num_hidden_layers=2)
    how = {"method": "gptq", "windows": 4, "window": 32}
    given = model, str(tmp_path / "text.txt"), ["w3a16-g32"]
    whole = budget.measure(*given, **how).entries
    parts = budget.measure(*given, **how, folder=tmp_path / "work").entries
    assert sorted(e.layer for e in parts) == sorted(e.layer for e in whole)
    by_layer = {entry.layer: entry for entry in whole}
    for entry in parts:
        assert entry.fisher is None
        assert entry.output == pytest.approx(by_layer[entry.layer].output, rel=0.02)
    made, _ = budget.plan(Sensitivity(parts), 10**6, by="output")
    assert len(made.layers) == 14
    with pytest.raises(OptionError, match="accepted: weight, output"):
        budget.plan(Sensitivity(parts), 10**6)
    assert list((tmp_path / "work").iterdir()) == []


def test_a_size_is_that_of_the_whole_file(tiny_gguf):
    checkpoint = open_checkpoint(tiny_gguf)
    names = [name.removesuffix(".weight") for name in checkpoint.names() if "_proj" in name]
    shapes = {name: checkpoint.tensor(f"{name}.weight").shape for name in names}
    table = Sensitivity([Entry(n, "f32", s, 1, 0, 0, 0, 0) for n, s in shapes.items()])
    taken = 4 * sum(N * K for N, K in shapes.values())
    left = budget.left_for_layers(tiny_gguf, table, tiny_gguf.stat().st_size)
    assert taken - 1000 * len(names) < left <= taken  # never more than there is
    with pytest.raises(OptionError, match="norms and tokenizer take"):
        budget.left_for_layers(tiny_gguf, table, 1000)


def test_the_file_keeps_to_its_size(tiny_gguf, tmp_path):
    (tmp_path / "text.txt").write_text(TEXT)
    words = [f"w{bits}a16-g32" for bits in (2, 3, 5, 8)] + ["q4_0", "q8_0"]
    how = {"method": "rtn", "windows": 4, "window": 32}
    table = budget.measure(tiny_gguf, str(tmp_path / "text.txt"), words, **how)
    most = budget.left_for_layers(tiny_gguf, table, 58_000)
    made, found = budget.plan(table, most)
    assert found.size_bytes > most - 4096  # uses what there is
    report = ptq.quantize(tiny_gguf, tmp_path / "out.gguf", method="rtn", scheme=made)
    assert (tmp_path / "out.gguf").stat().st_size <= 58_000
    for row in report.rows:
        assert row.size_bytes == found.choices[row.layer].size_bytes, (row.layer, row.scheme)


def test_an_unknown_method_is_refused(tiny_gguf):
    with pytest.raises(OptionError, match="'guess' is not a method; accepted: "):
        budget.measure(tiny_gguf, "wiki", method="guess", windows=1, window=8)
