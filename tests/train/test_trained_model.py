"""A model that was really trained, from its masters to the packed file: every layer's integers, and
the tokens it writes, are those of torch under every instruction set."""

import numpy as np
import pytest
import torch

from onebit import LLM, models
from onebit.data import Tokenizer
from onebit.io import open_checkpoint
from onebit.kernels import ops
from onebit.nn import bit_linears
from onebit.pack import FORMATS
from onebit.train import recipe, train

SETTINGS = ["steps=120", "context=48", "checkpoint_every=120"]
TEXT = "the people of this union ask the congress for peace and a good year of work, and "


@pytest.fixture(scope="module")
def run(tiny_recipe, tmp_path_factory):
    """The folder of a finished run, with its model packed beside it."""
    texts, folder = tmp_path_factory.mktemp("texts"), tmp_path_factory.mktemp("trained") / "run"
    for number in range(8):
        (texts / f"{number}.txt").write_text(TEXT * 20)
    result = train(recipe.read(tiny_recipe, [*SETTINGS, f"source={texts}"]), folder)
    assert result.train_loss < 1  # it began at ln 300 = 5.7
    models.export(folder / "model", folder / "packed.gguf", "t1_6", embed="f32")
    return folder


@torch.no_grad()
def inputs_and_outputs(model, ids):
    """What goes into every BitLinear and what comes out, on real text."""
    seen = {}
    hooks = [
        layer.register_forward_hook(
            lambda _, given, y, name=name: seen.update({name: (given[0][0], y[0])})
        )
        for name, layer in bit_linears(model)
    ]
    model(torch.tensor([ids]))
    for hook in hooks:
        hook.remove()
    return seen


@torch.no_grad()
def test_the_integer_sums_of_every_layer_are_equal(isa, run):
    model = models.load(run / "model").eval()
    ids = Tokenizer.load(run / "model").encode(TEXT)
    checkpoint = open_checkpoint(run / "packed.gguf")
    seen = inputs_and_outputs(model, ids)
    assert len(seen) == 7 * model.architecture.num_hidden_layers
    for name, layer in bit_linears(model):
        x_TK, y_TN = seen[name]
        x, w = layer.input_codes(x_TK), layer.codes()
        sums_TN = x.codes.int() @ w.codes_NK.int().T
        # torch's own layer computed these very sums, and scaled them once
        assert torch.equal(y_TN, sums_TN.float() * (x.scale * w.scale_NG[0, 0]))

        stored = checkpoint.tensor(f"{name}.weight")
        matrix = ops.repack(FORMATS[stored.format].unpack(stored.data, stored.shape, stored.scale))
        codes_TK, _ = ops.quantize_i8(x_TK.numpy())
        np.testing.assert_array_equal(codes_TK, x.codes.numpy())
        np.testing.assert_array_equal(ops.int_sums(matrix, codes_TK), sums_TN.numpy())
        np.testing.assert_array_equal(ops.linear(matrix, x_TK.numpy(), "int8_absmax"), y_TN.numpy())


def test_the_tokens_it_writes_are_equal(isa, run):
    model = models.load(run / "model").eval()
    tokenizer = Tokenizer.load(run / "model")
    written = set()
    with LLM(run / "packed.gguf", kv_bits=32) as llm:
        for prompt in ("the people of", "ask the", "good year of work."):
            ids = tokenizer.encode(prompt)
            wanted = [t for t in models.generate(model, ids, 20) if t not in tokenizer.eos_ids]
            assert list(llm.generate(ids, max_tokens=20).token_ids) == wanted
            written.update(wanted)
    assert len(written) > 5  # it says more than one word
