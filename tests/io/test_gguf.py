"""GGUF: bytes pinned, both ways with the `gguf` package, and one test per way to be broken."""

import struct

import gguf as reference
import numpy as np
import pytest

from onebit.errors import (
    FileError,
    FormatError,
    InputError,
    MissingError,
    OptionError,
    ShapeError,
    UnsupportedError,
)
from onebit.io import gguf

METADATA = {
    "general.architecture": "llama",
    "a.bool": True,
    "a.uint": 7,
    "a.int": -7,
    "a.large": 1 << 40,
    "a.float": 0.5,
    "a.text": "ü",
    "a.byte": np.uint8(3),
    "a.double": np.float64(0.1),
    "a.texts": ["x", "", "ü"],
    "a.ints": [1, -2],
    "a.floats": [0.5, 2],
    "a.bools": [True, False],
    "a.halves": np.array([1, 2], np.uint16),
    "a.none": np.array([], np.float32),
}
KINDS = {
    "general.architecture": "string",
    "a.bool": "bool",
    "a.uint": "uint32",
    "a.int": "int32",
    "a.large": "uint64",
    "a.float": "float32",
    "a.text": "string",
    "a.byte": "uint8",
    "a.double": "float64",
    "a.texts": "[string]",
    "a.ints": "[int32]",
    "a.floats": "[float32]",
    "a.bools": "[bool]",
    "a.halves": "[uint16]",
    "a.none": "[float32]",
}


def plain(value):
    return value.tolist() if isinstance(value, np.ndarray | np.generic) else value


def text(string):
    return struct.pack("<Q", len(string.encode())) + string.encode()


def build(tensors=(), keys=(), version=3, data=b"", alignment=32):
    """A GGUF file byte by byte. tensors: (name, dimensions, type id, offset); keys: raw bytes."""
    head = struct.pack("<4sIQQ", b"GGUF", version, len(tensors), len(keys)) + b"".join(keys)
    for name, widths, kind, offset in tensors:
        head += text(name) + struct.pack("<I", len(widths))
        head += struct.pack(f"<{len(widths)}Q", *widths) + struct.pack("<IQ", kind, offset)
    return head + bytes(-len(head) % alignment) + data


def write(path, raw):
    path.write_bytes(raw)
    return path


def write_one(path, array, kind="f32", metadata=None):
    with gguf.Writer(path, metadata or {}, [gguf.Declared("w", kind, array.shape)]) as writer:
        writer.write("w", array)
    return path


def test_bytes_are_these(tmp_path):
    """The container, pinned: a change here is a change of what others must read."""
    path = write_one(tmp_path / "m.gguf", np.array([[1, 2, 3]], "<f4"), metadata={"k": 5})
    key = text("k") + struct.pack("<II", 4, 5)
    data = struct.pack("<3f", 1, 2, 3) + bytes(20)
    assert path.read_bytes() == build([("w", (3, 1), 0, 0)], [key], data=data)


def test_all_metadata_types_come_back(tmp_path):
    with gguf.Writer(tmp_path / "m.gguf", METADATA, []):
        pass
    reader = gguf.Reader(tmp_path / "m.gguf")
    assert reader.kinds == KINDS
    assert reader.metadata == {key: plain(value) for key, value in METADATA.items()}


def test_a_copy_has_the_same_bytes(tmp_path):
    tensors = [gguf.Declared("b", "f16", (5,)), gguf.Declared("a", "q8_0", (3, 64))]
    rng = np.random.default_rng(0)
    with gguf.Writer(tmp_path / "m.gguf", METADATA, tensors) as writer:
        writer.write("a", rng.integers(0, 256, 3 * 68, dtype=np.uint8))  # any order will do
        writer.write("b", rng.normal(size=5).astype(np.float16))
    reader = gguf.Reader(tmp_path / "m.gguf")
    declared = [gguf.Declared(t.name, t.type.name, t.shape) for t in reader.tensors.values()]
    with gguf.Writer(tmp_path / "n.gguf", reader.metadata, declared, kinds=reader.kinds) as writer:
        for name in reader.tensors:
            writer.write(name, reader.data(name))
    assert (tmp_path / "n.gguf").read_bytes() == (tmp_path / "m.gguf").read_bytes()


