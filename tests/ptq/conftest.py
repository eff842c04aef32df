"""Tiny float models with norms and biases that are not trivial, as files and as one block."""

import numpy as np
import pytest
import torch

from onebit import models
from onebit.architecture import Architecture
from onebit.nn import BitLinear, Rope
from onebit.ptq import Calibration
from onebit.ptq.method import Block, Stage
from onebit.ptq.source import FileSource
from onebit.ptq.stats import Recorder
from onebit.scheme import find

TOKENS = np.random.default_rng(0).integers(0, 50, (6, 24))
TEXT = Calibration("random", TOKENS, "random tokens")
"""For `model`."""

QKV = tuple(f"self_attn.{x}_proj" for x in "qkv")
STAGES = {
    "qkv": Stage("qkv", QKV, before="input_layernorm"),
    "o": Stage("o", ("self_attn.o_proj",), before="self_attn.v_proj"),
    "gate_up": Stage(
        "gate_up", ("mlp.gate_proj", "mlp.up_proj"), before="post_attention_layernorm"
    ),
    "down": Stage("down", ("mlp.down_proj",), before="mlp.up_proj"),
}


def tiny(**changes) -> Architecture:
    shape = {
        "vocab_size": 50,
        "hidden_size": 24,
        "intermediate_size": 40,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
    }
    return Architecture(**(shape | changes))


@pytest.fixture(scope="session")
def model(tmp_path_factory):
    """Return the folder of a float model that is wide enough for groups of 32; nobody writes it."""
    folder = tmp_path_factory.mktemp("float") / "model"
    built = models.build(tiny(hidden_size=64, intermediate_size=128, head_dim=16), find("fp"), 1)
    random = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for name, parameter in built.named_parameters():
            if "norm" in name:
                parameter.uniform_(0.5, 2, generator=random)
            elif "layers" in name:  # large enough to matter beside the stream
                parameter.normal_(std=0.2, generator=random)
    models.save(built, folder)
    return folder


@pytest.fixture
def tiny_source(tmp_path):
    """Return a function: changes to the shape -> a source of a random model."""

    def make(**changes) -> FileSource:
        model = models.build(tiny(**changes), find("fp"), seed=1)
        random = torch.Generator().manual_seed(2)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "norm" in name:
                    parameter.uniform_(0.3, 3, generator=random)
                elif name.endswith("bias"):
                    parameter.normal_(generator=random)
                else:  # logits that mean something, layers that matter beside the stream
                    parameter.normal_(std=0.2, generator=random)
        models.save(model, tmp_path / "model")
        return FileSource(tmp_path / "model")

    return make


class OneBlock:
    """A layer with outliers in two channels, and tokens to put through it."""

    stages = STAGES

    def __init__(self, layer, scheme):
        layer.input_layernorm.weight.data[3] *= 30
        layer.mlp.up_proj.weight.data[5] *= 30
        names = [name for stage in STAGES.values() for name in stage.linears]
        targets = {name: scheme.linear(f"model.layers.0.{name}") for name in names}
        self.block = Block(0, "model.layers.0", layer, targets)
        self._x = torch.randn(3, 20, 24, generator=torch.Generator().manual_seed(0))
        self._rotation = Rope(np.array([1, 0.1, 0.01, 0.001], np.float32))(20)

    def output(self):
        with torch.no_grad():
            return self.block.layer(self._x, self._rotation)

    def stats(self, stage):
        """What the linears of a stage are given."""
        seen, module = [], self.block.linear(stage.linears[0])
        hook = module.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
        self.output()
        hook.remove()
        recorder = Recorder(module.in_features, 60, gram=False)
        recorder.add(seen[0])
        return recorder.stats()

    def transform(self, method, options):
        """Let a transform act on every stage."""
        for stage in STAGES.values():
            method(self.block, stage, self.stats(stage), options)

    def rounded(self):
        """Return the output with every linear rounded as its scheme says; it stays so."""
        for name, scheme in self.block.targets.items():
            old = self.block.linear(name)
            new = BitLinear(old.in_features, old.out_features, scheme=scheme)
            new.weight, new.bias = old.weight, old.bias
            self.block.layer.set_submodule(name, new.eval())
        return self.output()


@pytest.fixture
def one_block(tiny_source):
    """Return a function: scheme, changes to the shape -> `OneBlock`."""

    def make(scheme, **changes) -> OneBlock:
        model = models.load(tiny_source(**changes).checkpoint.path)
        return OneBlock(model.model.layers[0], scheme)

    return make
