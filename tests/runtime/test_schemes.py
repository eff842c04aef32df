"""What trains is what runs, for every scheme: from a torch model through a GGUF file to the engine.

Two proofs for each. For each linear layer, on the very inputs that it gets in torch: the native
rounding gives the codes that the module rounds to, and the matrix that was loaded from the file
gives their integer sums. And the tokens that the engine writes are those that torch's plain
generation picks.

The sums are equal, always. Between them stand norms, softmax and SiLU in floats, which torch adds
up in another order: in the last bit an input of the next layer differs, which now and then is the
bit that decides to which code it goes, and with few codes that is much. So the tokens are compared
on prompts where torch itself is not moved by noise in the last bits, and the logits on any.

Where a scheme leaves inputs float there are no codes to compare; the bound is then WEIGHTS_ONLY on
the logits, by the bits in which the engine takes such inputs.
"""

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

from onebit import LLM, SCHEMES, models, quant
from onebit.errors import OnebitError
from onebit.io import gguf, open_checkpoint
from onebit.kernels import ops
from onebit.nn import bit_linears
from onebit.nn.packed_linear import numbers
from onebit.pack import Unpacked
from onebit.runtime import load
from onebit.scheme import LinearScheme, Scheme

WEIGHTS_ONLY = {16: 1e-4, 8: 0.02}
"""RMS error of the logits over their RMS: blocks of 32 at 8 bits err by 0.4 % of the input of each
layer, and two layers of seven follow one another here; a second term is 254 times as fine."""
CLOSE = 0.05
"""The same for all others. Measured: 2e-7 where no code differs, up to 0.04 where one input of a
layer got its neighbour's; and 0.02 to 0.03 with a cache of codes, in which the engine rounds what
the softmax gives too."""
TOKENS = np.random.default_rng(0).integers(1, 300, 40).tolist()
PROMPTS = np.random.default_rng(1).integers(1, 300, (56, 5)).tolist()
END = 0  # of the tokenizer
SURE, NEW, VARIED = 4, 5, 3
"""Prompts that are compared, tokens that follow each, and how many of them are different ones."""
NOISE = 1e-6
"""Of the embeddings, in which no text that is compared may lie so that it matters."""


class Case(NamedTuple):
    scheme: Scheme
    shape: Mapping[str, Any] = MappingProxyType({})


def of(body, **rest):
    """A scheme of one kind of layer, and what else it has."""
    bits = {name: rest.pop(name) for name in ("kv_bits", "q_bits") if name in rest}
    return Scheme("variant", {"body": body, **rest}, **bits)


def bits(kv, q):
    return replace(SCHEMES["bitnet-v2-a8"], kv_bits=kv, q_bits=q)


