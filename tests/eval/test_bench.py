"""A benchmark says everything it promises, in numbers that can be; which ones is the machine's
affair. No test asserts a time."""

import json
import math
import sys

import numpy as np
import pytest

from onebit.errors import FileError, MissingError, OnebitError, OptionError, UnsupportedError
from onebit.eval import bench_table, rivals, shapes, speed
from onebit.eval.bench import bench
from onebit.eval.bench_lines import Line
from onebit.eval.bench_options import BenchOptions
from onebit.eval.fresh import first_token
from onebit.eval.random_model import random_model

QUICK = {
    "rounds": 2,
    "decode": 3,
    "prompts": (5, 20),
    "sequences": 3,
    "random_weights": True,
    "dram_bytes": 1 << 20,
    "stream_bytes": 1 << 16,
    "limit_time_s": 0.002,
}
TOKENS = ("1 token", "128 tokens", "512 tokens")
LINES = [
    "DRAM read",
    "int8 peak",
    *(f"{layout} product, {tokens}" for layout in ("t2", "t1_6") for tokens in TOKENS),
    "decode",
    "batch of 3",
    "prefill 5",
    "prefill 20",
    "decode after 20",
    "first token",
    "load",
    "peak memory",
]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = tmp_path_factory.mktemp("bench") / "model.gguf"
    random_model(path, shapes.SHAPES["tiny"], vocabulary=True)
    return path


@pytest.fixture(scope="module")
def result(model):
    return bench(model, BenchOptions(threads=(1,), against="llama.cpp", **QUICK), "tiny")


def test_every_line_is_there(result):
    found = [line.name for line in result.lines]
    assert found == [name for name in LINES if name != "int8 peak" or name in found]


def test_numbers_are_finite_and_above_zero(result):
    for line in result.lines:
        assert all(0 < value < math.inf for value in line.values)
        assert all(0 < share < math.inf for share in line.shares)
        assert 0 <= line.spread < math.inf
        assert len(line.values) == 2 or line.name in ("DRAM read", "int8 peak")


def test_what_a_token_reads(result):
    decode, batch = result.line("decode", 1), result.line("batch of 3", 1)
    weights = result.opened[0].token_bytes
    assert decode.token_bytes == weights + result.kv_token_bytes * 17.5  # 16, and half of 3 more
    assert batch.token_bytes == pytest.approx(weights / 3 + result.kv_token_bytes * 17.5, abs=1)
    assert result.line("decode after 20", 1).token_bytes > decode.token_bytes


def test_the_rival_took_part(result):
    asked = {line.name for line in result.lines if line.rival is not None}
    assert asked == {"decode", "prefill 5", "prefill 20", "first token", "load", "peak memory"}
    assert 0 < result.difference < rivals.AGREE_BY_TOKEN


def test_json_holds_rounds_and_medians(result):
    data = json.loads(json.dumps(result.to_dict()))
    assert set(data["machine"]) == {
        "processor", "cores", "memory_bytes", "isa", "flags", "system"
    }  # fmt: skip
    assert (data["model"], data["scheme"]) == ("tiny", "bitnet-b1.58")
    assert len(data["lines"]) == len(result.lines)
    line = next(x for x in data["lines"] if x["name"] == "prefill 20")
    assert line["value"] == pytest.approx(np.median(line["values"]))
    assert (line["unit"], line["base"]) == ("tokens/s", "prefill 5")
    assert len(line["against"]) == len(line["factors"]) == 2


def test_pages_name_the_machine_and_have_every_line(result, tmp_path):
    page = bench_table.save(result, tmp_path)
    assert page.name == f"{result.day}-tiny.md"
    assert json.loads(page.with_suffix(".json").read_text()) == json.loads(
        json.dumps(result.to_dict())
    )
    text = page.read_text()
    assert result.machine.processor in text
    assert "1 thread: ternary weights as t2, matrices in memory" in text
    assert all(f"| {name} |" in text for name in LINES if name != "int8 peak")
    assert [table.row_count for table in bench_table.tables(result)] == [len(result.lines)]
    with pytest.raises(FileError, match="Give a folder"):
        bench_table.save(result, tmp_path / "nowhere")


