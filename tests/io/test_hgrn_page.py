"""docs/formats/hgrn.md says what the code does: its keys, its tensors, its examples.

Its bytes are held by a reader written from it, in test_hgrn_gguf.py; its sizes by `make docs`.
"""

import doctest
import re
from pathlib import Path

from onebit.architecture import Architecture
from onebit.io import gguf_names
from onebit.io.gguf_config import config_to_metadata
from onebit.scheme import SCHEMES, LinearScheme, Scheme, of_config
from onebit.tensors import shapes

PAGE = Path(__file__).parents[2] / "docs" / "formats" / "hgrn.md"
CONFIG = {
    "model_type": "hgrn_bit",
    "vocab_size": 100,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
}
SIZES = {"V": 100, "d": 64, "l": 96, "L": 2, "2l": 192}


def rows(columns):
    """The rows of tables of so many columns, their code marks taken off."""
    lines = re.findall(r"^\| `.*\|$", PAGE.read_text("utf-8"), re.MULTILINE)
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return [[cell.strip("`") for cell in row] for row in cells if len(row) == columns]


def test_the_keys_are_those_that_are_written():
    written = config_to_metadata(CONFIG)
    kinds = {bool: "bool", int: "uint32", float: "float32", str: "string"}
    on_page = {key: kind for key, kind, _ in rows(3) if key.startswith("onebit.")}
    assert on_page.pop("onebit.tensors") == "string"  # of what is packed
    assert on_page == {k: kinds[type(v)] for k, v in written.items() if k.startswith("onebit.")}
    assert written["general.architecture"] == "onebit"
    assert written["onebit.context_length"] == 1 << 26


def test_the_tensors_are_those_of_the_model():
    a, scheme = Architecture.from_config(CONFIG), SCHEMES["matmulfree"]
    wanted = shapes(a, scheme)
    found = {}
    for own, shape, here, what in rows(4):
        size = tuple(SIZES[word] for word in shape.split(" x ")) if shape[0] in "VLdl2" else None
        names = [own.replace("blk.N.", f"blk.{n}.") for n in range(2 if "blk.N." in own else 1)]
        for n, name in enumerate(names):
            if name.startswith("<name>"):
                continue
            ours = here if here.startswith(("model.", "lm_head")) else f"model.layers.{n}.{here}"
            assert gguf_names.to_huggingface(name, "hgrn_bit") == ours
            found[ours] = size
            module = ours.removesuffix(".weight")
            ternary = scheme.linear(module).weight == "ternary" and len(size) == 2
            assert what.startswith("ternary") == (ternary and ours != "model.lower_bounds")
            if ternary and ours != "model.lower_bounds":
                inner = f"{module}.rms_norm.weight"
                assert gguf_names.to_gguf(inner, "hgrn_bit") == f"{name[:-7]}_norm_in.weight"
                found[inner] = size[1:]
    assert found == wanted


def test_the_examples_run():
    scope = {}
    result = doctest.testfile(str(PAGE), module_relative=False, extraglobs=scope)
    assert (result.failed, result.attempted) == (0, 5)
    ternary = SCHEMES["matmulfree"].layers["body"]
    floats = LinearScheme(norm="rms")
    layers = {"body": ternary, "gate": floats, "down": floats, "head": ternary}
    scheme = Scheme("attention only", layers)
    assert of_config(CONFIG | {"onebit_scheme": scheme.to_dict()}) == scheme
    assert scheme.linear("model.layers.1.mlp.gate_proj").weight == "fp"
    assert scheme.linear("model.layers.1.attn.o_proj").weight == "ternary"