INT8 = {"activation": "int8_absmax"}
B1 = SCHEMES["bitnet-b1"]
V2 = SCHEMES["bitnet-v2-a4"]
RELU2 = {"hidden_act": "relu2"}
CASES = {
    **{name: Case(scheme) for name, scheme in SCHEMES.items() if scheme.quantized},
    "b1 without outer norms": Case(B1, {"pre_norms": False}),
    "b1.58-norm without outer norms": Case(SCHEMES["bitnet-b1.58-norm"], {"pre_norms": False}),
    "a4.8, squared ReLU": Case(SCHEMES["bitnet-a4.8"], RELU2),
    "v2-a4, squared ReLU, 576 columns": Case(V2, RELU2 | {"intermediate_size": 576}),
    "v2-a4, blocks of a Hadamard": Case(V2, {"intermediate_size": 56}),
    "v2 with signs": Case(of(V2.layers["o"], down=replace(V2.layers["down"], signs=11))),
    "turned weights": Case(of(replace(V2.layers["o"], hadamard="both"))),
    "turned weights with signs": Case(of(replace(V2.layers["o"], hadamard="both", signs=5))),
    "turned int4": Case(of(LinearScheme("int4", "absmax", "row", "int8_absmax", "rms", "both", 3))),
    "binary in parts by columns": Case(of(replace(B1.layers["body"], split="in:2"))),
    "positive, in parts by columns": Case(of(replace(B1.layers["gate"], split="in:2"))),
    "ternary in parts, norms with weights": Case(
        of(LinearScheme("ternary", norm="rms", split="in:2", activation="int4_absmean"))
    ),
    "binary in parts by rows": Case(of(replace(B1.layers["body"], split="out:2"))),
    "head with a norm": Case(
        of(LinearScheme("ternary", **INT8), head=LinearScheme("ternary", norm="rms", **INT8))
    ),
    "dynamic bits": Case(of(LinearScheme("ternary", activation="dynamic:3.2"))),
    **{
        f"int{n} inputs": Case(of(LinearScheme("ternary", activation=f"int{n}_absmax")))
        for n in (2, 3, 5)
    },
    **{
        f"int{n} with a zero-point": Case(of(LinearScheme(f"int{n}", "zero_point", scale, **INT8)))
        for n, scale in ((2, "row"), (4, "tensor"), (8, "row"))
    },
    **{
        f"{rule} inputs": Case(of(LinearScheme("int4", "zero_point", "group:32", rule)))
        for rule in ("int8_static", "int8_static_zero", "int4_static", "int5_static_zero")
    },
    **{
        f"two planes, {rule} inputs": Case(
            of(LinearScheme("ternary2", "least_squares", scale, rule))
        )
        for rule, scale in (("int8_absmax", "group:32"), ("int8_static_zero", "row"))
    },
    "int5": Case(of(LinearScheme("int5", "absmax", "row", **INT8))),
    "seq": Case(of(LinearScheme("ternary", "seq", **INT8))),
    "seq, a step a row": Case(of(LinearScheme("ternary", "seq", "row", **INT8))),
    "each projection its own": Case(
        Scheme(
            "mixed",
            {
                "q": LinearScheme("binary", activation="int8_absmax"),
                "k": LinearScheme("int4", "absmax", "row", "int4_absmean"),
                "v": LinearScheme("ternary", activation="int3_absmax"),
                "o": LinearScheme("int8", "lsq", "row", "int8_top50", "rms"),
                "up": LinearScheme("ternary", activation="fp4_e2m1"),
            },
        )
    ),
    **{f"kv {kv}, q {q}": Case(bits(kv, q)) for kv, q in ((8, 8), (4, 4), (3, 3), (4, 8), (4, 16))},
    "temperature": Case(SCHEMES["ternary-attention"], {"softmax_temperature": 0.6}),
    "learned temperature": Case(
        SCHEMES["ternary-attention"], {"softmax_temperature": 1.5, "learned_temperature": True}
    ),
    "learned temperature, low bits": Case(bits(4, 8), {"learned_temperature": True}),
}
FLOAT_INPUTS = [name for name, (scheme, _) in CASES.items() if name == "ternary-weights"]


def build(architecture, case):
    """Return a model in which every parameter matters, some weights lie far out, and steps fit."""
    sizes = {"intermediate_size": 192, "tie_word_embeddings": False}
    model = models.build(architecture(**sizes | dict(case.shape)), case.scheme, seed=5)
    random = torch.Generator().manual_seed(6)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith((".step", ".input_scale", ".input_zero")):
                continue
            if "_proj" in name and parameter.ndim == 2:
                far = torch.rand(parameter.shape, generator=random) < 0.01
                parameter.mul_(5).add_(0.01).mul_(1 + 4 * far)
            elif parameter.ndim == 2:
                parameter.mul_(5)
            elif name.endswith("temperature"):
                parameter.mul_(0.7 + 0.6 * torch.rand(parameter.shape, generator=random))
            else:
                parameter.uniform_(0.5, 1.5, generator=random)
        for _, layer in bit_linears(model):
            layer.start_step()
            if layer.step is not None:
                layer.step.mul_(1.2)  # it has been learned
    calibrate(model.eval())
    return model


