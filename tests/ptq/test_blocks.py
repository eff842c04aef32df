"""The block loop: what enters each linear, and how much memory a model of any depth takes."""

import os
import subprocess
import sys

import pytest
import torch
from tests.ptq.conftest import TOKENS

from onebit import quant
from onebit.models import load, stored_weight
from onebit.ptq import METHODS, Options, blocks
from onebit.ptq.blocks import States, Task
from onebit.ptq.flow import Flow
from onebit.ptq.plan import Held
from onebit.ptq.rows import Rows
from onebit.ptq.source import FileSource
from onebit.ptq.stages import stages
from onebit.scheme import FP, SCHEMES, LinearScheme, find


def task(model, scheme):
    source = FileSource(model)
    held = {x: Held(scheme.linear(x)) for x in load(model).state_dict() if "layers" in x}
    held = {name.removesuffix(".weight"): h for name, h in held.items()}
    return Task(source, scheme, held, (), ("rtn", METHODS["rtn"]), None, Options(), None)


def given(model):
    """Return the float model, what it gives its first block, and each linear's input there."""
    built, seen = load(model), {}
    for name, layer in built.model.layers[0].named_modules():
        if isinstance(layer, torch.nn.Linear):
            layer.register_forward_pre_hook(
                lambda _, x, name=name: seen.update({name: x[0].detach()})
            )
    ids = torch.from_numpy(TOKENS)
    states = Rows((*ids.shape, 64))
    with torch.no_grad():
        states.write(0, built.model.embed_tokens(ids))
        built(ids)
    return built, states, seen


def test_statistics_are_those_of_what_enters_each_linear(model):
    _, states, seen = given(model)
    block, rotation = blocks.load(task(model, SCHEMES["fp"]), 0, TOKENS.shape[1])
    flow = Flow(block, rotation, states, None)
    for stage in stages(block.layer):
        found = flow.stats(stage, dict.fromkeys(stage.linears, FP))
        for name in stage.linears:
            x_TK = seen[name].reshape(-1, seen[name].shape[-1])
            stats = found[name]
            assert stats.tokens == len(x_TK) == TOKENS.size
            torch.testing.assert_close(stats.gram(), x_TK.T @ x_TK / len(x_TK))
            torch.testing.assert_close(stats.mean_K, x_TK.mean(dim=0), atol=1e-6, rtol=1e-5)
            torch.testing.assert_close(stats.max_abs_K, x_TK.abs().amax(dim=0))
            assert torch.equal(stats.min_K, x_TK.amin(dim=0))
        assert len({id(found[name]) for name in stage.linears}) == 1
    after = Rows(states.shape)
    flow.finish(after)
    with torch.no_grad():
        wanted = block.layer(states.read(0, len(TOKENS)), rotation)
    torch.testing.assert_close(after.read(0, len(TOKENS)), wanted)


def test_statistics_are_of_turned_and_rounded_inputs(model):
    _, states, seen = given(model)
    scheme = LinearScheme("int4", "zero_point", "row", "int4_absmax", hadamard="both", signs=3)
    block, rotation = blocks.load(task(model, SCHEMES["fp"]), 0, TOKENS.shape[1])
    stage = stages(block.layer)[0]
    schemes = dict(zip(stage.linears, (scheme, FP, scheme), strict=True))
    found = Flow(block, rotation, states, None).stats(stage, schemes)
    x_TK = seen[stage.linears[0]].reshape(-1, 64)
    signs = quant.hadamard.signs_of(scheme, 64)
    turned = quant.hadamard.transform(x_TK, signs)
    rounded = quant.activation.dequantize(quant.activation.rounded(turned, "int4_absmax"))
    error = (found[stage.linears[0]].gram() - rounded.T @ rounded / len(x_TK)).norm()
    assert float(error / found[stage.linears[0]].gram().norm()) < 1e-3
    torch.testing.assert_close(found[stage.linears[1]].gram(), x_TK.T @ x_TK / len(x_TK))
    assert found[stage.linears[2]] is found[stage.linears[0]]


