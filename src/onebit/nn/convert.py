"""Turn the linear layers of a model into those of a scheme. The only code that walks a module tree.

The float weights are kept as they are, the same tensors: converting a float model gives the model
that is "rounded after training", converting it back gives the float model again. Weights that were
rounded before are not rounded twice: they keep their codes and scale, frozen.
"""

from collections.abc import Iterator
from fnmatch import fnmatchcase

import torch
from torch import nn

from onebit import quant
from onebit.errors import OptionError
from onebit.nn.bitlinear import BitLinear
from onebit.nn.packed_linear import PackedLinear
from onebit.nn.rms_norm import RMSNorm
from onebit.scheme import FP, ROLES, LinearScheme, Scheme


def convert(model: nn.Module, scheme: Scheme, eps: float = 1e-5) -> nn.Module:
    """Give every linear layer of `model` the form that `scheme` names for it, in place.

    Args:
        model: any module tree; a layer's scheme is found by its full name in it.
        scheme: what to convert to. Frozen codes stay where it rounds weights by the same rule, and
            float weights that already lie on its grid are frozen with the codes that they have;
            `unfreeze` makes both trainable.
        eps: of the norms that it puts inside layers.

    Returns:
        `model`, whose attribute `scheme` is now `scheme`.

    Raises:
        OptionError: the scheme quantizes an embedding, takes the norm out of a layer, has no such
            rule, or names layers that are not there.
        ShapeError: a group of the scheme does not divide a layer's width.
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
            changes.append((name, _convert(name, module, wanted, eps)))
    for name, module in changes:  # only when every layer could be converted
        model.set_submodule(name, module)
    model.scheme = scheme  # type: ignore[assignment]
    return model


def bit_linears(model: nn.Module) -> Iterator[tuple[str, BitLinear]]:
    """Yield the name and module of every BitLinear in the tree."""
    for name, module in model.named_modules():
        if isinstance(module, BitLinear):
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
        if isinstance(new, BitLinear) and _weight_rule(wanted) == _weight_rule(old.scheme):
            new.freeze(old.codes())
        else:
            new.weight = nn.Parameter(old.weight.detach())
    if isinstance(new, BitLinear) and not new.frozen and wanted.weight != "fp":
        _keep_grid(new)
    return new


def _keep_grid(layer: BitLinear) -> None:
    """Freeze weights on the scheme's grid that another rounding would move."""
    if layer.weight.is_meta:  # a model without weights yet
        return
    found = quant.grid.of_scheme(layer.weight, layer.scheme)
    if found is None:
        return
    again = quant.dequantize(quant.quantize_weight(layer.weight, layer.scheme))
    if not torch.equal(again, layer.weight.detach().float()):
        layer.freeze(found)


def _weight_rule(scheme: LinearScheme) -> tuple[str, str, str]:
    return scheme.weight, scheme.weight_rule, scheme.weight_scale
