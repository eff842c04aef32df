"""Norm, rounding and product as one: the numbers of the three apart, and only x is kept."""

import pytest
import torch

from onebit.nn import MLGRU, BitLinear, convert, fused
from onebit.nn.bitlinear import of_one_input
from onebit.scheme import SCHEMES, LinearScheme

T, K, N = 21, 48, 20
NORMED = LinearScheme("ternary", activation="int8_absmax", norm="rms")
SERVED = {
    "tensor": NORMED,
    "row": LinearScheme("ternary", weight_scale="row", activation="int8_absmax", norm="rms"),
    "turned": LinearScheme("ternary", activation="int8_absmax", norm="rms", hadamard="input"),
    "signs": LinearScheme(
        "ternary", activation="int8_absmax", norm="rms", hadamard="input", signs=3
    ),
}


def draw(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def layer(scheme=NORMED, remakes=True, columns=K, rows=N, bias=True):
    made = BitLinear(columns, rows, bias, scheme)
    made.remakes = remakes
    with torch.no_grad():
        made.weight.copy_(draw(rows, columns, seed=1) * 0.05)
        made.rms_norm.weight.copy_(1 + 0.1 * draw(columns, seed=3))
        if bias:
            made.bias.copy_(draw(rows, seed=2))
    return made


def passes(scheme, remakes, x, autocast=False):
    """The output and all gradients."""
    made, x = layer(scheme, remakes).to(x.dtype), x.clone().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        y = made(x)
    upstream = draw(*y.shape, seed=4).to(y.dtype)
    return [y.detach(), *torch.autograd.grad(y, (x, *made.parameters()), upstream)]


def kept(run):
    """The storages, address to bytes, that a call keeps for its gradients."""
    found = {}

    def keep(tensor):
        found[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        y = run()
    return found, y


@pytest.mark.parametrize("name", SERVED)
@pytest.mark.parametrize("shape", [(), (1,), (3, 7)], ids=str)
def test_numbers_are_those_of_the_parts_to_the_bit(isa, name, shape):
    """Natively; on scalar torch's products add in another order."""
    x = draw(*shape, K)
    for ours, apart in zip(
        passes(SERVED[name], True, x), passes(SERVED[name], False, x), strict=True
    ):
        if isa == "scalar":
            torch.testing.assert_close(ours, apart, rtol=1e-5, atol=1e-5)
        else:
            assert torch.equal(ours, apart)


@pytest.mark.parametrize("autocast", [True, False])
def test_bf16_numbers_are_those_of_the_parts(isa, autocast):
    x = draw(T, K) if autocast else draw(T, K).bfloat16()
    ours, apart = (passes(NORMED, way, x, autocast) for way in (True, False))
    assert [t.dtype for t in ours] == [t.dtype for t in apart]
    for a, b in zip(ours, apart, strict=True):
        near = 0.02 * float(b.abs().max())
        torch.testing.assert_close(a.float(), b.float(), rtol=0.02, atol=near)


@pytest.mark.parametrize("name", SERVED)
def test_only_the_input_and_the_parameters_are_kept(isa, name):
    made, x = layer(SERVED[name]), draw(3, 7, K).requires_grad_()
    found, _ = kept(lambda: made(x))
    own = {t.untyped_storage().data_ptr() for t in (x, *made.parameters())}
    assert x.untyped_storage().data_ptr() in found
    assert set(found) <= own
    made.remakes = False
    found, _ = kept(lambda: made(x))
    codes = sum(size for address, size in found.items() if address not in own)
    assert codes >= 3 * 7 * K + N * K  # int8 each, where the kernels are


def test_layers_of_one_input_keep_it_once(isa):
    layers, x = [layer(bias=False) for _ in range(3)], draw(T, K).requires_grad_()
    found, _ = kept(lambda: of_one_input(x, *layers))
    weights = {layer.weight.untyped_storage().data_ptr() for layer in layers}
    norms = {layer.rms_norm.weight.untyped_storage().data_ptr() for layer in layers}
    assert set(found) == {x.untyped_storage().data_ptr(), *weights, *norms}


def test_a_recurrent_layer_keeps_no_codes():
    mixer, x = MLGRU(K, eps=1e-6), draw(2, 9, K).requires_grad_()
    convert(mixer, SCHEMES["matmulfree"])
    rounded = {}

    def keep(tensor):
        rounded[tensor.dtype] = True
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        mixer(x).sum().backward()
    assert list(rounded) == [torch.float32]


def test_a_weight_that_changes_before_the_gradient_is_noticed():
    """What is made again would be of other weights."""
    made = layer()
    y = made(draw(T, K))
    with torch.no_grad():
        made.weight.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


def test_no_gradient_is_made_that_nobody_wants():
    made, x = layer(), draw(T, K).requires_grad_()
    made.weight.requires_grad_(False)
    (dx,) = torch.autograd.grad(made(x).sum(), x)
    other = layer(remakes=False)
    assert torch.equal(dx, torch.autograd.grad(other(x).sum(), x)[0])


def test_schemes_that_are_not_served_go_apart():
    assert fused.serves(NORMED)
    for other in (
        LinearScheme("ternary", activation="int8_absmax"),
        LinearScheme("ternary", activation="int8_absmax", norm="layer"),
        LinearScheme("ternary", activation="int4_absmean", norm="rms"),
        LinearScheme("ternary", activation="int8_absmax", norm="rms", hadamard="both"),
        LinearScheme("ternary", activation="int8_absmax", norm="rms", split="in:2"),
        LinearScheme("int4", "absmax", "row", "int8_absmax", norm="rms"),
    ):
        assert not fused.serves(other)


def test_a_frozen_layer_and_one_in_between_are_not_fused():
    """They have codes of their own, or no codes."""
    x = draw(T, K)
    frozen, between = layer(), layer()
    expected = frozen(x)
    frozen.freeze()
    assert torch.equal(frozen(x), expected)
    between.blend = 0.5
    apart = layer(remakes=False)
    apart.blend = 0.5
    assert torch.equal(between(x), apart(x))


@pytest.mark.parametrize("frozen", [("x", "norm"), ("x",), ("norm",), ("weight",)], ids=str)
def test_what_is_frozen_gets_no_gradient_and_changes_no_other(frozen, monkeypatch):
    made, x = layer(bias=False), draw(T, K).requires_grad_()
    operands = {"x": x, "norm": made.rms_norm.weight, "weight": made.weight}
    upstream = draw(T, N, seed=4)
    whole = dict(
        zip(operands, torch.autograd.grad(made(x), list(operands.values()), upstream), strict=True)
    )
    asked = []
    real = fused.rms_norm.gradients
    monkeypatch.setattr(
        fused.rms_norm, "gradients", lambda *a: asked.append(tuple(a[-1])) or real(*a)
    )
    for name in frozen:
        operands.pop(name).requires_grad_(False)
    found = torch.autograd.grad(made(x), list(operands.values()), upstream)
    for name, gradient in zip(operands, found, strict=True):
        assert torch.equal(gradient, whole[name])
    both = "x" not in frozen, "norm" not in frozen
    assert asked == ([both] if any(both) else [])
