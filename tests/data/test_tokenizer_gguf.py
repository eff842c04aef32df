"""GGUF vocabularies: SentencePiece against a slow reference, all cuts, and hostile metadata."""

import re
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onebit.data import Tokenizer, bpe
from onebit.data.token_text import BYTE_OF
from onebit.errors import FormatError, OnebitError, UnsupportedError

LETTERS = "▁abcdehlorst"
WORDS = [
    *("▁the", "▁t", "he", "▁a", "at", "▁c", "▁ca", "▁cat", "or", "▁or", "ll", "hell"),
    *("hello", "▁hello", "ed", "▁▁", "st", "est", "lo", "er"),
]
CONTROL = ["<unk>", "<s>", "</s>"]
BYTES = [f"<0x{b:02X}>" for b in range(256)]


def sentencepiece(**changes):
    """The metadata of a small vocabulary; scores fall in the order of `WORDS`, all different."""
    tokens = [*CONTROL, *BYTES, *WORDS, *LETTERS, "[turn]"]
    scores = [0.0] * 259 + [-float(i) for i in range(len(WORDS))] + [-1e4] * len(LETTERS) + [0.0]
    types = [2, 3, 3] + [6] * 256 + [1] * (len(WORDS) + len(LETTERS)) + [4]
    metadata = {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.scores": scores,
        "tokenizer.ggml.token_type": types,
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.unknown_token_id": 0,
    }
    metadata |= {f"tokenizer.ggml.{key}": value for key, value in changes.items()}
    return {key: value for key, value in metadata.items() if value is not None}


def merge_slowly(text: str, prefix: bool) -> list[int]:
    """SentencePiece BPE as its paper tells it: join the best-scoring neighbours, leftmost first."""
    ids = {word: i + 259 for i, word in enumerate([*WORDS, *LETTERS])}
    symbols = list(("▁" if prefix and text else "") + text.replace(" ", "▁"))
    while True:
        joined = [ids.get(a + b, 1 << 30) for a, b in pairwise(symbols)]
        if not joined or min(joined) == 1 << 30:
            break
        i = joined.index(min(joined))
        symbols[i : i + 2] = ["".join(symbols[i : i + 2])]
    found = []
    for symbol in symbols:
        found += [ids[symbol]] if symbol in ids else [b + 3 for b in symbol.encode()]
    return found


PREFIXED, BARE = (Tokenizer.load(sentencepiece(add_space_prefix=on)) for on in (True, False))


@given(st.text("abcdehlorst  é🙂\n", max_size=40), st.booleans())
@settings(max_examples=400, deadline=None)
def test_sentencepiece_against_the_slow_reference(text, prefix):
    tokenizer = PREFIXED if prefix else BARE
    ids = tokenizer.encode(text)
    assert ids == merge_slowly(text, prefix)
    assert tokenizer.decode(ids) == text


def test_sentencepiece_details():
    assert PREFIXED.add_bos  # what llama.cpp takes for granted where the file is silent
    assert not Tokenizer.load(sentencepiece(add_bos_token=False)).add_bos
    ids = PREFIXED.encode("hello", bos=True)
    assert ids == [1, 259 + WORDS.index("▁hello")]
    assert PREFIXED.decode(ids) == "hello"
    follow = PREFIXED.decoder()
    assert "".join(follow.feed(i) for i in ids) == " hello"  # goes on from a prompt
    turn = PREFIXED.vocab_size - 1
    assert turn in PREFIXED.encode("a[turn]b")  # user-defined tokens are ordinary text
    assert 2 not in PREFIXED.encode("</s>")
    assert PREFIXED.encode("</s>", special=True) == [2]


def test_sentencepiece_saved_for_transformers(tmp_path):
    from transformers import PreTrainedTokenizerFast

    PREFIXED.save(tmp_path)
    theirs = PreTrainedTokenizerFast.from_pretrained(tmp_path)
    again = Tokenizer.load(tmp_path)
    assert again.add_bos
    for text in ["hello the cat", "  two", "é🙂", ""]:
        assert theirs.encode(text) == PREFIXED.encode(text, bos=True)
        assert again.encode(text) == PREFIXED.encode(text)
        assert again.decode(again.encode(text)) == text
    assert PREFIXED.to_gguf() == sentencepiece(add_space_prefix=True)