def test_the_next_block_is_given_what_the_rounded_one_gives(model):
    _, states, _ = given(model)
    scheme, after = find("w4a16-g32"), Rows(states.shape)
    done = blocks.run(task(model, scheme), 0, States(states), States(after))
    assert len(done.tensors) == len(done.rows) == 7
    block, rotation = blocks.load(task(model, scheme), 0, TOKENS.shape[1])
    for tensor in done.tensors:
        own = tensor.name.removeprefix("model.layers.0.").removesuffix(".weight")
        block.linear(own).weight.copy_(torch.from_numpy(stored_weight.values(tensor)))
    with torch.no_grad():
        wanted = block.layer(states.read(0, len(TOKENS)), rotation)
    torch.testing.assert_close(after.read(0, len(TOKENS)), wanted)


_DEEP = """
import resource, sys, tempfile, zlib
import numpy as np, torch
from pathlib import Path
from onebit.architecture import Architecture
from onebit.ptq import METHODS, Calibration, Options, walk
from onebit.ptq.blocks import Task
from onebit.ptq.plan import Held
from onebit.ptq.source import Source, layers_of
from onebit.ptq.work import Work
from onebit.scheme import find
from onebit.tensors import shapes

class Random(Source):
    def __init__(self, a):
        self.config, self.shapes = a.to_config(), shapes(a, find("fp"))
    def names(self):
        return list(self.shapes)
    def tensor(self, name):
        random = torch.Generator().manual_seed(zlib.crc32(name.encode()))
        return torch.randn(self.shapes[name], generator=random) * 0.05

torch.set_num_threads(1)
a = Architecture(vocab_size=64, hidden_size=384, intermediate_size=1024,
                 num_hidden_layers=int(sys.argv[1]), num_attention_heads=6,
                 num_key_value_heads=6, head_dim=64)
source, scheme = Random(a), find("w4a16-g64")
held = {name: Held(scheme.linear(name)) for name in layers_of(source)}
tokens = Calibration("random", np.random.default_rng(0).integers(0, 64, (4, 64)), "random")
with tempfile.TemporaryDirectory() as folder:
    work = Work(Path(folder) / "work", {}, True)
    gptq = ("gptq", METHODS["gptq"])
    task = Task(source, scheme, held, (), gptq, None, Options(), work.folder)
    walk.all_blocks(task, work, tokens, lambda status: None)
    assert work.done == a.num_hidden_layers
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


# glibc keeps what is freed, more or less of it by chance, unless its limits are set
_EXACT = {
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_THRESHOLD_": "65536",
    "MALLOC_TRIM_THRESHOLD_": "65536",
}


def test_memory_is_that_of_a_block_however_many_there_are():
    found = {}
    for layers in (2, 14):
        arguments = [sys.executable, "-c", _DEEP, str(layers)]
        run = subprocess.run(arguments, capture_output=True, text=True, env=os.environ | _EXACT)
        assert run.returncode == 0, run.stderr
        found[layers] = int(run.stdout) / 1024
    # the other 12 blocks are 85 MB of floats, and 13 of codes
    assert found[14] - found[2] < 10


_FREED = """
import torch
from onebit.ptq import memory

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1])

pieces = [torch.ones(100_000) for _ in range(400)]  # 160 MB, below what glibc returns by itself
last, before = pieces[-1], resident()
del pieces
assert memory.give_back()
print((before - resident()) * 4096 / 1e6)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="of glibc")
def test_freed_memory_goes_back_to_the_system():
    kept = {"MALLOC_MMAP_THRESHOLD_": "33554432", "MALLOC_TRIM_THRESHOLD_": "1073741824"}
    run = subprocess.run(
        [sys.executable, "-c", _FREED], capture_output=True, text=True, env=os.environ | kept
    )
    assert run.returncode == 0, run.stderr
    assert float(run.stdout) > 100
