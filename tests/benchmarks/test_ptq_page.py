"""The table of methods: what is wanted, what counts as finished, the page of made-up numbers."""

import json
import math
from dataclasses import replace

import pytest
from benchmarks.ptq import claims, numbers, page, run, store
from benchmarks.ptq.rows import GROUPS, ROWS, Setup

from onebit import pack, scheme
from onebit.errors import OptionError

SETUP = Setup(models=("smollm2",))


def result(row, setup, wiki, size, bits=3.3, torch=None):
    """Return what a job would leave."""

    def text(perplexity):
        return {"perplexity": perplexity, "bits_per_byte": perplexity**0.5}

    task = {"accuracy": 0.6, "accuracy_per_byte": 0.5, "error": 0.01, "error_per_byte": 0.02,
            "questions": 4, "right": "0101"}  # fmt: skip
    made = {
        "made_of": store.made_of(row, setup),
        "machine": {"processor": "a processor"},
        "size_bytes": size,
        "bits_per_weight": 8.0,
        "texts": {"wiki": text(wiki), "sotu": text(wiki + 1)},
        "tasks": {"piqa": task, "openbookqa": task},
    }
    if row.method:
        made |= {"layer_bits_per_weight": bits, "time_s": 90.0, "report": {}}
    if torch:
        made["torch"] = {"wiki": text(torch)}
    return made


@pytest.fixture
def out(tmp_path):
    for name, wiki, size, bits in (
        ("float", 20, 300, None),
        ("rtn-w4", 34, 90, 4.3),
        ("rtn-w3", 72, 70, 3.3),
        ("gptq-w4", 30, 90, 4.3),
        ("gptq-w3", 42, 70, 3.3),
        ("mixed-as-gptq-w3", 41, 69, 3.3),
        ("rtn-w2", 1e6, 60, 2.3),
    ):
        torch = wiki * 1.001 if name == "gptq-w3" else None
        made = result(ROWS[name], SETUP, wiki, size * 10**6, bits, torch)
        store.write(store.folder(tmp_path, "smollm2", ROWS[name]) / "result.json", made)
    return tmp_path


def test_every_row_names_a_scheme_or_formats_that_are_there():
    for row in ROWS.values():
        assert row.group in GROUPS
        if row.scheme:
            scheme.find(row.scheme)
        for name in row.blocks:
            assert pack.FORMATS[name].scale_inside
        if row.bits_of:
            assert ROWS[row.bits_of].scheme
        ways = (bool(row.scheme), bool(row.blocks), row.mixed)
        assert sum(ways) == (1 if row.method else 0), row.name


def test_what_is_finished_is_not_done_again(out):
    wanted = [row.name for _, row in run.wanted(out, SETUP)]
    assert "gptq-w3" not in wanted
    assert "hqq-w3" in wanted
    assert wanted.index("gptq-w2") < wanted.index("mixed-as-gptq-w2")


def test_a_row_that_has_changed_is_done_again(out, monkeypatch):
    changed = replace(ROWS["gptq-w3"], options={"damping": 0.1})
    assert store.result(out, "smollm2", changed, SETUP) is None
    told = replace(ROWS["gptq-w3"], words="said otherwise")
    assert store.result(out, "smollm2", told, SETUP) is not None
    assert store.result(out, "smollm2", ROWS["gptq-w3"], replace(SETUP, items=5)) is None


def test_the_folder_of_another_row_makes_way(tmp_path):
    row = ROWS["gptq-w3"]
    folder = store.claim(tmp_path, "smollm2", row, SETUP)
    (folder / "work").mkdir()
    assert (store.claim(tmp_path, "smollm2", row, SETUP) / "work").exists()
    store.claim(tmp_path, "smollm2", replace(row, windows=8), SETUP)
    assert not (folder / "work").exists()


def test_the_front_is_what_nothing_beats(out):
    rows = numbers.collect(out, SETUP)["models"]["smollm2"]["rows"]
    front = {name for name, x in rows.items() if x["front"]}
    assert front == {"gptq-w4", "mixed-as-gptq-w3", "rtn-w2"}