def test_the_gguf_package_reads_ours(tmp_path):
    w = np.random.default_rng(1).normal(size=(4, 64)).astype(np.float32)
    packed = reference.quants.quantize(w, reference.GGMLQuantizationType.Q8_0)
    declared = [gguf.Declared("w", "f32", (4, 64)), gguf.Declared("q", "q8_0", (4, 64))]
    metadata = {key: value for key, value in METADATA.items() if key != "a.none"}
    with gguf.Writer(tmp_path / "m.gguf", metadata, declared) as writer:
        writer.write("w", w)
        writer.write("q", packed)
    theirs = reference.GGUFReader(tmp_path / "m.gguf")
    for key, value in metadata.items():
        assert theirs.fields[key].contents() == plain(value), key
    by_name = {tensor.name: tensor for tensor in theirs.tensors}
    np.testing.assert_array_equal(by_name["w"].data, w)
    np.testing.assert_array_equal(by_name["q"].data, packed)


def test_we_read_the_gguf_package(tmp_path):
    writer = reference.GGUFWriter(tmp_path / "m.gguf", "llama")
    writer.add_block_count(2)
    writer.add_token_list(["a", "ü", "<s>"])
    writer.add_token_scores([0.0, -1.0, -2.5])
    writer.add_custom_alignment(64)
    w = np.random.default_rng(2).normal(size=(3, 256)).astype(np.float32)
    kinds = ("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "TQ1_0", "TQ2_0", "BF16")
    wanted = {"f32": w, "f16": w.astype(np.float16), "i8": w.astype(np.int8)}
    for name, array in wanted.items():
        writer.add_tensor(name, array)
    for name in kinds:
        kind = reference.GGMLQuantizationType[name]
        wanted[name] = reference.quants.quantize(w, kind)
        writer.add_tensor(name, wanted[name], raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    reader = gguf.Reader(tmp_path / "m.gguf")
    assert reader.alignment == 64
    assert reader.metadata["llama.block_count"] == 2
    assert reader.metadata["tokenizer.ggml.tokens"] == ["a", "ü", "<s>"]
    assert reader.metadata["tokenizer.ggml.scores"] == [0.0, -1.0, -2.5]
    for name, array in wanted.items():
        assert reader.tensors[name].shape == (3, 256)
        assert reader.tensors[name].type.name == name.lower()
        assert reader.data(name).tobytes() == array.tobytes()


def test_sizes_agree_with_the_gguf_package():
    for kind, (block, block_bytes) in reference.GGML_QUANT_SIZES.items():
        name = kind.name.lower()
        if name != "mxfp4":  # a number that two projects use for two types
            ours = gguf.TENSOR_TYPES[kind.value]
            assert (ours.name, ours.block, ours.block_bytes) == (name, block, block_bytes)


def test_version_2_is_read(tmp_path):
    path = write(tmp_path / "m.gguf", build([("w", (2,), 0, 0)], version=2, data=bytes(8)))
    assert gguf.Reader(path).data("w").tolist() == [0] * 8


def test_a_file_of_metadata_alone_is_read(tmp_path):
    key = text("k") + struct.pack("<II", 4, 5)
    assert gguf.Reader(write(tmp_path / "m.gguf", build(keys=[key]))).metadata == {"k": 5}


def test_vocabulary_of_a_quarter_million_comes_back(tmp_path):
    tokens = [f"token{i}ü" for i in range(262_144)]
    with gguf.Writer(tmp_path / "m.gguf", {"tokenizer.ggml.tokens": tokens}, []):
        pass
    assert gguf.Reader(tmp_path / "m.gguf").metadata["tokenizer.ggml.tokens"] == tokens


def test_i2_s_is_told_from_the_old_type_of_its_number(tmp_path):
    tensors = [("w", (128, 2), 36, 0), ("v", (4,), 0, 96)]
    path = write(tmp_path / "m.gguf", build(tensors, data=bytes(96 + 16)))
    assert gguf.Reader(path).data("w").size == 128 * 2 // 4 + 32
    tensors = [("w", (128, 2), 36, 0), ("v", (4,), 0, 160)]
    path = write(tmp_path / "m.gguf", build(tensors, data=bytes(160 + 16)))
    with pytest.raises(UnsupportedError, match="old ggml type"):
        gguf.Reader(path).data("w")


# number 42: (block, bytes) of q2_0 in llama.cpp, of the fork's, and of an early stq1_0
@pytest.mark.parametrize(
    ("name", "block", "size"), [("q2_0", 64, 18), ("q2_0_g128", 128, 34), ("stq1_0", 256, 42)]
)
def test_types_that_share_a_number_are_told_by_their_room(tmp_path, name, block, size):
    of_w, of_v = 8 * 512 // block * size, 4 * 256 // block * size
    at_v = -(-of_w // 32) * 32
    tensors = [("w", (512, 8), 42, 0), ("v", (256, 4), 42, at_v)]
    reader = gguf.Reader(write(tmp_path / "m.gguf", build(tensors, data=bytes(at_v + of_v))))
    assert [reader.tensors[t].type.name for t in "wv"] == [name, name]
    assert [reader.tensors[t].size_bytes for t in "wv"] == [of_w, of_v]
    assert reader.data("v").size == of_v


def test_a_shared_number_with_no_type_of_that_room(tmp_path):
    tensors = [("w", (512, 8), 42, 0), ("v", (256, 4), 42, 4096)]
    reader = gguf.Reader(write(tmp_path / "m.gguf", build(tensors, data=bytes(8192))))
    with pytest.raises(UnsupportedError, match="q2_0 or another of its number, which is not read"):
        reader.data("w")
    tensors = [("w", (512, 8), 42, 0), ("v", (256, 4), 42, 1152)]
    with pytest.raises(FormatError, match="cut short or damaged"):
        gguf.Reader(write(tmp_path / "m.gguf", build(tensors, data=bytes(1152 + 30))))


def test_the_width_of_q2_0_that_is_written_is_read_back(tmp_path):
    for kind in ("q2_0", "q2_0_g128"):
        declared = [gguf.Declared("w", kind, (3, 640)), gguf.Declared("v", kind, (5, 128))]
        with gguf.Writer(tmp_path / "m.gguf", {}, declared) as writer:
            for tensor in declared:
                N, K = tensor.shape
                size = N * K // 64 * 18 if kind == "q2_0" else N * K // 128 * 34
                writer.write(tensor.name, np.full(size, 7, np.uint8))
        reader = gguf.Reader(tmp_path / "m.gguf")
        assert [info.type.name for info in reader.tensors.values()] == [kind, kind]
        assert (reader.data("v") == 7).all()


def test_a_type_of_two_meanings_opens_but_is_not_read(tmp_path):
    tensors = [("w", (128, 2), 39, 0), ("v", (4,), 0, 32)]
    reader = gguf.Reader(write(tmp_path / "m.gguf", build(tensors, data=bytes(48))))
    assert reader.data("v").size == 16
    with pytest.raises(UnsupportedError, match="mxfp4 or tl2, which is not read"):
        reader.data("w")


KEY = text("k") + struct.pack("<I", 4) + struct.pack("<I", 1)
BROKEN = {
    "empty": (b"", FormatError, "empty"),
    "another format": (b"PK\3\4" + bytes(60), FormatError, "starts with the letters GGUF"),
    "ends in the head": (b"GGUF\3\0\0\0\1", FormatError, "ends inside"),
    "version 1": (build(version=1), UnsupportedError, "version 1; read are versions 2 and 3"),
    "big-endian": (struct.pack(">4sIQQ", b"GGUF", 3, 0, 0), UnsupportedError, "big-endian"),
    "tensors": (struct.pack("<4sIQQ", b"GGUF", 3, 1 << 60, 0), FormatError, "tensors; a file"),
    "keys": (struct.pack("<4sIQQ", b"GGUF", 3, 0, 1 << 60), FormatError, "keys; a file"),
    "key twice": (build(keys=[KEY, KEY]), FormatError, "stands there twice"),
    "key length": (build(keys=[struct.pack("<Q", 1 << 62) + bytes(20)]), FormatError, "at most"),
    "value type": (build(keys=[text("k") + struct.pack("<II", 13, 0)]), FormatError, "type 13"),
    "text length": (
        build(keys=[text("k") + struct.pack("<IQ", 8, 1 << 40)]),
        FormatError,
        "ends inside 'k'",
    ),
    "text": (
        build(keys=[text("k") + struct.pack("<IQ", 8, 2) + b"\xff\xfe"]),
        FormatError,
        "'k' is no UTF-8",
    ),
    "array length": (
        build(keys=[text("k") + struct.pack("<IIQ", 9, 4, 1 << 61)]),
        FormatError,
        "ends inside 'k'",
    ),
    "string array": (
        build(keys=[text("k") + struct.pack("<IIQ", 9, 8, 1) + struct.pack("<Q", 1 << 63)]),
        FormatError,
        "ends inside 'k'",
    ),
    "string in array": (
        build(keys=[text("k") + struct.pack("<IIQQ", 9, 8, 1, 1) + b"\xff"]),
        FormatError,
        "element 0 of k' is no UTF-8",
    ),
    "arrays in array": (
        build(keys=[text("k") + struct.pack("<IIQ", 9, 9, 1)]),
        UnsupportedError,
        "array of arrays",
    ),
    "alignment": (
        build(keys=[text("general.alignment") + struct.pack("<II", 4, 24)]),
        FormatError,
        "power of two",
    ),
    "alignment's type": (
        build(keys=[text("general.alignment") + struct.pack("<If", 6, 32)]),
        FormatError,
        "power of two",
    ),
    "tensor twice": (
        build([("w", (2,), 0, 0), ("w", (2,), 0, 32)], data=bytes(64)),
        FormatError,
        "'w' stands there twice",
    ),
    "dimensions": (build([("w", (1,) * 5, 0, 0)], data=bytes(8)), FormatError, "5 dimensions"),
    "dimension of 0": (build([("w", (2, 0), 0, 0)]), FormatError, "dimension of 0"),
    "tensor type": (build([("w", (2,), 99, 0)], data=bytes(8)), FormatError, "tensor type 99"),
    "row": (build([("w", (31,), 8, 0)], data=bytes(64)), FormatError, "multiple of 32"),
    "offset": (build([("w", (2,), 0, 8)], data=bytes(64)), FormatError, "no multiple of 32"),
    "product": (build([("w", (1 << 63, 1 << 63), 0, 0)]), FormatError, "needs 3402"),
    "past the end": (build([("w", (9,), 0, 0)], data=bytes(32)), FormatError, "needs 36 bytes"),
    "far offset": (build([("w", (2,), 0, 1 << 62)], data=bytes(8)), FormatError, "0 are there"),
    "overlap": (
        build([("w", (9,), 0, 0), ("v", (2,), 0, 32)], data=bytes(64)),
        FormatError,
        "'w'.* needs 36 bytes.* and 32 are there",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_files_are_refused_in_one_line(tmp_path, case):
    raw, kind, message = BROKEN[case]
    with pytest.raises(kind, match=message) as caught:
        gguf.Reader(write(tmp_path / "m.gguf", raw))
    assert "\n" not in str(caught.value)


def test_what_is_not_there_is_named(tmp_path):
    with pytest.raises(MissingError, match=r"none\.gguf: there is no such file"):
        gguf.Reader(tmp_path / "none.gguf")
    with pytest.raises(FileError, match="no regular file"):
        gguf.Reader(tmp_path)
    path = write_one(tmp_path / "m.gguf", np.zeros(2, np.float32))
    with pytest.raises(MissingError, match="no tensor v"):
        gguf.Reader(path).data("v")


@pytest.mark.parametrize(
    ("metadata", "declared", "kind", "message"),
    [
        ({"k": []}, [], OptionError, "empty list"),
        ({"k": [1, "a"]}, [], OptionError, r"mixes \['int', 'str'\]"),
        ({"k": None}, [], OptionError, "k is NoneType"),
        ({"k": 1 << 64}, [], OptionError, "cannot be written as int64"),
        ({"k": np.zeros((2, 2))}, [], OptionError, "of 2 dimensions"),
        ({"general.alignment": 24}, [], OptionError, "power of two"),
        ({}, [("w", "q9", (2,))], OptionError, "'q9'; accepted: f32"),
        ({}, [("w", "i8_s or an old ggml type", (2,))], OptionError, "accepted: f32"),
        ({}, [("w" * 64, "f32", (2,))], OptionError, "64 bytes; accepted: 1 to 63"),
        ({}, [("w", "f32", (2,)), ("w", "f32", (2,))], OptionError, "declared twice"),
        ({}, [("w", "q8_0", (2, 33))], ShapeError, "last a multiple of 32"),
        ({}, [("w", "f32", (2, 0))], ShapeError, "dimensions above 0"),
    ],
)
def test_what_cannot_be_written_is_refused_before_a_byte_is(
    tmp_path, metadata, declared, kind, message
):
    with pytest.raises(kind, match=message):
        gguf.Writer(tmp_path / "m.gguf", metadata, [gguf.Declared(*d) for d in declared])
    assert list(tmp_path.iterdir()) == []


def test_each_tensor_is_written_once_and_whole(tmp_path):
    path, declared = tmp_path / "m.gguf", [gguf.Declared("w", "f32", (2,))]
    with (
        pytest.raises(InputError, match="w has 4 bytes; its declared type and shape take 8"),
        gguf.Writer(path, {}, declared) as writer,
    ):
        writer.write("w", np.zeros(1, np.float32))
    writer = gguf.Writer(path, {}, declared)
    writer.write("w", bytes(8))
    with pytest.raises(InputError, match="w was written twice"):
        writer.write("w", bytes(8))
    writer.discard()
    with (
        pytest.raises(InputError, match="v was not declared"),
        gguf.Writer(path, {}, declared) as writer,
    ):
        writer.write("v", bytes(8))
    with pytest.raises(InputError, match="1 declared tensors were never written"):
        gguf.Writer(path, {}, declared).commit()
    assert list(tmp_path.iterdir()) == []