def test_only_what_is_asked_for_is_measured(model):
    found = bench(model, BenchOptions(threads=(1, 2), only=("decode",), **QUICK))
    for threads in (1, 2):
        names = {line.name for line in found.lines if line.threads == threads}
        assert names - {"DRAM read", "int8 peak"} == {"decode", "decode after 20"}
    assert all(line.ratio is None for line in found.lines)


@pytest.mark.parametrize("prompts", [(speed.START,), (20, 5, 20)])
def test_a_length_is_measured_once(model, prompts):
    """However often it is asked for, and where it is the one that writing starts from anyway."""
    options = BenchOptions(
        threads=(1,), only=("prefill", "decode", "batch"), **QUICK | {"prompts": prompts}
    )
    found = bench(model, options)
    assert all(len(line.values) == 2 for line in found.lines if line.unit == "tokens/s")
    assert found.line("batch of 3", 1).factor > 0


def test_prompts_that_do_not_fit_are_left_out(save_tiny):
    folder = save_tiny("to be timed", max_position_embeddings=140)
    options = BenchOptions(threads=(1,), only=("prefill",), **QUICK | {"prompts": (128, 512)})
    found = bench(folder, options)
    assert [line.name for line in found.lines if "prefill" in line.name] == ["prefill 128"]
    assert found.line("prefill 128", 1).share is None  # floats, which no int8 peak bounds
    assert not any("ternary weights" in fact for fact in bench_table.facts(found))


def test_a_rival_has_room_for_the_longest_prompt(model):
    tokens = rivals.CONTEXT + 10
    options = QUICK | {"rounds": 1, "prompts": (tokens,)}
    found = bench(
        model, BenchOptions(threads=(1,), only=("prefill",), against="llama.cpp", **options)
    )
    assert found.line(f"prefill {tokens}", 1).rival > 0


def test_median_ratio_is_of_rounds_not_of_medians():
    fast = Line("decode", 1, "tokens/s", [1.0, 10.0, 4.0], against=[1.0, 2.0, None])
    assert fast.ratio == 3.0
    slow = Line("load", 1, "s", [1.0, 2.0], against=[3.0, 4.0])
    assert slow.ratio == 2.5
    assert (slow.value, slow.spread) == (1.5, 1 / 3)


@pytest.mark.parametrize(
    "wrong",
    [
        {"rounds": 0},
        {"decode": 0},
        {"threads": (0,)},
        {"threads": (1, 1025)},
        {"only": ("all",)},
        {"only": ()},
        {"against": "gpt"},
    ],
)
def test_options_out_of_range_are_refused(wrong):
    with pytest.raises(OptionError, match=r"accepted: "):
        BenchOptions(**wrong)


def test_more_tokens_than_the_context_holds_are_refused(model):
    with pytest.raises(OptionError, match="decode 5000; accepted: 1 to 4080"):
        bench(model, BenchOptions(threads=(1,), **QUICK | {"decode": 5000}))


def test_an_engine_that_differs_is_not_timed(model, monkeypatch):
    monkeypatch.setattr(rivals, "_difference", lambda *_: 1.0)
    with pytest.raises(OnebitError, match=r"differ by 1\.000 .* nothing was timed"):
        bench(model, BenchOptions(threads=(1,), against="llama.cpp", **QUICK))


def test_a_file_that_llama_cpp_cannot_open_is_one_line(tmp_path):
    random_model(tmp_path / "m.gguf", shapes.SHAPES["tiny"], "t1_6", vocabulary=True)
    with pytest.raises(UnsupportedError, match="of ternary ones tq1_0 and tq2_0"):
        rivals.open_rival("llama.cpp", tmp_path / "m.gguf", 1)


def test_llama_cpp_that_is_not_installed_is_named(model, monkeypatch):
    monkeypatch.setitem(sys.modules, "xllamacpp", None)
    with pytest.raises(MissingError, match="pip install xllamacpp"):
        rivals.open_rival("llama.cpp", model, 1)


def test_a_fresh_process_that_fails_says_why(tmp_path):
    with pytest.raises(OnebitError, match=r"fresh process of onebit failed: .*no such file"):
        first_token("onebit", tmp_path / "nothing", 1, {})
