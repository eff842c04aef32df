"""Files of every type that the engine reads, from bytes to logits, beside the torch model."""

import numpy as np
import pytest

from onebit import LLM, models
from onebit.eval import shapes
from onebit.io import gguf, gguf_names, open_checkpoint
from onebit.io.gguf_config import config_to_metadata
from onebit.io.gguf_types import PLAIN, READABLE
from onebit.pack import FORMATS, Unpacked
from onebit.tensors import linears, norms

FLOATS = ("f32", "f16", "bf16")
TERNARY = ("tq1_0", "tq2_0", "i2_s", "q2_0", "q2_0_g128")
KINDS = [*FLOATS, *(name for name in READABLE if name not in PLAIN)]
SHAPE = shapes.as_llama(shapes.find("tiny"))  # in files of type llama, rows of q and k are permuted
TOKENS = np.random.default_rng(0).integers(0, SHAPE.vocab_size, 40).tolist()


def floats(kind, N, K, rng):
    values = (rng.standard_normal((N, K)) / np.sqrt(K)).astype("<f4")
    if kind == "bf16":
        return (values.view("<u4") >> 16).astype("<u2").view(np.uint8)
    return values.astype(f"<f{int(kind[1:]) // 8}").view(np.uint8)


def blocks(kind, N, K, rng, ternary):
    """Random bytes that mean something, with weights of about the size 1 / sqrt(K)."""
    form = FORMATS[kind]
    if ternary and form.packs:
        codes_NK = rng.integers(-1, 2, (N, K), dtype=np.int8)
        return form.pack(Unpacked(codes_NK, np.full((N, 1), K**-0.5, np.float32)))
    data = rng.integers(0, 256, (N * K // form.columns, form.block_bytes), dtype=np.uint8)
    if ternary:  # no pair 3
        data[:, 2:] &= ~((data[:, 2:] & 0x55) << 1)
    greatest = max(map(abs, form.codes)) * (64 if kind.endswith("_k") else 1)
    for at in form.factors:
        half = (rng.uniform(0.5, 1, len(data)) * K**-0.5 / greatest).astype("<f2")
        data[:, at : at + 2] = half[:, None].view(np.uint8)
    return data


def write(path, kind, ternary):
    """A model whose linear layers are all of one type; its embedding too, but for i2_s."""
    rng = np.random.default_rng(1)
    tensors = {}
    for linear in linears(SHAPE):
        own = "f16" if kind == "i2_s" and linear.name in shapes.ENDS else kind
        shape = (linear.N, linear.K)
        data = floats(own, *shape, rng) if own in FLOATS else blocks(own, *shape, rng, ternary)
        tensors[linear.name] = own, shape, data.reshape(-1)
    for name, size in norms(SHAPE):
        tensors[name] = "f32", (size,), rng.uniform(0.5, 1.5, size).astype("f4")
    tensors = {gguf_names.to_gguf(f"{name}.weight"): tensor for name, tensor in tensors.items()}
    declared = [gguf.Declared(name, own, shape) for name, (own, shape, _) in tensors.items()]
    with gguf.Writer(path, config_to_metadata(SHAPE.to_config()), declared) as writer:
        for name, (_, _, data) in tensors.items():
            writer.write(name, data)


def rms_error(path):
    """Of the engine's logits, relative to how far those of torch are spread."""
    import torch

    with torch.no_grad():
        expected = models.load(path).eval()(torch.tensor([TOKENS]))[0].numpy()
    with LLM(path, kv_bits=32) as llm:
        return np.sqrt(((llm.logits(TOKENS) - expected) ** 2).mean() / expected.var())


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_of_every_type_runs(tmp_path, kind):
    path = tmp_path / "model.gguf"
    write(path, kind, ternary=kind in ("tq1_0", "tq2_0", "i2_s"))
    assert open_checkpoint(path).tensor("model.layers.0.mlp.up_proj.weight").format == kind
    # Floats are computed as floats; else inputs are rounded to int8, in torch only for i2_s.
    assert rms_error(path) < (1e-3 if kind in FLOATS else 0.03)


@pytest.mark.parametrize("kind", TERNARY)
def test_what_types_mean_is_told_by_the_codes_of_q2_0(tmp_path, kind):
    path = tmp_path / "model.gguf"
    write(path, kind, ternary=True)
    with LLM(path) as llm:
        assert llm.scheme.name == ("bitnet-b1.58" if kind == "i2_s" else "ternary-weights")
    assert rms_error(path) < 0.03
    if kind.startswith("q2_0"):
        write(path, kind, ternary=False)
        with LLM(path) as llm:
            assert llm.scheme.name == "fp"