@pytest.mark.parametrize("prefix", [True, False])
def test_sentencepiece_of_a_folder_goes_into_gguf(tmp_path, prefix):
    """A folder has the order of pairs and no scores; scores that give the order do as well."""
    source = sentencepiece(add_space_prefix=prefix)
    source["tokenizer.ggml.tokens"][-1] = "▁▁▁"
    tokenizer = Tokenizer.load(source)
    tokenizer.save(tmp_path)
    metadata = Tokenizer.load(tmp_path).to_gguf()
    for key in ("tokens", "token_type", "add_space_prefix", "unknown_token_id", "bos_token_id"):
        found = metadata[f"tokenizer.ggml.{key}"]
        assert np.array_equal(found, source[f"tokenizer.ggml.{key}"]), key
    assert metadata["tokenizer.ggml.model"] == "llama"
    again = Tokenizer.load(metadata)
    assert again.add_bos
    for text in ["hello the cat", "  two   three", "é🙂", "", "</s>"]:
        assert again.encode(text) == tokenizer.encode(text)


def test_user_defined_spaces_match_real_spaces():
    metadata = sentencepiece()
    metadata["tokenizer.ggml.tokens"][-1] = "▁▁▁"
    tokenizer = Tokenizer.load(metadata | {"tokenizer.ggml.add_space_prefix": False})
    last = tokenizer.vocab_size - 1
    assert tokenizer.encode("a   b") == [*BARE.encode("a"), last, *BARE.encode("b")]
    assert tokenizer.decode(tokenizer.encode("a   b")) == "a   b"


TEXT = " ".join(
    f"the cat sat on mat {i}, didn't it? {i**3}\n\nWE'LL  go x=={i};" for i in range(300)
)
TRAINED = Tokenizer.train([TEXT], 320).to_gguf()

# The words that each expression makes of one text, by hand from the expression.
CUTS = {
    "gpt-2": "It|'s| 1984|!!|\n|\n|ok|  | xDON|'|T",
    "smollm": "It|'s| |1|9|8|4|!!|\n|\n|ok|  | xDON|'|T",
    "llama-bpe": "It|'s| |198|4|!!\n\n|ok|  | xDON|'T",
    "qwen2": "It|'s| |1|9|8|4|!!\n\n|ok|  | xDON|'T",
    "default": "It|'|s| |198|4|!!|\n|\n|ok|  | xDON|'|T",
}


@pytest.mark.parametrize("pre", list(CUTS))
def test_cuts(pre):
    backend = bpe.build({}, [], pre)
    words = backend.pre_tokenizer.pre_tokenize_str("It's 1984!!\n\nok   xDON'T")
    texts = [bytes(BYTE_OF[char] for char in word).decode() for word, _ in words]
    assert "|".join(texts) == CUTS[pre]
    assert bpe.name_of(backend) == pre


def changed(base, **changes):
    return base | {f"tokenizer.ggml.{key}": value for key, value in changes.items()}


def test_aliases_and_missing_pre():
    for name, pre in [("deepseek-r1-qwen", "qwen2"), ("llama3", "llama-bpe"), ("gpt2", "gpt-2")]:
        assert bpe.name_of(Tokenizer.load(changed(TRAINED, pre=name))._plain) == pre
    silent = {k: v for k, v in TRAINED.items() if k != "tokenizer.ggml.pre"}
    assert bpe.name_of(Tokenizer.load(silent)._plain) == "default"
    tokens = ["<|begin_of_text|>", *TRAINED["tokenizer.ggml.tokens"][1:]]
    llama3 = Tokenizer.load(changed(silent, tokens=tokens))
    assert bpe.name_of(llama3._plain) == "llama-bpe"


def test_a_merge_cannot_spell_a_control_token():
    tokens = [*TRAINED["tokenizer.ggml.tokens"], "he!"]
    types = [*TRAINED["tokenizer.ggml.token_type"], 3]
    merges = ["he !", *TRAINED["tokenizer.ggml.merges"]]
    tokenizer = Tokenizer.load(changed(TRAINED, tokens=tokens, token_type=types, merges=merges))
    assert 320 not in tokenizer.encode("he!")
    assert tokenizer.encode("he!", special=True) == [320]


