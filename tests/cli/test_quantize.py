"""`onebit quantize`: what it writes, what it says, and what it refuses."""

import json
import re

import pytest
from click.testing import CliRunner

from onebit import LLM, models, ptq
from onebit.cli import main
from onebit.models import export_plan
from onebit.ptq import calibration, guards, plan, report
from onebit.ptq.options import Options, parse

TEXT = "It was the best of times, it was the worst of times, it was the age of wisdom. " * 12


@pytest.fixture(scope="module")
def model(save_tiny):
    return str(save_tiny(TEXT, spread=20, num_hidden_layers=2))


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text(TEXT)
    return str(path)


def onebit(*args):
    return CliRunner().invoke(main, [str(arg) for arg in args])


def quantized(model, text, out, *args):
    usual = ["--calibration", text, "--windows", 4, "--window", 32]
    measured = [] if "--no-text" in args else ["--text", text]
    return onebit("quantize", model, "-o", out, *usual, *measured, *args)


def test_it_writes_a_model_that_runs_and_a_report_beside_it(model, text, tmp_path):
    out = tmp_path / "small.gguf"
    result = quantized(model, text, out, "--scheme", "w4a16-g32")
    assert result.exit_code == 0, result.stderr
    first, *rest = result.stdout.splitlines()
    assert first.startswith(f"{out}: {out.stat().st_size:,} bytes")
    assert any("perplexity" in line and "->" in line for line in rest)
    made = report.read(tmp_path / "small.report.json")
    assert (made.method, made.scheme, len(made.rows)) == ("gptq", "w4a16-g32", 14)
    assert made.size_bytes == out.stat().st_size
    assert (tmp_path / "small.report.html").read_text().startswith("<!doctype html>")
    assert not (tmp_path / "small.gguf.work").exists()
    with LLM(out) as llm:
        assert llm.scheme.linear("model.layers.0.mlp.up_proj").weight == "int4"
        assert llm.logits([5, 6, 7]).shape == (3, 300)


def test_json_is_the_report_in_the_file(model, text, tmp_path):
    out = tmp_path / "folder"
    result = quantized(model, text, out, "--method", "rtn", "--scheme", "w8a16-g32", "--json")
    data = json.loads(result.stdout)
    assert data == json.loads((tmp_path / "folder.report.json").read_text())
    assert data["texts"][0]["after"] == pytest.approx(data["texts"][0]["before"], rel=0.02)
    assert models.load(out).scheme.name == "w8a16-g32"


def test_options_of_the_method_are_set(model, text, tmp_path):
    args = ("--scheme", "w3a16-g32", "--set", "damping=0.1", "--set", "act_order=false")
    result = quantized(model, text, tmp_path / "a.gguf", *args, "--no-text", "--json")
    assert json.loads(result.stdout)["options"] == {"damping": 0.1, "act_order": False}


def test_bits_in_the_mean_make_a_plan_that_can_be_replayed(model, text, tmp_path):
    out, again = tmp_path / "mixed.gguf", tmp_path / "again.gguf"
    result = quantized(model, text, out, "--method", "rtn", "--bits", "4.5", "--no-text", "--json")
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout)["linear_bits_per_weight"] <= 4.5
    made = plan.read(tmp_path / "mixed.plan.toml")
    assert len(made.layers) == 14
    args = ("--method", "rtn", "--plan", tmp_path / "mixed.plan.toml", "--no-text")
    assert quantized(model, text, again, *args).exit_code == 0
    assert again.read_bytes() == out.read_bytes()


def test_a_budget_is_the_size_of_the_file(model, text, tmp_path):
    out = tmp_path / "mixed.gguf"
    args = ("--method", "rtn", "--budget", "100KB", "--no-text")
    result = quantized(model, text, out, *args)
    assert result.exit_code == 0, result.stderr
    assert 70_000 < out.stat().st_size <= 100_000


