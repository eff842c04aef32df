"""safetensors: bytes pinned, both ways with the library, and one test per way to be broken."""

import json
import struct

import ml_dtypes
import numpy as np
import pytest
import safetensors
import safetensors.numpy

from onebit.errors import FormatError, InputError, MissingError, OptionError, ShapeError
from onebit.io.safetensors import INDEX_NAME, Declared, Folder, Reader, Writer

ARRAYS = {
    "odd": np.arange(3, dtype=np.uint8),
    "half": np.arange(6, dtype=np.float16).reshape(2, 3),
    "float": np.arange(4, dtype=np.float32),
    "brain": np.arange(5, dtype=ml_dtypes.bfloat16),
    "scalar": np.array(2.5),
    "none": np.zeros((0, 4), np.int64),
}
DTYPES = {
    **{"odd": "U8", "half": "F16", "float": "F32"},
    **{"brain": "BF16", "scalar": "F64", "none": "I64"},
}


def build(header, data=b""):
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(raw)) + raw + data


def entry(dtype="F32", shape=(1,), begin=0, end=4):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}


def write_arrays(path, arrays=ARRAYS, metadata=None):
    declared = [Declared(name, DTYPES[name], array.shape) for name, array in arrays.items()]
    with Writer(path, declared, metadata) as writer:
        for name, array in arrays.items():
            writer.write(name, array)
    return path


def test_bytes_are_these(tmp_path):
    path = write_arrays(tmp_path / "m.safetensors", {"odd": ARRAYS["odd"]}, {"a": "ü"})
    header = '{"__metadata__":{"a":"ü"},"odd":{"dtype":"U8","shape":[3],"data_offsets":[0,3]}}'
    raw = header.encode()
    raw += b" " * (-len(raw) % 8)
    assert path.read_bytes() == struct.pack("<Q", len(raw)) + raw + bytes([0, 1, 2])


def test_the_library_reads_ours(tmp_path):
    path = write_arrays(tmp_path / "m.safetensors", metadata={"format": "pt"})
    with safetensors.safe_open(path, framework="numpy") as theirs:
        assert theirs.metadata() == {"format": "pt"}
        assert set(theirs.keys()) == set(ARRAYS)
        for name, array in ARRAYS.items():
            assert theirs.get_tensor(name).tobytes() == array.tobytes()
            assert theirs.get_tensor(name).shape == array.shape


def test_we_read_the_library(tmp_path):
    path = tmp_path / "m.safetensors"
    safetensors.numpy.save_file(ARRAYS, path, metadata={"a": "b"})
    reader = Reader(path)
    assert reader.metadata == {"a": "b"}
    for name, array in ARRAYS.items():
        info = reader.tensors[name]
        assert (info.dtype, info.shape) == (DTYPES[name], array.shape)
        assert reader.data(name).tobytes() == array.tobytes()