def verdicts(out):
    table = numbers.collect(out, SETUP)["models"]["smollm2"]
    return {claim.says: claims.found(claim, table) for claim in claims.CLAIMS}


def verdict(out, begin):
    found = [words for says, words in verdicts(out).items() if says.startswith(begin)]
    assert len(found) == 1
    return found[0]


LIMIT = "GPTQ at 3 bits, 64 windows of 512 tokens: perplexity at most 43, in at most 150 s."


def test_claims_are_held_against_the_numbers(out):
    said = verdicts(out)
    assert said[LIMIT] == "yes: `gptq-w3` 42.00 in 90 s"
    assert said["The best method of all at 3 bits: perplexity at most 38."].startswith("NO")
    assert said["Act-order is not worse."] == claims.MISSING
    assert verdict(out, "Engine and torch").startswith("yes")
    mixed = said["Mixed precision is above every uniform row of its size."]
    assert mixed.startswith(
        "so far yes: `mixed-as-gptq-w3` 41 at 3.300 bits, best of 2 uniform `gptq-w3`"
    )


def test_a_claim_that_part_of_is_missing_says_so(out):
    said = verdict(out, "GPTQ is below RTN")
    assert said.startswith("so far yes: `gptq-w4` 30, `rtn-w4` 34; `gptq-w3` 42, `rtn-w3` 72 (not")
    assert "`gptq-w2`" in said
    assert "`rtn-w2`" not in said
    rewrite(out, "gptq-w4", 35)
    said = verdict(out, "GPTQ is below RTN")
    assert said.startswith("NO: `gptq-w4` 35, `rtn-w4` 34 (NO); `gptq-w3` 42, `rtn-w3` 72 (not")


def test_a_claim_that_fails_says_no(out):
    rewrite(out, "gptq-w3", 44)
    assert verdict(out, "GPTQ at 3 bits") == "NO: `gptq-w3` 44.00 in 90 s"
    rewrite(out, "mixed-as-gptq-w3", 45)
    assert verdict(out, "Mixed").startswith("NO")
    rewrite(out, "gptq-w3", 44, torch=44.5)
    assert verdict(out, "Engine") == "NO: `gptq-w3` -1.12 %"


def test_codes_of_four_bits_may_differ_as_torch_does_from_itself(out):
    rewrite(out, "quarot-w4a4", 51, torch=50)
    assert "`quarot-w4a4` +2.00 %" in verdict(out, "Engine")
    assert verdict(out, "Engine").startswith("NO")
    path = store.folder(out, "smollm2", ROWS["quarot-w4a4"]) / "result.json"
    store.write(path, store.read(path) | {"torch_nudged": [49.5, 50.5]})
    assert verdict(out, "Engine").startswith("yes")
    said = "`quarot-w4a4` +2.00 % of the mean of 3 runs of torch, which differ by 1.00 %"
    assert said in verdict(out, "Engine")
    store.write(path, store.read(path) | {"torch_nudged": [49.9, 50.1]})
    assert verdict(out, "Engine").startswith("NO")


def rewrite(out, name, wiki, torch=None, **errors):
    made = result(ROWS[name], SETUP, wiki, 70 * 10**6, torch=torch)
    made["errors"] = errors
    store.write(store.folder(out, "smollm2", ROWS[name]) / "result.json", made)


def test_ternary_is_held_against_the_ratios_of_errors(out):
    begin = "The weight error of two planes"
    rewrite(out, "ternary-absmean", 900, output=0.5, weight=0.6)
    assert verdict(out, begin) == claims.MISSING
    rewrite(out, "ternary", 500, output=0.26, weight=0.6)
    rewrite(out, "ternary-planes", 60, output=0.1, weight=0.21)
    assert verdict(out, "Its output error") == "yes: `ternary` 0.26, `ternary-absmean` 0.5"
    assert verdict(out, begin) == "NO: `ternary-planes` 0.21, `ternary-absmean` 0.6"


