"""Recipes: what is read is what was written, and what cannot be used is refused in one line."""

import tomllib
from dataclasses import replace
from pathlib import Path

import pytest

from onebit.errors import FormatError, MissingError, OptionError
from onebit.scheme import SCHEMES, LinearScheme, Scheme
from onebit.train import recipe
from onebit.train.config import SCHEDULES, TrainConfig
from onebit.train.loop import check_sizes
from onebit.train.schedule import KINDS

SMALL = """
scheme = "bitnet-b1.58"
seed = 3
[model]
hidden_size = 64
intermediate_size = 128
num_hidden_layers = 2
num_attention_heads = 4
[data]
source = "some/text"
vocab_size = 300
[schedule]
lr = 2e-3
[budget]
steps = 20
"""
RECIPES = sorted((Path(__file__).parents[2] / "recipes").glob("*.toml"))


@pytest.fixture
def small(tmp_path):
    path = tmp_path / "small.toml"
    path.write_text(SMALL)
    return path


def test_reads_values_and_fills_in_defaults(small):
    config = recipe.read(small)
    assert config.scheme == SCHEMES["bitnet-b1.58"]
    assert (config.seed, config.model.hidden_size, config.schedule.lr) == (3, 64, 2e-3)
    assert (config.optim.beta1, config.optim.beta2) == (0.9, 0.95)
    assert config.schedule.kind == "two_stage"


def test_written_recipe_reads_back_equal(small, tmp_path):
    custom = Scheme(
        "mine",
        {"*.down_proj": LinearScheme("ternary", weight_scale="row"), "qkv": LinearScheme("binary")},
    )
    for config in (recipe.read(small), _with(small, scheme=custom), _with(small, seed=2**63 - 1)):
        copy = tmp_path / "copy.toml"
        copy.write_text(recipe.write(config))
        assert recipe.read(copy) == config


def _with(path, **changes):
    return TrainConfig(**{**vars(recipe.read(path)), **changes})


def test_overrides(small):
    config = recipe.read(
        small,
        [
            "schedule.lr=1e-3",
            "batch=4",
            "scheme=fp",
            'data.source="a b"',
            "tie_word_embeddings=false",
            "budget.steps=7",
        ],
    )
    assert config.schedule.lr == 1e-3
    assert config.optim.batch == 4
    assert config.scheme == SCHEMES["fp"]
    assert config.data.source == "a b"
    assert config.model.tie_word_embeddings is False
    assert config.steps == 7


def test_an_override_can_bring_a_table(small):
    small.write_text(SMALL.replace("[budget]\nsteps = 20", ""))
    assert recipe.read(small, ["budget.tokens=100000"]).budget.tokens == 100_000


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("schedule.speed=1", r"schedule\.speed is not a setting\. Accepted: lr, kind, lr_second"),
        ("colour=red", r"colour is not a setting\. Accepted: model, data, schedule, budget"),
        ("lr=fast", r"schedule\.lr is 'fast'; accepted: a number from 1e-09 to 1\."),
        ("lr=0", r"schedule\.lr is 0\.0; accepted: a number from 1e-09 to 1\."),
        ("lr=nan", r"schedule\.lr is nan"),
        ("lr=true", r"schedule\.lr is True"),
        ("batch=1.5", r"optim\.batch is 1\.5; accepted: a whole number from 1"),
        ("kind=linear", r"kind is 'linear'; accepted: \"two_stage\", \"cosine\""),
        ("scheme=bitnet-b9", "'bitnet-b9' is not a scheme. Known: fp, "),
        ("budget.tokens=5", r"\[budget\] has steps and tokens of .*; give exactly one"),
        ("data.tokenizer=x", r"\[data\] has vocab_size and tokenizer"),
        ("data=5", r"data is 5; accepted: a table \[data\]"),
        ("seed.deep=5", "seed is a value, not a table"),
        ("lr", r"'lr': write it as key=value"),
        ("=3", "write it as key=value"),
        ("source=\udcff", "is not UTF-8 text"),
        ("lr=" + "[" * 5000, "schedule.lr is '"),
        ("seed=" + "9" * 5000, "seed is '9"),
        ("scheme.layers.body.weight_scale=5", "scheme"),
        ("kind=cosine", None),
    ],
)  # fmt: skip
def test_bad_override(small, override, message):
    if message is None:
        assert recipe.read(small, [override]).schedule.kind == "cosine"
        return
    with pytest.raises(OptionError, match=message) as caught:
        recipe.read(small, [override])
    assert "\n" not in str(caught.value)


