"""Embedding and head in blocks of codes: what is written, what is kept, and what is said."""

import numpy as np
import pytest
import torch

from onebit import LLM, models, pack, quant
from onebit.architecture import Architecture
from onebit.cli import main
from onebit.data import Tokenizer
from onebit.errors import ShapeError
from onebit.eval import rivals
from onebit.io import open_checkpoint
from onebit.models.export_weights import BLOCKS
from onebit.scheme import SCHEMES

TEXT = "the cat sat on the mat and the dog sat on the log. a fox ran to the box by the sea. "
EMBED = "model.embed_tokens.weight"


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return saved(tmp_path_factory.mktemp("source"), 256)


def saved(folder, hidden_size, **changes):
    tokenizer = Tokenizer.train([TEXT], 290)
    shape = {
        "vocab_size": tokenizer.vocab_size,
        "hidden_size": hidden_size,
        "intermediate_size": 256,
        "num_hidden_layers": 1,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": hidden_size // 4,
        "max_position_embeddings": 128,
    }
    model = models.build(Architecture(**(shape | changes)), SCHEMES["bitnet-b1.58"], seed=1)
    models.save(model, folder / "model", tokenizer)
    return folder / "model"


def embedding(path, name=EMBED):
    return open_checkpoint(path).tensor(name)


def values(path, name=EMBED):
    stored = embedding(path, name)
    return pack.decode(stored.format, stored.data, stored.shape)


@pytest.mark.parametrize("format", BLOCKS)
def test_the_file_holds_the_rounding_and_runs(source, tmp_path, format):
    report = models.export(source, tmp_path / "m.gguf", "t1_6", embed=format)
    assert (report.embed, embedding(tmp_path / "m.gguf").format) == (format, format)
    assert report.rounded_again == {}
    masters = torch.from_numpy(values(source))
    wanted = quant.dequantize(quant.blockwise.FORMATS[format](masters)).numpy()
    np.testing.assert_array_equal(values(tmp_path / "m.gguf"), wanted)
    with LLM(tmp_path / "m.gguf", kv_bits=32) as llm:
        tokens = llm.tokenizer.encode(TEXT)
        got = llm.logprobs(tokens)
    with torch.no_grad():
        logits = models.load(tmp_path / "m.gguf")(torch.tensor([tokens]))[0].double()
    chosen = torch.log_softmax(logits, dim=-1)[:-1].gather(1, torch.tensor(tokens)[1:, None])
    np.testing.assert_allclose(got, chosen[:, 0].numpy(), atol=5e-3)


@pytest.mark.parametrize("format", BLOCKS)
def test_codes_of_the_same_format_keep_their_bytes(source, tmp_path, format):
    for asked in (format, None):
        models.export(source, tmp_path / "a.gguf", "t2", embed=format, force=True)
        again = models.export(tmp_path / "a.gguf", tmp_path / "b.gguf", embed=asked, force=True)
        assert again.embed == format
        assert again.rounded_again == {}
        a, b = (embedding(tmp_path / f"{x}.gguf").data for x in "ab")
        np.testing.assert_array_equal(a, b)


def test_another_rounding_of_codes_is_said_aloud(source, tmp_path, capsys):
    models.export(source, tmp_path / "a.gguf", "t2", embed="q8_0")
    count = int(np.prod(embedding(source).shape))
    report = models.export(tmp_path / "a.gguf", tmp_path / "b.gguf", embed="q4_0")
    assert report.rounded_again == {"q8_0 to q4_0": count}
    arguments = ["export", str(tmp_path / "a.gguf"), "-o", str(tmp_path / "c.gguf")]
    main([*arguments, "--embed", "q4_1"], standalone_mode=False)
    assert f"a second time: {count:,} weights, q8_0 to q4_1" in capsys.readouterr().out
    wide = models.export(tmp_path / "a.gguf", tmp_path / "d.gguf", embed="f32")  # loses nothing
    assert wide.rounded_again == {}


def test_embedding_and_head_may_keep_different_formats(tmp_path):
    source = saved(tmp_path, 256, tie_word_embeddings=False)
    models.export(source, tmp_path / "a.gguf", "t2", embed="q4_k")
    assert embedding(tmp_path / "a.gguf", "lm_head.weight").format == "q4_k"
    assert models.export(tmp_path / "a.gguf", tmp_path / "b.gguf", "t1_6").embed == "q4_k"


@pytest.mark.parametrize(("width", "default"), [(256, "q8_0"), (192, "q8_0"), (80, "f16")])
def test_the_default_is_the_smallest_that_fits_and_loses_nothing(tmp_path, width, default):
    report = models.export(saved(tmp_path, width), tmp_path / "m.gguf", "t1_6")
    assert report.embed == default


def test_a_width_that_fits_no_block_is_refused_with_what_fits(tmp_path):
    source = saved(tmp_path, 192)
    fits = "f32, f16, bf16, q8_0, q5_1, q5_0, q4_1, q4_0"
    with pytest.raises(
        ShapeError, match=f"{EMBED}: 192 columns do not fill q6_k's blocks of 256.*: {fits}"
    ):
        models.export(source, tmp_path / "m.gguf", "t1_6", embed="q6_k")


@pytest.mark.parametrize("format", ["q6_k", "q5_k", "q5_1", "q5_0", "q4_k", "q4_1", "q4_0"])
def test_llama_cpp_loads_it_and_says_the_same(source, tmp_path, format):
    """Both sides multiply the same weights with inputs that each rounds its own way."""
    pytest.importorskip("xllamacpp")
    path = tmp_path / "m.gguf"
    models.export(source, path, "tq2_0", embed=format)
    tokens = Tokenizer.load(open_checkpoint(path).tokenizer.source).encode(TEXT[:40])
    theirs = rivals.open_rival("llama.cpp", path, threads=1, context=128).top_logprobs(tokens, 5)
    with torch.no_grad():
        logits = models.load(path)(torch.tensor([tokens]))[0, -1]
    ours = torch.log_softmax(logits, dim=-1)
    for token, logprob in theirs.items():
        assert logprob == pytest.approx(float(ours[token]), abs=0.15)