def test_numpy_metadata_is_accepted():
    types = np.array(TRAINED["tokenizer.ggml.token_type"], np.int32)
    same = changed(TRAINED, token_type=types, eos_token_id=np.uint32(0))
    assert Tokenizer.load(same).eos_ids == (0,)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": None}, "model is missing"),
        ({"model": 3}, "must be a text"),
        ({"tokens": None}, "must be a list"),
        ({"tokens": []}, "empty"),
        ({"tokens": "abc"}, "must be a list"),
        ({"tokens": [3] * 320}, r"tokens\[0\] is 3"),
        ({"tokens": ["a"] * 320}, "stands at 0 and again at 1"),
        ({"tokens": ["a" * 5000, *map(str, range(319))]}, "at most 4096"),
        ({"token_type": [1]}, "1 entries for 320"),
        ({"token_type": ["x"] * 320}, r"token_type\[0\]"),
        ({"token_type": [9] * 320}, "1 to 6"),
        ({"merges": None}, "merges is NoneType"),
        ({"merges": ["th"]}, r"merges\[0\]"),
        ({"merges": [7]}, r"merges\[0\]"),
        ({"merges": ["t zzz"]}, "must be two tokens"),
        ({"merges": ["q z"]}, "joined"),
        ({"eos_token_id": 320}, "0 to 319"),
        ({"eos_token_id": -1}, "0 to 319"),
        ({"bos_token_id": "x"}, "0 to 319"),
        ({"add_bos_token": "yes"}, "true or false"),
        ({"pre": 5}, "must be a text"),
    ],
)
def test_hostile_bpe_metadata(changes, message):
    with pytest.raises(FormatError, match=message):
        Tokenizer.load(changed(TRAINED, **changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"scores": None}, "scores is NoneType"),
        ({"scores": [0.0]}, "1 entries"),
        ({"scores": [float("nan")] * 292}, "finite"),
        ({"scores": ["x"] * 292}, "finite"),
        ({"unknown_token_id": 1000}, "unknown_token_id"),
    ],
)
def test_hostile_sentencepiece_metadata(changes, message):
    metadata = sentencepiece()
    assert len(metadata["tokenizer.ggml.tokens"]) == 292
    with pytest.raises(FormatError, match=message):
        Tokenizer.load(changed(metadata, **changes))


def test_sentencepiece_without_bytes_or_unknown():
    with pytest.raises(FormatError, match="neither an unknown token nor the byte <0x00>"):
        Tokenizer.load(
            sentencepiece(
                tokens=["▁", "a"],
                scores=[0, 0],
                token_type=[1, 1],
                bos_token_id=None,
                eos_token_id=None,
                unknown_token_id=None,
            )
        )


def test_unsupported_kinds_name_the_supported():
    with pytest.raises(UnsupportedError, match=r"gpt2 .* llama"):
        Tokenizer.load(changed(TRAINED, model="bert"))
    with pytest.raises(UnsupportedError, match=re.escape("gpt-2, smollm, llama-bpe, qwen2")):
        Tokenizer.load(changed(TRAINED, pre="falcon"))


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_random_damage_is_refused_or_harmless(data):
    base = dict(data.draw(st.sampled_from([TRAINED, sentencepiece()])))
    junk = st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-5, 400),
        st.floats(),
        st.text(max_size=4),
        st.lists(st.integers(-2, 9), max_size=4),
        st.lists(st.text(max_size=3), max_size=4),
    )
    for key in data.draw(st.lists(st.sampled_from(sorted(base)), min_size=1, max_size=3)):
        value = base[key]
        if isinstance(value, list | np.ndarray) and len(value) and data.draw(st.booleans()):
            value = list(value)
            value[data.draw(st.integers(0, len(value) - 1))] = data.draw(junk)
            base[key] = value
        else:
            base[key] = data.draw(junk)
    try:
        tokenizer = Tokenizer.load(base)
    except OnebitError:
        return
    assert all(0 <= i < tokenizer.vocab_size for i in tokenizer.encode("the cat 🙂"))
