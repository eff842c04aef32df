"""The table of methods: what is wanted, what counts as finished, the page of made-up numbers."""

import json
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


def test_claims_are_held_against_the_numbers(out):
    rows = numbers.collect(out, SETUP)["models"]["smollm2"]["rows"]
    said = {claim.says: claims.found(claim, rows) for claim in claims.CLAIMS}
    assert said["GPTQ is below RTN at every number of bits."].startswith("yes: `gptq-w4` 30")
    limit = "GPTQ at 3 bits, 64 windows of 512 tokens: perplexity at most 43, in at most 150 s."
    assert said[limit] == "yes: `gptq-w3` 42.00 in 90 s"
    assert said["Act-order is not worse."] == claims.MISSING
    assert said["Engine and torch have the same perplexity, within 0.3 %."].startswith("yes")
    assert said["Mixed precision is above every uniform row of its size."].startswith("yes")
    rows["gptq-w3"]["wiki_perplexity"] = 44.0
    claim = next(claim for claim in claims.CLAIMS if claim.says == limit)
    assert claims.found(claim, rows) == "NO: `gptq-w3` 44.00 in 90 s"


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
