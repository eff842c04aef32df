"""`make results-bitnet` from end to end: two arms of a tiny model, to the page, and again."""

import json
from dataclasses import replace

import pytest
from benchmarks.bitnet import arms, measure, page, run, store
from benchmarks.bitnet.arms import Setup

from onebit.errors import OptionError
from onebit.train.config import DataConfig, ModelConfig, OptimConfig


@pytest.fixture
def setup(text_folder):
    """Two arms on a text of a few kilobytes, twenty steps each, one learning rate."""
    return Setup(
        tokens=20 * 32,
        data=DataConfig(source=text_folder, held_out="every:4", vocab_size=300, context=16),
        model=ModelConfig(
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=1,
            num_attention_heads=1,
            hidden_act="relu2",
        ),
        optim=OptimConfig(batch=2),
        arms=("float", "b1.58-sub"),
        seeds=(0,),
        rates=(4e-3,),
    )


@pytest.fixture
def quick(monkeypatch):
    """Measurements of a few numbers each, of these two arms."""
    monkeypatch.setattr(measure, "SIZES", (0.0, 0.1, 0.3))
    monkeypatch.setattr(measure, "RATIOS", (3.0,))
    monkeypatch.setattr(measure, "ROUNDINGS", ("int4", "ternary"))
    monkeypatch.setattr(measure, "WINDOWS", 2)
    monkeypatch.setattr(measure, "ENGINE_WINDOWS", 1)


def _made(out, names):
    return {name: (out / name / "result.json").stat().st_mtime_ns for name in names}


def _read(path):
    return json.loads(path.read_text())


def test_from_nothing_to_the_page_and_again(setup, quick, tmp_path):
    out = tmp_path / "runs"
    run.everything(out, setup, workers=0)
    names = {folder.name for folder in out.glob("*-seed*")}
    assert names == {"float-lr0.004-seed0", "b1.58-sub-lr0.004-seed0"}
    measures = out / "b1.58-sub-lr0.004-seed0" / "measures"
    assert {f.stem for f in measures.iterdir()} == set(measure.KINDS)
    for pair in _read(measures / "engine.json").values():
        assert pair == 1 or pair["engine"] == pytest.approx(pair["torch"], abs=1e-3)

    page.write(out, setup, tmp_path / "page")
    text = (tmp_path / "page" / "bitnet.md").read_text()
    assert "| `b1.58-sub` | b1.58, sub-norms (2B4T) |" in text
    assert "`b1` was not run." in text
    assert (tmp_path / "page" / "bitnet" / "flatness.png").stat().st_size > 1000
    numbers = _read(tmp_path / "page" / "bitnet" / "numbers.json")
    of = numbers["arms"]["b1.58-sub"]
    score = store.score(out, store.parse("b1.58-sub-lr0.004-seed0"))
    assert of["mean"] == pytest.approx(score, rel=1e-6)  # the file has seven digits

    # again: nothing is trained; a changed arm is, the others not
    before = _made(out, names)
    run.everything(out, setup, workers=0)
    assert before == _made(out, names)
    changed = replace(arms.ARMS["b1.58-sub"], model={"mlp_bias": True})
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(arms.ARMS, "b1.58-sub", changed)
        patch.setattr(measure, "KINDS", {})
        run.everything(out, setup, workers=0)
        after = _made(out, names)
    assert {name for name in names if before[name] != after[name]} == {"b1.58-sub-lr0.004-seed0"}


def test_tables_of_the_methods_are_filled(tmp_path):
    (tmp_path / "b1.md").write_text("A\n<!-- numbers: b1 -->\nold\n<!-- end of numbers -->\nB\n")
    arm = {"words": "w", "mean": 1.5, "spread": 0.01, "diverged": 0, "lr": 0.002,
           "bits_per_byte": {"0": 1.5}}  # fmt: skip
    numbers = {"setup": {"tokens": 1e6, "bytes_per_token": 2.0}, "arms": {"b1": arm}}
    assert page.fill(tmp_path, numbers) == ["b1.md"]
    text = (tmp_path / "b1.md").read_text()
    assert "old" not in text
    assert "| `b1` | w | 1.5000 |" in text
    assert text.startswith("A\n<!-- numbers: b1 -->\n|")
    assert text.endswith("<!-- end of numbers -->\nB\n")
    assert page.fill(tmp_path, numbers) == []


def test_an_unknown_arm_is_one_line(setup, tmp_path, capsys):
    with pytest.raises(OptionError, match=r"'b9' is not an arm\. Known: float, float-sub, b1,"):
        run.everything(tmp_path, replace(setup, arms=("b9",)), workers=0)
    assert run.main(["--arms", "b9", "--out", str(tmp_path)]) == 1
    assert capsys.readouterr().err.startswith("'b9' is not an arm.")