def beside(project, theirs, ours):
    def side(wiki, time_s):
        text = {"perplexity": wiki, "nll_per_token": math.log(wiki)}
        return {"texts": {"wiki": text, "sotu": text}, "time_s": time_s, "processor_s": 2 * time_s,
                "peak_memory_bytes": 10**9, "weight_error": wiki / 100}  # fmt: skip

    return {"made_of": {"limit_chars": None}, "project": project, "version": "1.2", "words": "how",
            **side(*theirs), "ours": side(*ours)}  # fmt: skip


def test_peers_are_claimed_and_shown(out, tmp_path):
    assert verdict(out, "GPTQ of others: our seconds") == claims.MISSING
    peers = {
        "llm-compressor-w3": beside("llm-compressor", (44.5, 471), (33.0, 140)),
        "ggml-q4_k": beside("ggml", (25.0, 8), (25.05, 9)),
        "ggml-q3_k": beside("ggml", (40.0, 8), (35.0, 7))
        | {"made_of": {"limit_chars": 99}},  # of a shorter text: not on this page
    }
    store.write(out / "smollm2" / "peers.json", peers)
    said = verdict(out, "GPTQ of others, same weights")
    assert said == "yes: llm-compressor-w3 44.5, ours 33"
    said = verdict(out, "GPTQ of others: our seconds")
    assert said == "yes: llm-compressor-w3 471, ours 140"
    assert verdict(out, "ggml's quantizers: our perplexity").startswith("yes")
    assert verdict(out, "ggml's quantizers, same") == "NO: ggml-q4_k 0.25, ours 0.2505"
    assert verdict(out, "ggml's quantizers: our seconds") == "NO: ggml-q4_k 8.0, ours 9.0"
    peers["ggml-tq2_0"] = beside("ggml", (2e6, 2), (6e6, 1))
    store.write(out / "smollm2" / "peers.json", peers)
    said = verdict(out, "ggml's quantizers: our perplexity")
    assert said.startswith("yes: ggml-q4_k 25, ours 25.05; ggml-tq2_0 2e+06, ours 6e+06 (both lost")
    page.write(out, SETUP, tmp_path / "docs")
    text = (tmp_path / "docs" / "ptq.md").read_text()
    assert "| llm-compressor 1.2 | how | 44.50 | 33.00 | 44.50 | 33.00 | 7.8 | 2.3 |" in text
    assert "| how | 0.25000 | 0.25050 | 25.00 | 25.05 |" in text
    assert "0.35" not in text


def test_the_front_has_a_table_of_its_own_by_size(out, tmp_path):
    page.write(out, SETUP, tmp_path / "docs")
    text = (tmp_path / "docs" / "ptq.md").read_text()
    front = text.split("### The front")[1].split("###")[0]
    places = [front.index(f"`{name}`") for name in ("rtn-w2", "mixed-as-gptq-w3", "gptq-w4")]
    assert places == sorted(places)
    assert "rtn-w4" not in front


def test_the_page_has_a_line_for_each_row_and_a_figure(out, tmp_path):
    written = page.write(out, SETUP, tmp_path / "docs")
    assert "1 figures" in written
    text = (tmp_path / "docs" / "ptq.md").read_text()
    assert "| **`gptq-w4`** | GPTQ, 4 bits | 4.30 | 8.00 | 90.0 | 1.5 | 30.00 |" in text
    assert "| `rtn-w2` |" in text or "| **`rtn-w2`** |" in text
    assert "1e+06" in text
    assert "60.0 ± 1.0" in text
    assert (tmp_path / "docs" / "ptq" / "smollm2.png").stat().st_size > 10_000
    found = json.loads((tmp_path / "docs" / "ptq" / "numbers.json").read_text())
    assert found["models"]["smollm2"]["rows"]["gptq-w3"]["front"] is False


def test_unknown_rows_and_models_are_named(tmp_path):
    with pytest.raises(OptionError, match="'gptq-w9' is no row"):
        run.everything(tmp_path, Setup(rows=("gptq-w9",)))
    with pytest.raises(OptionError, match="'gpt-2' is no model"):
        run.everything(tmp_path, Setup(models=("gpt-2",), rows=("float",)))