@torch.no_grad()
def calibrate(model):
    """Give static activations factors, a little narrow, so that some inputs are clipped."""

    def found(layer, given):
        turned = layer.turned_input(given[0])
        low, high = 0.8 * float(turned.min()), 0.9 * float(turned.max())
        layer.set_static(quant.activation.static_factors(layer.scheme.activation, low, high))

    layers = [layer for _, layer in bit_linears(model) if layer.scheme.static]
    hooks = [layer.register_forward_pre_hook(found) for layer in layers]
    if layers:
        model(torch.tensor([TOKENS]))
    for hook in hooks:
        hook.remove()


@pytest.fixture(scope="module")
def exported(architecture, tokenizer, tmp_path_factory):
    """The torch model of a case and the file it became, each made once."""
    made = {}

    def make(name):
        if name not in made:
            folder = tmp_path_factory.mktemp("scheme")
            model = build(architecture, CASES[name])
            models.save(model, folder / "masters", tokenizer)
            models.export(folder / "masters", folder / "m.gguf", embed="f32")
            made[name] = model, folder / "m.gguf"
        return made[name]

    return make


def opened(path, scheme, input_bits=16):
    """The engine with the cache of the scheme; where that says nothing, with one of floats."""
    kv_bits = 32 if scheme.kv_bits == 16 else None
    return LLM(path, threads=1, kv_bits=kv_bits, input_bits=input_bits)


@pytest.mark.parametrize("name", [name for name in CASES if name not in FLOAT_INPUTS])
def test_the_engine_writes_what_torch_writes(exported, name):
    model, path = exported(name)
    prompts = surest(model)
    expected = [models.generate(model, prompt, NEW) for prompt in prompts]
    assert all(len(set(text)) >= VARIED for text in expected)
    with opened(path, CASES[name].scheme) as llm:
        assert llm.scheme == CASES[name].scheme
        written = [list(llm.generate(prompt, max_tokens=NEW).token_ids) for prompt in prompts]
    assert written == expected


@torch.no_grad()
def surest(model):
    """The prompts after which the likeliest token is most clearly that, at its least clear step;
    of those that no one token follows again and again, and no end."""
    text = torch.tensor(PROMPTS)
    least = torch.full((len(text),), torch.inf)
    for _ in range(NEW):
        logits_BV = model(text)[:, -1]
        best = logits_BV.topk(2).values
        least = least.minimum((best[:, 0] - best[:, 1]) / logits_BV.std(dim=1))
        text = torch.cat([text, logits_BV.argmax(dim=1, keepdim=True)], dim=1)
    least[moved_by_noise(model, text)] = -1
    for i, new in enumerate(text[:, -NEW:].tolist()):
        if len(set(new)) < VARIED or END in new:
            least[i] = -1
    assert (least > 0).sum() >= SURE
    return [PROMPTS[i] for i in least.argsort(descending=True)[:SURE]]


def moved_by_noise(model, text):
    """Which texts have an input so near the middle between two codes that noise decides on it."""
    weight, expected = model.model.embed_tokens.weight, model(text)
    kept, moved = weight.clone(), torch.zeros(len(text), dtype=torch.bool)
    random = torch.Generator().manual_seed(2)
    for _ in range(3):
        weight.mul_(1 + NOISE * torch.randn(weight.shape, generator=random))
        moved |= (model(text) - expected).abs().amax(dim=(1, 2)) > 1e-2 * expected.std()
        weight.copy_(kept)
    return moved


@pytest.mark.parametrize("name", [name for name in CASES if name not in FLOAT_INPUTS])
@torch.no_grad()
def test_the_logits_are_torchs(exported, name):
    model, path = exported(name)
    expected = model(torch.tensor([TOKENS]))[0].numpy()
    with opened(path, CASES[name].scheme) as llm:
        error = llm.logits(TOKENS) - expected
    assert np.sqrt(np.mean(error**2)) < CLOSE * np.sqrt(np.mean(expected**2))