def test_a_model_that_was_rounded_before_is_refused_kept_or_forced(model, text, tmp_path):
    packed = tmp_path / "packed.gguf"
    models.export(model, packed, "q4_1")
    out = tmp_path / "out.gguf"
    args = ("--method", "rtn", "--scheme", "w3a16-g32", "--no-text", "--json")
    refused = quantized(packed, text, out, *args)
    assert refused.exit_code == 1
    assert "14 of 14 layers were rounded before (14 packed as q4_1)" in refused.stderr
    assert not out.exists()
    kept = json.loads(quantized(packed, text, out, *args, "--kept", "keep").stdout)
    assert {row["method"] for row in kept["rows"]} == {"kept"}
    forced = quantized(packed, text, out, *args, "--kept", "force", "--force")
    assert {row["method"] for row in json.loads(forced.stdout)["rows"]} == {"rtn"}


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--scheme", "w4a16-g64", "--bits", "3"], "--scheme and --bits both say how layers"),
        (["--bits", "3", "--budget", "1MB"], "--bits and --budget both say"),
        (["--save-plan", "p.toml"], "--save-plan is for a plan that is chosen"),
        (["--no-text", "--text", "wiki"], "--text and --no-text contradict"),
        (["--report", "page.html"], "give a name that ends in .json"),
        (["--method", "gptk"], "'gptk' is not a method; accepted: "),
        (["--scheme", "w9a16"], "'w9a16' is not a scheme"),
        (["--scheme", "w4a16-g48"], "columns do not split into groups of 48"),
        (["--set", "damping"], "options: 'damping' is none; accepted: NAME=VALUE"),
        (["--set", "dampin=1"], "NAME one of damping, act_order"),
        (["--set", "act_order=perhaps"], "act_order is 'perhaps'; accepted: true or false"),
        (["--set", "damping=-1"], "damping is -1.0; accepted: a share"),
        (["--method", "rtn", "--set", "damping=0.1"], "rtn takes no option 'damping'"),
        (["--calibration", "none"], "gptq needs to see what layers are given"),
        (["--plan", "nothing.toml"], "nothing.toml: there is no such file"),
        (["--threads", "0"], "threads is 0"),
        (["--window", "1"], "windows of 1 tokens"),
        (["--budget", "tiny"], "budget: 'tiny' is no size"),
        (["--bits", "0"], "bits: a mean of 0"),
        (["--embed", "q4_k"], "64 columns"),
        (["--bits", "1.9"], "a mean of 1.9 bits: too little; at the fewest bits"),
        (["--budget", "30KB"], "norms and tokenizer take"),
        (["--budget", "60KB", "--embed", "f32"], "norms and tokenizer take"),
        (["--bits", "3", "--method", "ternary"], "ternary does not round to them; take gptq"),
        (["--bits", "3", "--method", "kquants"], "kquants does not round to them"),
        (["--method", "rtn", "--scheme", "w1a8-row"], 'weight "binary"'),
    ],
)
def test_what_is_wrong_is_one_line_and_nothing_is_written(model, text, tmp_path, args, message):
    out = tmp_path / "out.gguf"
    result = quantized(model, text, out, *args)
    assert result.exit_code == 1
    assert message in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert result.stdout == ""
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_there_is_not_overwritten(model, text, tmp_path):
    out = tmp_path / "out.gguf"
    out.write_text("mine")
    result = quantized(model, text, out)
    assert result.exit_code == 1
    assert "out.gguf exists" in result.stderr
    assert out.read_text() == "mine"


def test_bits_are_measured_once(model, text, tmp_path, monkeypatch):
    args = ("--method", "rtn", "--no-text", "--bits")
    assert quantized(model, text, tmp_path / "a.gguf", *args, 4.5).exit_code == 0
    made = (tmp_path / "a.plan.toml").read_text()

    def never(*args, **more):
        raise AssertionError

    monkeypatch.setattr("onebit.ptq.budget.measure", never)
    first = (tmp_path / "a.gguf").read_bytes()
    again = quantized(model, text, tmp_path / "a.gguf", *args, 4.5, "--force")
    assert again.exit_code == 0, again.stderr
    assert (tmp_path / "a.gguf").read_bytes() == first
    (tmp_path / "a.gguf").unlink()
    (tmp_path / "a.plan.toml").write_text(f"# mine\n{made}")
    changed = quantized(model, text, tmp_path / "a.gguf", *args, 4.5)
    assert changed.exit_code == 1
    assert "a.plan.toml exists and says something else" in changed.stderr
    assert (tmp_path / "a.plan.toml").read_text().startswith("# mine")