BROKEN = {
    "empty": (b"", "empty"),
    "shorter than its start": (b"\1\0\0", "header is said to take"),
    "header past the end": (struct.pack("<Q", 100) + b"{}", "take 100 bytes of a file of 10"),
    "header over the limit": (struct.pack("<Q", 1 << 63) + b"{}", "at most 100000000"),
    "no JSON": (build(b"{"), "not valid JSON"),
    "no UTF-8": (build(b'{"\xff": 1}'), "not valid JSON"),
    "deep JSON": (build(b"[" * 100_000), "not valid JSON"),
    "a list": (build(b"[]"), "holds a JSON list"),
    "name twice": (build(b'{"a": 1, "a": 2}'), "'a' stands there twice"),
    "metadata of numbers": (build({"__metadata__": {"a": 1}}), "map names to strings"),
    "entry": (build({"a": [1]}), "must have dtype, shape and data_offsets"),
    "dtype": (build({"a": entry(dtype="F99")}, bytes(4)), "dtype 'F99'; known are BOOL"),
    "dtype no text": (build({"a": entry(dtype=["F32"])}, bytes(4)), "has dtype"),
    "shape of floats": (build({"a": entry(shape=[1.0])}, bytes(4)), "lists of whole numbers"),
    "shape of bools": (build({"a": entry(shape=[True])}, bytes(4)), "lists of whole numbers"),
    "negative": (build({"a": entry(shape=[-1])}, bytes(4)), "lists of whole numbers"),
    "size": (build({"a": entry(shape=[2])}, bytes(4)), "needs 8 bytes; its own are 0 to 4"),
    "product": (build({"a": entry(shape=[1 << 63, 4])}, bytes(4)), "needs 147573952589676412928"),
    "backwards": (build({"a": entry(begin=4, end=0)}, bytes(4)), "its own are 4 to 0"),
    "gap": (build({"a": entry(begin=4, end=8)}, bytes(8)), "the tensor before it"),
    "overlap": (build({"a": entry(), "b": entry()}, bytes(4)), "the tensor before it"),
    "cut short": (build({"a": entry()}, bytes(3)), "the tensors end at byte"),
    "bytes left over": (build({"a": entry()}, bytes(5)), "the tensors end at byte"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_files_are_refused_in_one_line(tmp_path, case):
    raw, message = BROKEN[case]
    (tmp_path / "m.safetensors").write_bytes(raw)
    with pytest.raises(FormatError, match=message) as caught:
        Reader(tmp_path / "m.safetensors")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("declared", "kind", "message"),
    [
        ([("w", "F99", (2,))], OptionError, "dtype 'F99'; accepted: BOOL"),
        ([("w", "F32", (2,)), ("w", "F32", (2,))], OptionError, "declared twice"),
        ([("__metadata__", "F32", (2,))], OptionError, "declared twice"),
        ([("w", "F4", (3,))], ShapeError, "whole number of bytes"),
        ([("w", "F32", (-1,))], ShapeError, "whole number of bytes"),
    ],
)
def test_what_cannot_be_written_is_refused_before_a_byte_is(tmp_path, declared, kind, message):
    with pytest.raises(kind, match=message):
        Writer(tmp_path / "m.safetensors", [Declared(*d) for d in declared])
    assert list(tmp_path.iterdir()) == []


def test_a_tensor_of_the_wrong_size_is_refused(tmp_path):
    with (
        pytest.raises(InputError, match="w has 4 bytes; its declared type and shape take 8"),
        Writer(tmp_path / "m.safetensors", [Declared("w", "F32", (2,))]) as writer,
    ):
        writer.write("w", np.zeros(1, np.float32))
    assert list(tmp_path.iterdir()) == []


def sharded(folder, weight_map):
    for number, name in enumerate(("odd", "float")):
        write_arrays(folder / f"model-{number}.safetensors", {name: ARRAYS[name]})
    (folder / INDEX_NAME).write_text(json.dumps({"weight_map": weight_map}))
    return folder


def test_an_index_names_the_files(tmp_path):
    places = {"odd": "model-0.safetensors", "float": "model-1.safetensors"}
    write_arrays(tmp_path / "optimizer.safetensors", {"half": ARRAYS["half"]})
    folder = Folder(sharded(tmp_path, places))
    assert set(folder.names()) == {"odd", "float"}
    assert folder.reader("float").data("float").view("<f4").tolist() == [0, 1, 2, 3]
    with pytest.raises(MissingError, match="no tensor half"):
        folder.reader("half")


@pytest.mark.parametrize(
    ("weight_map", "kind", "message"),
    [
        ({"odd": "../secret.safetensors"}, FormatError, "plain name of a file in this folder"),
        ({"odd": "/etc/passwd"}, FormatError, "plain name of a file"),
        ({"odd": ".."}, FormatError, "plain name of a file"),
        ({"odd": "a\\b"}, FormatError, "plain name of a file"),
        ({"odd": "a\0b"}, FormatError, "plain name of a file"),
        ({"odd": 3}, FormatError, "map tensor names to file names"),
        ({}, FormatError, "map tensor names to file names"),
        ({"odd": "gone.safetensors"}, MissingError, "no such file"),
        ({"float": "model-0.safetensors"}, MissingError, "puts 'float' in model-0"),
    ],
)
def test_an_index_that_lies_is_refused(tmp_path, weight_map, kind, message):
    with pytest.raises(kind, match=message):
        Folder(sharded(tmp_path, weight_map))


def test_a_name_in_two_files_is_refused(tmp_path):
    write_arrays(tmp_path / "a.safetensors", {"odd": ARRAYS["odd"]})
    write_arrays(tmp_path / "b.safetensors", {"odd": ARRAYS["odd"]})
    with pytest.raises(FormatError, match=r"'odd' is in b\.safetensors and in a\.safetensors"):
        Folder(tmp_path)
    write_arrays(tmp_path / "model.safetensors", {"odd": ARRAYS["odd"]})
    assert Folder(tmp_path).names() == ["odd"]  # where there is one of this name, it is the model


def test_an_empty_folder_is_refused(tmp_path):
    with pytest.raises(MissingError, match=r"no \.safetensors file in this folder"):
        Folder(tmp_path)