def test_a_missing_setting_is_named(small):
    small.write_text(SMALL.replace("hidden_size = 64\n", ""))
    with pytest.raises(OptionError, match=r"model\.hidden_size is missing"):
        recipe.read(small)


def test_lr_second_needs_two_stages(small):
    with pytest.raises(
        OptionError, match=r'lr_second is for kind "two_stage", and kind is "cosine"'
    ):
        recipe.read(small, ["kind=cosine", "lr_second=1e-3"])


def test_sizes_that_do_not_fit_are_refused(small):
    config = recipe.read(small, ["num_attention_heads=3"])
    with pytest.raises(OptionError, match="no multiple of 3 heads"):
        config.model.architecture(300, 64, None, ())


def test_files_that_are_no_recipe(tmp_path):
    path = tmp_path / "x.toml"
    with pytest.raises(MissingError, match="no such recipe"):
        recipe.read(path)
    for data in (b"lr = = 2", b"\xff\xfe", b"a = " + b"[" * 5000, b"a = " + b"9" * 5000):
        path.write_bytes(data)
        with pytest.raises(FormatError, match="not TOML"):
            recipe.read(path)
    path.write_bytes(b"#" * (1 << 21))
    with pytest.raises(FormatError, match="larger than"):
        recipe.read(path)


def test_differences_name_the_settings(small):
    a, b = recipe.read(small), recipe.read(small, ["lr=1e-3", "seed=4", "kind=cosine"])
    assert recipe.differences(a, b) == ["schedule.kind", "schedule.lr", "seed"]
    assert recipe.differences(a, a) == []


def test_find_knows_the_names_in_recipes(tmp_path, monkeypatch, small):
    monkeypatch.chdir(tmp_path)
    assert recipe.find(small) == small
    with pytest.raises(MissingError, match=r"demo: no such recipe\. Name a \.toml file\.$"):
        recipe.find(Path("demo"))
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes" / "demo.toml").write_text(SMALL)
    assert recipe.find(Path("demo")) == Path("recipes/demo.toml")
    with pytest.raises(MissingError, match=r"or one of recipes/: demo\."):
        recipe.find(Path("dem"))


def test_tokens_become_whole_steps(small):
    config = recipe.read(small, ["batch=2", "accumulate=3", "context=10"])
    assert config.tokens_per_step == 60
    assert _with_budget(small, 61).steps == 2


def _with_budget(path, tokens):
    path.write_text(SMALL.replace("steps = 20", f"tokens = {tokens}"))
    return recipe.read(path, ["batch=2", "accumulate=3", "context=10"])


def test_every_schedule_has_a_function():
    assert tuple(KINDS) == SCHEDULES


def test_a_named_scheme_takes_other_bits_of_keys():
    path = next(path for path in RECIPES if path.stem == "bitnet-v2")
    plain = recipe.read(path)
    config = recipe.read(path, ["scheme.kv_bits=4", "scheme.q_bits=8", "stages.0.scheme.kv_bits=3"])
    assert config.scheme == replace(SCHEMES["bitnet-v2-a4"], kv_bits=4, q_bits=8)
    assert config.stages[0].scheme == replace(SCHEMES["bitnet-v2-a8"], kv_bits=3)
    assert recipe.from_dict(tomllib.loads(recipe.write(config))) == config
    assert set(recipe.differences(plain, config)) >= {"scheme.kv_bits", "stages.0.scheme.kv_bits"}


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_the_recipes_we_ship_are_sound(path):
    config = recipe.read(path)
    check_sizes(config)
    assert config.model.hidden_size % 256 == 0
    assert config.model.intermediate_size % 256 == 0
    assert recipe.from_dict(tomllib.loads(recipe.write(config))) == config


def test_the_demo_twins_differ_in_scheme_and_learning_rate_only():
    twins = [recipe.read(path) for path in RECIPES if path.stem.startswith("demo-")]
    assert len(twins) == 2
    assert set(recipe.differences(*twins)) <= {"scheme", "schedule.lr"}


@pytest.mark.parametrize("source", ["a\x7fb", 'quote " and \\ and\nline', "é \u2028 😀"])
def test_any_string_comes_back(tiny_recipe, source):
    config = recipe.read(tiny_recipe)
    config = replace(config, data=replace(config.data, source=source))
    assert recipe.from_dict(tomllib.loads(recipe.write(config))) == config
