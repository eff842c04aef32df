"""Token files: what is written is read, windows are where they should be, damage is refused."""

import json

import numpy as np
import pytest

from onebit.data import Tokenizer
from onebit.data.blocks import TokenFile, write
from onebit.data.corpus import Document
from onebit.data.sampler import Sampler
from onebit.data.windows import windows
from onebit.errors import (
    FileError,
    FormatError,
    InputError,
    MissingError,
    OnebitError,
    OptionError,
    ShapeError,
)

TOKENIZER = Tokenizer.train(["the cat sat on the mat, the dog on the log. " * 20], 290)
TEXTS = [
    "the cat sat",
    "",
    "on the é 🙂 mat",
    "a <|endoftext|> b",
    *(f"dog {i}" for i in range(90)),
]
DOCUMENTS = [Document(f"d{i}", text) for i, text in enumerate(TEXTS)]


@pytest.fixture
def path(tmp_path):
    write(tmp_path / "x.tokens", DOCUMENTS, TOKENIZER)
    return tmp_path / "x.tokens"


def test_bytes_on_disk(tmp_path):
    file = write(tmp_path / "x", [Document("a", "ab"), Document("b", "é")], TOKENIZER)
    raw = (tmp_path / "x").read_bytes()
    ids = [*TOKENIZER.encode("ab"), 0, *TOKENIZER.encode("é"), 0]
    assert raw == b"".join(i.to_bytes(2, "little") for i in ids)
    assert json.loads((tmp_path / "x.json").read_text()) == {
        "format": "onebit-tokens-1",
        "dtype": "uint16",
        "vocab_size": TOKENIZER.vocab_size,
        "separator": 0,
        "tokenizer": TOKENIZER.fingerprint,
        "documents": {"name": ["a", "b"], "tokens": [3, 3], "bytes": [2, 2]},
    }
    assert sorted(p.name for p in tmp_path.iterdir()) == ["x", "x.json"]
    assert len(file) == 6
    assert file.size_bytes == 4


def test_documents_come_back(path):
    file = TokenFile(path)
    assert file.names == [d.name for d in DOCUMENTS]
    assert file.size_bytes == sum(len(text.encode()) for text in TEXTS)
    for i, text in enumerate(TEXTS):
        assert TOKENIZER.decode(file.document(i)) == text  # the end token in a text stays text
        assert file.tokens[file.starts[i + 1] - 1] == file.separator == 0
    assert int((file.tokens == 0).sum()) == len(TEXTS)
    file.check(TOKENIZER)
    with pytest.raises(InputError, match="another tokenizer"):
        file.check(Tokenizer.train(["x y"], 257))
    with pytest.raises(InputError, match="documents 0 to 93"):
        file.document(94)


def test_large_vocabulary_takes_four_bytes(tmp_path):
    class Large:
        vocab_size, eos_id, eos_ids, fingerprint = 70000, 69999, (69999,), "f"

        def encode_batch(self, texts):
            return [[65536 + len(text)] for text in texts]

        def token_bytes(self, i):
            return b"</s>"

    file = write(tmp_path / "x", [Document("a", "abc")], Large())
    assert file.tokens.dtype == np.dtype("<u4")
    assert file.batch([0], 1).tolist() == [[65539, 69999]]


def test_separator(tmp_path):
    assert write(tmp_path / "x", DOCUMENTS, TOKENIZER, separator=5).separator == 5
    with pytest.raises(OptionError, match="separator 290 is no id"):
        write(tmp_path / "x", DOCUMENTS, TOKENIZER, separator=290)
    metadata = TOKENIZER.to_gguf()
    del metadata["tokenizer.ggml.eos_token_id"]
    metadata["tokenizer.ggml.tokens"][0] = "<none>"
    with pytest.raises(OptionError, match="no end token"):
        write(tmp_path / "x", DOCUMENTS, Tokenizer.load(metadata))