@pytest.mark.parametrize("bits", WEIGHTS_ONLY)
@pytest.mark.parametrize("name", FLOAT_INPUTS)
def test_with_float_inputs_the_engine_is_close(exported, name, bits):
    model, path = exported(name)
    with torch.no_grad():
        expected = model(torch.tensor([TOKENS]))[0].numpy()
    with opened(path, CASES[name].scheme, bits) as llm:
        error = llm.logits(TOKENS) - expected
    assert np.sqrt(np.mean(error**2)) < WEIGHTS_ONLY[bits] * np.sqrt(np.mean(expected**2))


@torch.no_grad()
def inputs_of(model):
    """What each BitLinear gets while the model reads TOKENS, (T, K) by its name."""
    found, hooks = {}, []
    for name, layer in bit_linears(model):
        keep = lambda _, given, name=name: found.__setitem__(name, given[0][0].clone())  # noqa: E731
        hooks.append(layer.register_forward_pre_hook(keep))
    model(torch.tensor([TOKENS]))
    for hook in hooks:
        hook.remove()
    return found


def static_of(layer):
    return None if layer.static is None else numbers(layer.static)


def matrix_with_minimum(q):
    """What a matrix with a zero-point is where a minimum is added; else the zeros went off it."""
    minimum_NG = quant.integer.minimum_of_zero(q).numpy()
    return ops.repack(Unpacked(q.codes_NK.numpy(), q.scale_NG.numpy(), minimum_NG))


def matrix_of(checkpoint, name, how):
    """The matrix as the decoder gets it."""
    return load._repack(checkpoint.tensor(f"{name}.weight"), how, "t2", learned=False)


@pytest.mark.parametrize("name", CASES)
@torch.no_grad()
def test_every_layer_sums_the_integers_of_training(exported, name):
    model, path = exported(name)
    checkpoint = open_checkpoint(path)
    inputs = inputs_of(model)
    layers = {n: m for n, m in bit_linears(model) if m.scheme.weight != "fp"}
    assert layers
    for layer_name, layer in layers.items():
        how, x_TK = layer.scheme, inputs[layer_name]
        matrix = matrix_of(checkpoint, layer_name, how)
        q = layer.codes()
        w_NK = q.codes_NK.to(torch.int64)
        if q.zero_NG is not None and matrix.size_bytes < matrix_with_minimum(q).size_bytes:
            w_NK = w_NK - q.zero_NG.repeat_interleave(len(w_NK[0]) // len(q.zero_NG[0]), dim=1)
        if how.activation == "fp":  # any integers will do
            codes = torch.randint(-127, 128, x_TK.shape, generator=torch.Generator().manual_seed(1))
        else:
            given = layer.input_codes(x_TK)
            codes = given.codes
            turned = layer.turned_input(x_TK).float().contiguous().numpy()
            native = ops.quantize(turned, how.activation, layer.parts, static_of(layer))
            np.testing.assert_array_equal(native[0], codes.numpy())
            scale = given.scale.expand(len(turned), -1)
            np.testing.assert_array_equal(native[1], scale.numpy())
            if given.minimum is None:
                assert native[2] is None
            else:
                minimum = given.minimum.expand(len(turned), -1)
                np.testing.assert_array_equal(native[2], minimum.numpy())
        codes = codes.repeat(1, how.planes)
        sums = ops.int_sums(matrix, codes.to(torch.int8).numpy())
        np.testing.assert_array_equal(sums, (codes.to(torch.int64) @ w_NK.T).numpy())


@pytest.mark.parametrize("name", [name for name in CASES if name not in FLOAT_INPUTS])
@torch.no_grad()
def test_every_layer_computes_what_its_module_does(exported, name):
    """The scales, zero-points and minima around the integers, up to the order of float sums."""
    model, path = exported(name)
    checkpoint = open_checkpoint(path)
    inputs = inputs_of(model)
    for layer_name, layer in bit_linears(model):
        if layer.scheme.weight == "fp":
            continue
        turned = layer.turned_input(inputs[layer_name]).float().contiguous().numpy()
        matrix = matrix_of(checkpoint, layer_name, layer.scheme)
        scheme = layer.scheme
        how = scheme.activation, layer.parts, static_of(layer), scheme.planes
        found = ops.linear(matrix, turned, *how)
        expected = layer(inputs[layer_name]).numpy()
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=2e-6 * np.abs(expected).max())


