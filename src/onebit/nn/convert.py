"""Turn the linear layers of a model into those of a scheme. The only code that walks a module tree.

The float weights are kept as they are, the same Parameters, and so what an optimizer knows of them:
converting a float model gives the model that is "rounded after training", converting it back gives
the float model again. Weights that were rounded before are not rounded twice: they keep their codes
and scale, frozen.
"""

from collections.abc import Iterator
from fnmatch import fnmatchcase

import torch
from torch import nn

from onebit import quant
from onebit.errors import OptionError
from onebit.nn.attention import Attention
from onebit.nn.bitlinear import BitLinear
from onebit.nn.frozen import turned_back
from onebit.nn.packed_linear import PackedLinear
from onebit.nn.rms_norm import RMSNorm
from onebit.scheme import FP, ROLES, LinearScheme, Scheme


def convert(model: nn.Module, scheme: Scheme, eps: float = 1e-5) -> nn.Module:
    """Give every linear layer of `model` the form that `scheme` names for it, in place.

    Args:
        model: any module tree; a layer's scheme is found by its full name in it.
        scheme: what to convert to. Frozen codes stay where it rounds weights by the same rule, and
            float weights that already lie on its grid are frozen with the codes that they have;
            `unfreeze` makes both trainable. Norms that it puts inside layers begin with weights 1,
            learned steps where their rule says for the present weights; a step belongs to its
            rule and goes with it.
        eps: of the norms that it puts inside layers.

    Returns:
        `model`, whose attribute `scheme` is now `scheme`. Its attention layers round queries, keys
        and values to the scheme's bits.

    Raises:
        OptionError: the scheme quantizes an embedding, takes the weights of a norm out of a layer,
            has no such rule, or names layers that are not there.
        ShapeError: a group of the scheme, or its parts, do not divide a layer.
    """
    _check_globs(model, scheme)
    changes = []
    for name, module in list(model.named_modules()):
        wanted = scheme.linear(name)
        if isinstance(module, nn.Embedding) and wanted != FP:
            raise OptionError(
                f"scheme {scheme.name}: {name} is an embedding; it stays float. "
                'Take "embed" out of the scheme.'
            )
        if isinstance(module, nn.Linear) and _scheme_of(module) != wanted:
            changes.append((name, module, _convert(name, module, wanted, eps)))
    for name, old, new in changes:  # only when every layer could be converted
        _keep_step(new, old)
        model.set_submodule(name, new)
    for _, attention in attentions(model):
        attention.kv_bits, attention.q_bits = scheme.kv_bits, scheme.q_bits
    model.scheme = scheme  # type: ignore[assignment]
    return model


def bit_linears(model: nn.Module) -> Iterator[tuple[str, BitLinear]]:
    """Yield the name and module of every BitLinear in the tree."""
    for name, module in model.named_modules():
        if isinstance(module, BitLinear):
            yield name, module


def attentions(model: nn.Module) -> Iterator[tuple[str, Attention]]:
    """Yield the name and module of every attention layer in the tree."""
    for name, module in model.named_modules():
        if isinstance(module, Attention):
            yield name, module


def pack_linears(model: nn.Module) -> nn.Module:
    """Replace every BitLinear of quantized weights by a PackedLinear, in place; return `model`.

    Raises:
        ShapeError: the kernels have no layout for a layer's groups.
        UnsupportedError: the native extension is not built.
    """
    packed = [
        (name, PackedLinear(layer))
        for name, layer in bit_linears(model)
        if layer.scheme.weight != "fp"
    ]
    for name, layer in packed:
        model.set_submodule(name, layer)
    return model


def unfreeze(model: nn.Module) -> nn.Module:
    """Make the packed weights of `model` trainable again, in place; return it."""
    for _, module in bit_linears(model):
        module.unfreeze()
    return model


def _check_globs(model: nn.Module, scheme: Scheme) -> None:
    """Refuse a glob that no layer answers to: a slip of the pen would leave its layers float."""
    kinds = (nn.Linear, nn.Embedding, PackedLinear)
    names = [name for name, module in model.named_modules() if isinstance(module, kinds)]
    for glob, linear in scheme.layers.items():
        if glob in (*ROLES, "body") or linear == FP:
            continue
        if not any(fnmatchcase(name, glob) for name in names):
            raise OptionError(
                f"scheme {scheme.name}: no layer is called {glob!r:.80}. "
                f"Name one, with * for any part, or a role: {', '.join(ROLES)}, body."
            )


def _scheme_of(linear: nn.Linear) -> LinearScheme:
    return linear.scheme if isinstance(linear, BitLinear) else FP


def _convert(name: str, old: nn.Linear, wanted: LinearScheme, eps: float) -> nn.Linear:
    """Return a layer of the wanted scheme around the weights, bias and norm of `old`."""
    old_norm = old.rms_norm if isinstance(old, BitLinear) else None
    if old_norm is not None and wanted.norm != "rms":
        raise OptionError(
            f"{name} has an RMSNorm inside, which the scheme to convert to lacks. "
            'Choose one with norm = "rms", or build the model anew.'
        )
    shape, bias = (old.in_features, old.out_features), old.bias is not None
    new: nn.Linear
    if wanted == FP:
        new = nn.Linear(*shape, bias, device="meta")
    else:
        new = BitLinear(*shape, bias, wanted, eps, device="meta")
        if wanted.norm == "rms":
            new.rms_norm = old_norm or RMSNorm(old.in_features, eps).to(old.weight.device)
    new.weight, new.bias = old.weight, old.bias
    new.train(old.training)
    if isinstance(old, BitLinear) and old.frozen:
        new.weight = nn.Parameter(turned_back(old.weight.detach(), old.scheme))
    if isinstance(new, BitLinear):
        new.start_step()
        if isinstance(old, BitLinear):
            _take_over(new, old)
        if wanted.weight != "fp":
            _keep_grid(new)
    return new


def _take_over(new: BitLinear, old: BitLinear) -> None:
    """Give a layer what the old one had beside its weights and is still true of them."""
    new.blend = old.blend
    if _weight_rule(new.scheme) == _weight_rule(old.scheme):
        new.step = old.step
        if old.frozen:
            new.freeze(old.codes())


@torch.no_grad()
def _keep_step(new: nn.Linear, old: nn.Linear) -> None:
    """Let the Parameter stay where a step begins anew, for instance with fewer bits."""
    if not isinstance(new, BitLinear) or not isinstance(old, BitLinear):
        return
    if new.step is old.step or new.step is None or old.step is None:
        return
    if new.step.shape == old.step.shape and not new.frozen and not old.frozen:
        old.step.copy_(new.step)
        new.step = old.step


def _keep_grid(layer: BitLinear) -> None:
    """Freeze weights on the scheme's grid that another rounding would move.

    Not where the grid is that of the turned weights, and these are about to be turned.
    """
    if layer.frozen or layer.weight.is_meta or layer.scheme.hadamard == "both":
        return
    found = quant.grid.of_scheme(layer.weight, layer.scheme)
    if found is None:
        return
    again = quant.dequantize(layer.codes())
    if not torch.equal(again, layer.weight.detach().float()):
        layer.freeze(found)


def _weight_rule(scheme: LinearScheme) -> tuple[object, ...]:
    """Return all that codes depend on beside the weights."""
    turn = scheme.signs if scheme.hadamard == "both" else None
    return scheme.weight, scheme.weight_rule, scheme.weight_scale, scheme.split, turn