def test_batch(path):
    file = TokenFile(path)
    batch = file.batch(np.array([0, 7, len(file) - 6]), 5)
    assert batch.dtype == np.int64
    assert batch.shape == (3, 6)
    for row, first in zip(batch, [0, 7, len(file) - 6], strict=True):
        assert row.tolist() == file.tokens[first : first + 6].tolist()
    assert file.batch([], 5).shape == (0, 6)
    for first in (-1, len(file) - 5):
        with pytest.raises(ShapeError, match="may begin at 0 to"):
            file.batch([first], 5)
    with pytest.raises(ShapeError):
        file.batch([0], 0)


def test_writing_again_replaces_and_failing_keeps(path):
    before = path.read_bytes()

    def broken():
        yield DOCUMENTS[0]
        raise ValueError("the source broke")

    with pytest.raises(ValueError, match="the source broke"):
        write(path, broken(), TOKENIZER)
    with pytest.raises(InputError, match="no documents"):
        write(path, [], TOKENIZER)
    with pytest.raises(InputError, match="UTF-8"):
        write(path, [Document("x", "\ud800")], TOKENIZER)
    assert path.read_bytes() == before
    assert sorted(p.name for p in path.parent.iterdir()) == ["x.tokens", "x.tokens.json"]
    assert len(write(path, DOCUMENTS[:1], TOKENIZER)) < len(before) // 2
    with pytest.raises(FileError, match="cannot be written"):
        write(path.parent / "none" / "x", DOCUMENTS, TOKENIZER)


def test_missing_halves(path):
    side = path.with_name("x.tokens.json")
    text = side.read_text()
    side.unlink()
    with pytest.raises(MissingError, match="never finished"):
        TokenFile(path)
    side.write_text(text)
    path.unlink()
    with pytest.raises(MissingError, match="cannot be opened"):
        TokenFile(path)


@pytest.mark.parametrize("change", [-1, -2, 1, 2])
def test_ids_cut_off_or_too_many(path, change):
    raw = path.read_bytes()
    path.write_bytes(raw[:change] if change < 0 else raw + b"\0" * change)
    with pytest.raises(FormatError, match="cut off or of another run"):
        TokenFile(path)


def test_an_id_outside_the_vocabulary(path):
    raw = bytearray(path.read_bytes())
    raw[4:6] = b"\xff\xff"
    path.write_bytes(raw)
    file = TokenFile(path)
    assert file.batch([3], 4).shape == (1, 5)
    with pytest.raises(FormatError, match="holds id 65535"):
        file.batch([0], 4)
    with pytest.raises(FormatError, match="holds id 65535"):
        file.document(0)


@pytest.mark.parametrize(
    "change",
    [
        {"format": "onebit-tokens-9"},
        {"dtype": "float32"},
        {"dtype": ["uint16"]},
        {"vocab_size": -1},
        {"vocab_size": 1 << 40},
        {"vocab_size": "many"},
        {"separator": 290},
        {"separator": True},
        {"documents": None},
        {"documents": {"name": ["a"], "tokens": [1, 2], "bytes": [3]}},
        {"documents": {"name": [], "tokens": [], "bytes": []}},
        {"documents": {"name": ["a"], "tokens": [-4], "bytes": [3]}},
        {"documents": {"name": ["a"], "tokens": [1 << 62], "bytes": [3]}},
        {"documents": {"name": ["a", "b"], "tokens": [1 << 48, 1 << 48], "bytes": [3, 3]}},
        {"documents": {"name": ["a"], "tokens": [4.5], "bytes": [3]}},
    ],
)
def test_damaged_sidecar(path, change):
    side = path.with_name("x.tokens.json")
    side.write_text(json.dumps(json.loads(side.read_text()) | change))
    with pytest.raises(FormatError, match=r"x\.tokens\.json: damaged"):
        TokenFile(path)