def test_binary_layers_are_one_bit_a_weight_in_the_file_and_in_memory(exported):
    model, path = exported("bitnet-b1")
    reader = gguf.Reader(path)
    body = [name for name in reader.tensors if "_scale" not in name and "blk." in name]
    matrices = [name for name in body if reader.tensors[name].type.name == "i8"]
    weights = sum(layer.weight.numel() for _, layer in bit_linears(model))
    assert len(matrices) == 14
    assert 8 * sum(reader.data(name).nbytes for name in matrices) == weights
    checkpoint = open_checkpoint(path)
    for name, layer in bit_linears(model):
        assert matrix_of(checkpoint, name, layer.scheme).layout == "b1"


def test_two_bits_of_cache_train_and_do_not_run(architecture, tokenizer, tmp_path):
    scheme = replace(SCHEMES["bitnet-b1.58"], kv_bits=2)
    models.save(models.build(architecture(), scheme, seed=0), tmp_path / "masters", tokenizer)
    models.export(tmp_path / "masters", tmp_path / "m.gguf")
    with pytest.raises(OnebitError, match=r"kv_bits is 2.*trains and does not run") as caught:
        LLM(tmp_path / "m.gguf")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["int4-lsq", "seq", "turned weights", "bitnet-b1"])
def test_masters_are_never_taken_for_codes(exported, name):
    """Not even those of a learned step, nor weights before they are turned."""
    _, path = exported(name)
    with pytest.raises(OnebitError, match="holds float masters of scheme") as caught:
        LLM(path.parent / "masters")
    assert "\n" not in str(caught.value)


def test_a_step_marks_masters_even_on_a_grid(architecture, tokenizer, tmp_path):
    """A step says that weights are still to be rounded, wherever they lie."""
    scheme = Scheme("s", {"body": LinearScheme("ternary", "seq", activation="int8_absmax")})
    model = models.build(architecture(), scheme, seed=0)
    with torch.no_grad():
        for _, layer in bit_linears(model):
            layer.weight.copy_(0.05 * layer.weight.sign())
    models.save(model, tmp_path / "masters", tokenizer)
    with pytest.raises(OnebitError, match="holds float masters of scheme"):
        LLM(tmp_path / "masters")
    models.export(tmp_path / "masters", tmp_path / "m.gguf", embed="f32")
    expected = models.generate(model.eval(), TOKENS[:6], 6)
    with LLM(tmp_path / "m.gguf", kv_bits=32) as llm:
        assert list(llm.generate(TOKENS[:6], max_tokens=6).token_ids) == expected


@pytest.mark.parametrize(
    "name",
    [
        "bitnet-b1",
        "binary in parts by columns",
        "int4 with a zero-point",
        "int8-lsq",
        "turned weights with signs",
        "each projection its own",
        "learned temperature",
        "head with a norm",
    ],
)
def test_a_folder_and_a_gguf_file_are_one_model(exported, tmp_path, name):
    _, path = exported(name)
    models.export(path.parent / "masters", tmp_path / "folder", embed="f32")
    with LLM(tmp_path / "folder", threads=1) as folder, LLM(path, threads=1) as file:
        assert folder.scheme == file.scheme
        ends = {"bos_token_id": None, "eos_token_id": ()}  # which GGUF takes from the tokenizer
        a, b = (replace(llm.architecture, **ends) for llm in (folder, file))
        assert a == b
        np.testing.assert_array_equal(folder.logits(TOKENS), file.logits(TOKENS))


@pytest.mark.parametrize(
    "name", ["bitnet-b1", "int4 with a zero-point", "learned temperature", "head with a norm"]
)
@torch.no_grad()
def test_what_was_exported_is_the_same_model_in_torch(exported, name):
    model, path = exported(name)
    again = models.load(path)
    expected = model(torch.tensor([TOKENS]))
    torch.testing.assert_close(again(torch.tensor([TOKENS])), expected, rtol=0, atol=1e-4)
