"""Group b1 in two processes: what one process computes with the same parts, and no message more."""

import os

import pytest
import torch
from torch import distributed, multiprocessing

from onebit import Architecture, OptionError, models
from onebit.nn import BitLinear, bit_linears
from onebit.nn.parallel import ParallelLinear, parallelize
from onebit.scheme import LinearScheme, Scheme

SIZE = 2
A = Architecture(31, 32, 64, 2, 4, 2, 8, pre_norms=False, learned_temperature=True)
ROWS = LinearScheme("binary", activation="int8_b1", norm="layer", split="out:2")
B1 = Scheme(
    "b1-groups",
    {
        "body": ROWS,
        "gate": LinearScheme("binary", activation="int8_b1_positive", norm="layer", split="out:2"),
        "o": LinearScheme("binary", activation="int8_b1", norm="layer", split="in:2"),
        "down": LinearScheme("binary", activation="int8_b1", norm="layer", split="in:2"),
    },
)
TOKENS = torch.randint(0, 31, (2, 6), generator=torch.Generator().manual_seed(0))
COLLECTIVES = [
    "all_gather", "all_gather_into_tensor", "all_to_all", "barrier", "broadcast", "gather",
    "reduce", "reduce_scatter", "scatter", "send", "recv",
]  # fmt: skip


def gradients(model):
    logits = model(TOKENS)
    logits.float().log_softmax(dim=2).square().mean().backward()
    return logits.detach()


def inputs_of(model, name_of=lambda name: name):
    """The codes that each layer gives its input, as a forward pass fills them in."""
    found = {}
    for name, layer in bit_linears(model):
        layer.register_forward_pre_hook(
            lambda module, x, name=name: found.update({name_of(name): module.input_codes(x[0])})
        )
    return found


def share(whole, name, rank):
    """This process's share of a weight, by rows or by columns, or of an input's columns."""
    dim = 1 if name.rpartition(".")[2] in ("o_proj", "down_proj") else 0
    return whole.chunk(SIZE, dim=dim)[rank]


def work(rank, folder):
    """One process: compares itself with the whole model, which it computes too."""
    torch.set_num_threads(1)
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=SIZE
    )
    whole = models.build(A, B1, seed=1)
    model = parallelize(models.build(A, B1, seed=1))
    codes = inputs_of(whole)
    own_codes = inputs_of(model, lambda name: name.removesuffix(".part"))
    expected = gradients(whole)

    sent, reduce = [], distributed.all_reduce
    distributed.all_reduce = lambda x, *rest: (sent.append(tuple(x.shape)), reduce(x, *rest))
    for name in COLLECTIVES:
        setattr(distributed, name, None)
    logits = model(TOKENS)
    # the outputs of o and down, in each of two layers; alpha, beta, gamma, eta and norms stay here
    assert sent == [(2, 6, 32)] * 2 * A.num_hidden_layers
    sent.clear()
    logits.float().log_softmax(dim=2).square().mean().backward()
    # the input gradients of q, k, v, gate and up
    assert sent == [(2, 6, 32)] * 5 * A.num_hidden_layers
    distributed.all_reduce = reduce

    torch.testing.assert_close(logits, expected, rtol=1e-5, atol=1e-5)
    seen = 0
    for name, layer in bit_linears(whole):
        own = model.get_submodule(name).part
        assert own.scheme.parts == 1
        assert torch.equal(own.codes().codes_NK, share(layer.codes().codes_NK, name, rank))
        x, own_x = codes[name], own_codes[name]
        if layer.scheme.split == "in:2":
            x = x._replace(codes=x.codes.chunk(SIZE, -1)[rank], scale=x.scale.chunk(SIZE, -1)[rank])
        assert torch.equal(own_x.codes, x.codes)
        assert torch.equal(own_x.scale, x.scale)
        close(own.weight.grad, share(layer.weight.grad, name, rank))
        seen += 1
    assert seen == 14
    close(model.model.embed_tokens.weight.grad, whole.model.embed_tokens.weight.grad)
    for layer, own in zip(whole.model.layers, model.model.layers, strict=True):
        grad = layer.self_attn.temperature.grad
        close(own.self_attn.temperature.grad, grad.chunk(SIZE)[rank])
    distributed.destroy_process_group()


def close(got, wanted):
    assert wanted.abs().max() > 0
    torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-5 * float(wanted.abs().max()))


def test_two_processes_compute_what_one_does(tmp_path):
    multiprocessing.spawn(work, (tmp_path,), nprocs=SIZE)


def part(rank=0, size=2, K=32, N=16, bias=False, **parts):
    torch.manual_seed(0)
    layer = BitLinear(K, N, bias, LinearScheme("binary", **parts))
    return layer, ParallelLinear(layer, rank, size)


def test_a_process_may_have_several_parts():
    layer, own = part(rank=1, norm="layer", activation="int8_b1", split="in:4")
    assert own.part.scheme.split == "in:2"
    assert own.part.codes().scale_NG.shape == (16, 2)
    assert torch.equal(own.part.codes().scale_NG, layer.codes().scale_NG[:, 2:])


def test_a_bias_goes_with_its_outputs():
    layer, own = part(rank=1, bias=True, split="out:2")
    assert own.bias is None
    assert torch.equal(own.part.bias, layer.bias[8:])
    x = torch.randn(3, 32, generator=torch.Generator().manual_seed(1))
    assert torch.equal(own.part(x), layer(x)[:, 8:])
    layer, own = part(rank=1, bias=True, split="in:2", norm="rms")
    assert own.bias is layer.bias
    assert own.part.bias is None


def test_what_would_need_other_messages_is_refused():
    with pytest.raises(OptionError, match=r"split 'out:3' among 2 processes; give each as many"):
        part(N=15, split="out:3")
    with pytest.raises(OptionError, match="an RMSNorm inside, whose weights all parts share"):
        part(split="out:2", norm="rms")
    with pytest.raises(OptionError, match="a Hadamard matrix, which turns all columns together"):
        part(split="in:2", hadamard="input")