@pytest.mark.parametrize("text", ["", "{", "[]", "\xff", "[" * 100000, '{"format": 1}'])
def test_sidecar_that_is_no_json_of_ours(path, text):
    path.with_name("x.tokens.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(FormatError):
        TokenFile(path)


def test_truncated_sidecar_at_every_length(path):
    side = path.with_name("x.tokens.json")
    raw = side.read_bytes()
    for size in range(0, len(raw), 37):
        side.write_bytes(raw[:size])
        with pytest.raises(OnebitError):
            TokenFile(path)


def test_sampler_sees_everything_once_an_epoch(path):
    file = TokenFile(path)
    sampler = Sampler(file, length=8, batch_size=1, seed=3)
    epochs = []
    while sampler.state()["epoch"] < 3:
        state = sampler.state()
        batch = sampler.next_batch()
        if sampler.state()["epoch"] == len(epochs):
            epochs.append([])
        epochs[-1].append((state["position"], batch[0].tolist()))
    ids = file.tokens.tolist()
    orders = []
    for epoch in epochs[:3]:
        firsts = []
        for _, window in epoch:
            matches = [i for i in range(len(ids) - 8) if ids[i : i + 9] == window]
            assert matches
            firsts.append(matches[0])
        assert len(epoch) >= (len(ids) - 1) // 8 - 1
        orders.append(firsts)
    assert orders[0] != orders[1] != orders[2]


def test_sampler_windows_share_no_target(path):
    file = TokenFile(path)
    for epoch in range(5):
        sampler = Sampler(file, length=8, batch_size=4, seed=1)
        sampler.load_state({"seed": 1, "epoch": epoch, "position": 0})
        firsts = np.sort(sampler._order)
        assert set(np.diff(firsts)) == {8}
        assert 0 <= firsts[0] < 8
        assert len(file) - 8 <= firsts[-1] + 8 < len(file)


def test_sampler_repeats_and_resumes(path):
    file = TokenFile(path)
    long = Sampler(file, 8, 7, seed=5)
    batches = [long.next_batch() for _ in range(40)]  # several epochs
    assert all(batch.shape == (7, 9) for batch in batches)
    assert long.state()["epoch"] >= 2
    for stop in (0, 1, 13, 39):
        first = Sampler(file, 8, 7, seed=5)
        for _ in range(stop):
            first.next_batch()
        second = Sampler(file, 8, 7, seed=5)
        second.load_state(json.loads(json.dumps(first.state())))
        np.testing.assert_array_equal(second.next_batch(), batches[stop])
    other = Sampler(file, 8, 7, seed=6)
    assert not np.array_equal(other.next_batch(), batches[0])


def test_sampler_of_the_shortest_file(tmp_path):
    file = write(tmp_path / "x", [Document("a", "a" * 8)], TOKENIZER)
    sampler = Sampler(file, len(file) - 1, 2)
    assert sampler.next_batch().tolist() == [file.tokens.tolist()] * 2
    with pytest.raises(ShapeError, match="do not make one window"):
        Sampler(file, len(file), 2)


@pytest.mark.parametrize(("length", "batch", "seed"), [(0, 1, 0), (1, 0, 0), (1, 1, -1)])
def test_sampler_numbers(path, length, batch, seed):
    with pytest.raises(OptionError, match="accepted: at least 1, 1 and 0"):
        Sampler(TokenFile(path), length, batch, seed)


@pytest.mark.parametrize(
    "state",
    [
        {},
        {"seed": 1, "epoch": 0, "position": 0},
        {"seed": 0, "epoch": -1, "position": 0},
        {"seed": 0, "epoch": 0, "position": 1.5},
        {"seed": 0, "epoch": 0, "position": 10**9},
        {"seed": 0, "epoch": 10**30, "position": 0},
    ],
)
def test_sampler_impossible_states(path, state):
    with pytest.raises(OptionError, match="sampler: "):
        Sampler(TokenFile(path), 8, 2).load_state(state)


def test_windows():
    assert [w.tolist() for w in windows(range(7), 3)] == [[0, 1, 2], [3, 4, 5]]
    assert [w.tolist() for w in windows(range(5), 3)] == [[0, 1, 2], [3, 4]]
    assert [w.tolist() for w in windows(range(5), 3, bos=9)] == [[9, 0, 1], [9, 2, 3], [9, 4]]
    assert list(windows([], 3)) == []
    assert list(windows([5], 3)) == []
    assert next(windows([1, 2])).dtype == np.int64
    with pytest.raises(OptionError, match="at least 2"):
        list(windows([1, 2], 1))
