"""Long arrays of a GGUF head: passed over at once, decoded when looked at."""

import struct

import numpy as np
import pytest

from onebit.errors import FormatError
from onebit.io import gguf
from onebit.io.gguf_metadata import Metadata, find_strings


def packed(strings):
    return b"".join(struct.pack("<Q", len(raw)) + raw for raw in strings)


def texts(rng, count, longest):
    letters = np.array(list("ab\0 ü€𝄞"))
    lengths = rng.integers(0, longest, count)
    return ["".join(rng.choice(letters, n)) for n in lengths]


# short ones; with empty ones and zeros inside; some of 256 bytes and more; a long one alone
@pytest.mark.parametrize(("count", "longest"), [(3000, 12), (500, 2), (300, 400), (1, 5000)])
def test_the_walk_finds_each_string(count, longest):
    strings = texts(np.random.default_rng(count), count, longest)
    raw = [s.encode() for s in strings]
    data = np.frombuffer(b"before" + packed(raw) + b"\0" * 40, np.uint8)
    found = find_strings(data, 6, count)
    assert found.end == 6 + len(packed(raw))
    assert found.decode(data.data) == strings
    assert found.first_not_text(data.data) is None


def test_none_of_a_million_bytes_of_zeros_is_lost():
    data = np.zeros(1 << 20, np.uint8)
    assert find_strings(data, 0, 1 << 17).end == 1 << 20
    assert find_strings(data, 0, (1 << 17) + 1) is None


@pytest.mark.parametrize("raw", [b"", b"\xff", b"\x7f" * 7, struct.pack("<Q", 2**63), b"\5" * 8])
def test_an_end_before_the_last_string(raw):
    data = np.frombuffer(packed([b"a", b"bc"]) + raw, np.uint8)
    assert find_strings(data, 0, 3) is None


@pytest.mark.parametrize("size", [2, 200, 300])
@pytest.mark.parametrize("place", [0, 7, 19])
@pytest.mark.parametrize("bad", [b"\xff", b"\xc3", b"\x80"])
def test_what_is_no_text_is_found(size, place, bad):
    """A sequence that is cut at the end of its string, or begun in the one before, is no text."""
    raw = [b"x" * size] * 20
    raw[place] = b"y" * (size - 1) + bad
    data = np.frombuffer(packed(raw), np.uint8)
    assert find_strings(data, 0, 20).first_not_text(data.data) == place


def test_it_is_refused_on_opening(tmp_path):
    with gguf.Writer(tmp_path / "m.gguf", {"k": ["one", "twü", "three"]}, []):
        pass
    raw = (tmp_path / "m.gguf").read_bytes().replace("ü".encode(), b"\xc3x")
    (tmp_path / "m.gguf").write_bytes(raw)
    with pytest.raises(FormatError, match="'element 1 of k' is no UTF-8"):
        gguf.Reader(tmp_path / "m.gguf")


def test_a_value_is_made_once_and_a_part_makes_none():
    made = []
    metadata = Metadata()
    metadata.set("a.x", 1)
    metadata.set_later("a.y", lambda: made.append(1) or [2])
    metadata.set("b", 3)
    part = metadata.part("a.")
    assert "a.y" in part
    assert list(part) == ["a.x", "a.y"]
    assert made == []
    assert part == {"a.x": 1, "a.y": [2]}
    assert metadata == {"a.x": 1, "a.y": [2], "b": 3}
    assert made == [1]
    with pytest.raises(KeyError):
        metadata["c"]