def test_layers_that_are_kept_have_their_bits(model, text, tmp_path):
    first = tmp_path / "first.gguf"
    mixed = plan.Plan("mixed", {"*.q_proj": "w8a16-row", "*.up_proj": "q4_0", "*": "f16"})
    ptq.quantize(model, first, method="rtn", scheme=mixed)
    args = ("--method", "rtn", "--no-text", "--json")
    refused = quantized(first, text, tmp_path / "a.gguf", *args, "--bits", 4)
    assert "4 of 14 layers were rounded before" in refused.stderr
    kept = quantized(first, text, tmp_path / "a.gguf", *args, "--bits", 4, "--kept", "keep")
    rows = json.loads(kept.stdout)["rows"]
    assert sum(row["method"] == "kept" for row in rows) == 4
    free = [row for row in rows if row["method"] != "kept"]
    weights = sum(row["shape"][0] * row["shape"][1] for row in free)
    assert 3.5 < 8 * sum(row["size_bytes"] for row in free) / weights <= 4
    args = (*args, "--budget", "110KB", "--kept", "keep")
    assert quantized(first, text, tmp_path / "b.gguf", *args).exit_code == 0
    assert 80_000 < (tmp_path / "b.gguf").stat().st_size <= 110_000
    every = quantized(tmp_path / "b.gguf", text, tmp_path / "c.gguf", *args)
    assert "all layers are kept, and none is left" in every.stderr


@pytest.mark.parametrize("args", [["--embed", "f16"], ["--method", "quarot+rtn"]])
def test_a_budget_counts_what_is_asked_of_embedding_and_head(model, text, tmp_path, args):
    out = tmp_path / "out.gguf"
    more = ("--method", "rtn", "--budget", "120KB", "--no-text", "--json", *args)
    result = quantized(model, text, out, *more)
    assert result.exit_code == 0, result.stderr
    assert 80_000 < out.stat().st_size <= 120_000
    assert json.loads(result.stdout)["notes"] == []


def test_what_could_not_be_measured_or_written_is_refused_first(model, text, tmp_path):
    out, short, mine = tmp_path / "out.gguf", tmp_path / "short.txt", tmp_path / "mine.json"
    short.write_text("I")
    mine.write_text('{"years": "of it"}')
    (tmp_path / "page.html").write_text("mine")
    for args, message in (
        (["--text", short], "has fewer than two tokens to measure on"),
        (["--report", mine], "mine.json exists and is no report"),
        (["--report", tmp_path / "page.json"], "page.html exists"),
        (["--report", short / "r.json"], "cannot be made (File exists)"),
    ):
        result = quantized(model, text, out, *args)
        assert result.exit_code == 1
        assert message in result.stderr
    assert mine.read_text() == '{"years": "of it"}'
    assert sorted(place.name for place in tmp_path.iterdir()) == [
        "mine.json",
        "page.html",
        "short.txt",
    ]


def test_a_text_that_was_calibrated_on_is_no_measure(model, text, tmp_path):
    how = ("--scheme", "w4a16-g32", "--json")
    notes = json.loads(quantized(model, text, tmp_path / "a.gguf", *how).stdout)["notes"]
    assert notes == [f"{text} was calibrated on, and is measured: too good a number."]


def test_an_empty_text_is_refused(model, text, tmp_path):
    empty = tmp_path / "empty.txt"
    empty.write_text("")
    args = ("--no-text", "--calibration", empty)  # the last one said counts
    result = quantized(model, text, tmp_path / "o.gguf", *args)
    assert result.exit_code == 1
    assert "has 0 tokens" in result.stderr


def test_words_become_options():
    assert parse([]) == Options()
    assert parse(["alpha=0.5", "act-order=no", "iterations=7", "clip=percentile:99.9"]) == Options(
        alpha=0.5, act_order=False, iterations=7, clip="percentile:99.9"
    )
    assert parse(["alpha=none"]).alpha is None


def test_an_embedding_in_no_format_is_wrong_use(model, text, tmp_path):
    result = quantized(model, text, tmp_path / "out.gguf", "--embed", "q9_9")
    assert result.exit_code == 2
    assert "'q9_9' is not one of" in result.stderr


def test_the_words_of_the_help_are_those_that_work():
    command = main.get_command(None, "quantize")
    option = {param.name: param for param in command.params}
    assert tuple(option["kept"].type.choices) == guards.KEPT
    assert option["windows"].default == calibration.WINDOWS
    assert option["window"].default == calibration.WINDOW
    listed = set(re.findall(r"\w+", option["method"].help))
    assert set(ptq.METHODS) <= listed
    words = {word for accepted in export_plan.EMBED_FORMATS.values() for word in accepted}
    assert set(option["embed"].type.choices) == words
