"""The plan file: read, written, edited, and what it means for a layer."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onebit import scheme
from onebit.errors import FormatError, MissingError, OnebitError, OptionError
from onebit.ptq import plan
from onebit.ptq.plan import Held, Plan
from onebit.ptq.size import size_bytes
from onebit.scheme import FP

LAYERS = [
    f"model.layers.{i}.{name}"
    for i in range(3)
    for name in ("self_attn.q_proj", "self_attn.o_proj", "mlp.up_proj", "mlp.down_proj")
]
EDITED = """
name = "by hand"
kv_bits = 8
[layers]
"model.layers.0.mlp.down_proj" = "q4_k"   # a comment
"*.down_proj" = "w4a16-g64"
"model.layers.2.*" = "keep"
"*.o_proj" = "f16"
"*" = "w2a16-g64"
[made]
note = "nothing reads this"
bits = 2.5
"""


def test_an_edited_file_says_what_each_layer_is(tmp_path):
    (tmp_path / "p.toml").write_text(EDITED)
    p = plan.read(tmp_path / "p.toml")
    assert p.held("model.layers.0.mlp.down_proj") == Held(FP, "q4_k")
    assert p.held("model.layers.2.mlp.down_proj").scheme.weight == "int4"  # the first line counts
    assert p.held("model.layers.2.mlp.up_proj") == Held(FP, "keep")
    assert p.held("model.layers.1.self_attn.o_proj") == Held(FP, "f16")
    assert p.made == {"note": "nothing reads this", "bits": 2.5}

    made = p.scheme(LAYERS)
    assert (made.name, made.kv_bits) == ("by hand", 8)
    for layer in LAYERS:
        assert made.linear(layer) == p.held(layer).scheme
    assert made.linear("lm_head") == made.linear("model.embed_tokens") == FP
    assert scheme.Scheme.from_dict(made.to_dict()) == made


def test_what_is_written_is_read_back(tmp_path):
    p = Plan('a "b" \\ é', {"*.q_proj": "w3a16-g64", "*": "q6_k"}, 4, {"bits": 3.25, "n": 7})
    p.write(tmp_path / "p.toml", {"*.q_proj": "3.375 bits"})
    assert plan.read(tmp_path / "p.toml") == p
    assert '"*.q_proj" = "w3a16-g64"  # 3.375 bits\n' in (tmp_path / "p.toml").read_text()


names = st.text(
    st.characters(categories=["L", "N", "P", "S", "Zs"]), min_size=1, max_size=20
).filter(str.isprintable)


@given(names, st.dictionaries(names, st.sampled_from(["keep", "w1.58a8-row", "q8_0"]), min_size=1))
def test_any_names_are_read_back(name, layers):
    import tomllib

    p = Plan(name, layers)
    assert plan.from_dict(tomllib.loads(p.to_toml())) == p


def test_the_line_for_the_rest_is_not_meant_for_the_head():
    made = Plan("p", {"*": "w4a8-row"}).scheme([*LAYERS, "lm_head"])
    assert set(made.layers) == {"body"}
    assert made.linear("lm_head") == FP
    made = Plan("p", {"lm_head": "w8a8-row", "*": "w4a8-row"}).scheme([*LAYERS, "lm_head"])
    assert set(made.layers) == {"lm_head", "body"}
    assert made.linear("lm_head").weight == "int8"


def test_uniform_plans():
    assert plan.uniform("w4a4kv4").kv_bits == 4
    assert plan.uniform("w4a4kv4").scheme(LAYERS).linear(LAYERS[0]).activation == "int4_absmax"
    assert plan.uniform("q4_k").held(LAYERS[0]) == Held(FP, "q4_k")


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ({"*.v_proj": "w4a16", "*": "keep"}, "does nothing: no layer is called so"),
        ({"*_proj": "w4a16", "*.up_proj": "keep"}, "does nothing: lines above it take"),
        ({"*.up_proj": "w4a16"}, "no line fits model.layers.0.self_attn.q_proj"),
    ],
)
def test_slips_of_the_pen_are_refused(layers, message):
    with pytest.raises(OptionError, match=message):
        Plan("p", layers).scheme(LAYERS)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = [", "not valid TOML"),
        ("layers = 3", "layers or made"),
        ("name = 'p'", r"p\.toml: has no \[layers\]"),
        ("", r"p\.toml: has no \[layers\]"),
        ("[layers]\n[colour]\n", "'colour'"),
        ("[layers]\n", "is empty"),
        ("[layers]\n'*' = 3", r"p\.toml: line .* = 3: accepted is the name of"),
        ("[layers]\n'*' = 'w9a16'", r"p\.toml: line .*: 'w9a16' is not a scheme"),
        ("[layers]\n'*' = 'w4a4kv4'", "kv_bits is 16"),
        ("kv_bits = 5\n[layers]\n'*' = 'w4a16'", "kv_bits is 5"),
        ("name = 5\n[layers]\n'*' = 'w4a16'", "5 is no name"),
    ],
)
def test_what_is_no_plan_is_one_line(tmp_path, text, message):
    (tmp_path / "p.toml").write_text(text)
    with pytest.raises((OptionError, FormatError), match=message) as error:
        plan.read(tmp_path / "p.toml")
    assert "\n" not in str(error.value)


def test_a_mark_of_the_editor_and_a_name_from_the_file(tmp_path):
    (tmp_path / "mine.toml").write_text("[layers]\r\n'*' = 'w4a16-g64'\r\n", "utf-8-sig")
    assert plan.read(tmp_path / "mine.toml").name == "mine"


def test_a_line_for_the_embedding_says_where_that_goes():
    with pytest.raises(OptionError, match=r"are not in a plan; --embed says their format"):
        Plan("p", {"model.embed_tokens": "q8_0", "*": "w4a16"}).scheme(LAYERS)


def test_files_that_are_not_there_or_too_large(tmp_path, monkeypatch):
    with pytest.raises(MissingError):
        plan.read(tmp_path / "p.toml")
    with pytest.raises(OnebitError):
        plan.read(tmp_path)
    monkeypatch.setattr(plan, "MAX_BYTES", 10)
    (tmp_path / "p.toml").write_text(EDITED)
    with pytest.raises(FormatError, match="over 10 bytes"):
        plan.read(tmp_path / "p.toml")


@pytest.mark.parametrize(
    ("word", "bits"),
    [
        ("w4a16-g64", 4 + 20 / 64),
        ("w4a16-g64-sym", 4 + 16 / 64),
        ("w8a8-row", 8 + 24 / 1536),
        ("w4a8-tensor-sym", 4 + 32 / (64 * 1536)),
        ("q4_k", 4.5),
        ("q8_0", 8.5),
        ("f16", 16),
    ],
)
def test_sizes_count_the_factors(word, bits):
    held = plan.uniform(word).held("model.layers.0.mlp.down_proj")
    assert size_bytes(held, 64, 1536) * 8 == bits * 64 * 1536


def test_what_is_kept_has_its_own_size():
    with pytest.raises(OptionError, match="in its file"):
        size_bytes(Held(FP, "keep"), 8, 64)
