"""A new model: the same weights for the same seed, the spread that is promised, no surprises."""

import math
import subprocess
import sys
from dataclasses import replace

import pytest
import torch

from onebit import Architecture, OptionError, models, tensors
from onebit.nn import BitLinear
from onebit.scheme import SCHEMES, LinearScheme, Scheme

LAYERS = 8
A = Architecture(97, 64, 96, LAYERS, 4, 2, 16)
BITNET = Architecture(
    97, 64, 96, 1, 4, 2, 16, model_type="bitnet", hidden_act="relu2", sub_norms=True
)
TOKENS = torch.randint(0, 97, (2, 9), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", SCHEMES)
def test_every_scheme_builds_trains_and_gives_float32_logits(name):
    a = replace(A, tie_word_embeddings=name != "matmulfree")  # whose head is ternary
    model = models.build(a, SCHEMES[name], seed=1)
    logits = model(TOKENS)
    assert logits.shape == (2, 9, 97)
    assert logits.dtype == torch.float32
    logits.square().mean().backward()
    for parameter_name, parameter in model.named_parameters():
        assert parameter.grad is not None, parameter_name
        assert torch.isfinite(parameter.grad).all(), parameter_name


def test_a_ternary_model_and_its_float_twin_begin_equal():
    one, two = models.build(A, SCHEMES["fp"], 1), models.build(A, SCHEMES["bitnet-b1.58"], 1)
    for (name, p), (other, q) in zip(one.named_parameters(), two.named_parameters(), strict=True):
        assert name == other
        assert torch.equal(p, q)
    assert not torch.equal(one(TOKENS), two(TOKENS))


def test_seeds_differ_and_the_global_generator_is_left_alone():
    torch.manual_seed(5)
    state = torch.random.get_rng_state()
    one, two = models.build(A, SCHEMES["fp"], 1), models.build(A, SCHEMES["fp"], 2)
    assert not torch.equal(one.model.embed_tokens.weight, two.model.embed_tokens.weight)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_the_spread_of_the_weights():
    model = models.build(A, SCHEMES["fp"], seed=1)
    for name, p in model.named_parameters():
        if p.ndim == 1:
            assert (p == 1).all(), name
        else:
            residual = name.endswith(("o_proj.weight", "down_proj.weight"))
            std = 0.02 / math.sqrt(2 * LAYERS) if residual else 0.02
            assert p.std().item() == pytest.approx(std, rel=0.1), name


def test_the_embedding_may_have_a_spread_of_its_own():
    plain, wide = (models.build(A, SCHEMES["fp"], 1, std) for std in (0.02, 0.16))
    table = wide.model.embed_tokens.weight
    torch.testing.assert_close(table, 8 * plain.model.embed_tokens.weight)
    names = {name for name, p in wide.named_parameters() if p is not table}
    others = dict(plain.named_parameters())
    assert all(torch.equal(wide.get_parameter(name), others[name]) for name in names)


def test_steps_begin_at_the_weights_and_do_not_move_them():
    """A group's step has two dimensions, like a matrix, and is none."""
    group = LinearScheme("int4", "lsq", "group:16", "int8_absmax")
    model = models.build(A, Scheme("group", {"body": group}), seed=1)
    twin = dict(models.build(A, SCHEMES["fp"], 1).named_parameters())
    for name, p in model.named_parameters():
        if name.endswith(".step"):
            w = twin[f"{name.removesuffix('.step')}.weight"].view(*p.shape, 16)
            torch.testing.assert_close(p, 2 * w.abs().mean(dim=2) / 7**0.5)
        else:
            assert torch.equal(p, twin[name]), name


def test_parts_of_the_architecture_that_are_ours():
    a = replace(A, pre_norms=False, softmax_temperature=0.5, learned_temperature=True)
    model = models.build(a, SCHEMES["bitnet-b1"], seed=1)
    assert not any("layernorm" in name for name in model.state_dict())
    assert model.model.layers[0].self_attn.temperature.tolist() == [0.5] * 4
    assert {name: tuple(p.shape) for name, p in model.named_parameters()} == tensors.shapes(
        a, SCHEMES["bitnet-b1"]
    )
    model(TOKENS).square().mean().backward()
    assert all(p.grad is not None for p in model.parameters())
    fixed = models.build(replace(A, softmax_temperature=0.5), SCHEMES["fp"], seed=1)
    assert not torch.equal(fixed(TOKENS), models.build(A, SCHEMES["fp"], seed=1)(TOKENS))


@pytest.mark.parametrize("name", SCHEMES)
def test_tensors_are_those_that_the_shapes_say(name):
    a = replace(A, tie_word_embeddings=name != "matmulfree")  # whose head is ternary
    model = models.build(a, SCHEMES[name], seed=1)
    found = {name: tuple(p.shape) for name, p in model.named_parameters()}
    assert found == tensors.shapes(a, SCHEMES[name])


def test_each_projection_has_its_own_bits():
    """Those of q win over those of qkv; what nobody names stays a plain linear layer."""
    scheme = Scheme(
        "mix",
        {
            "qkv": LinearScheme("int4", "absmax", "row", "int8_absmax"),
            "q": LinearScheme("ternary", activation="int4_absmean"),
            "o": LinearScheme("int8", "zero_point", "row", "int3_absmax"),
        },
    )
    attention = models.build(A, scheme, seed=1).model.layers[0].self_attn
    projections = {name: getattr(attention, f"{name}_proj") for name in "qkvo"}
    assert {name: layer.scheme.weight for name, layer in projections.items()} == {
        "q": "ternary",
        "k": "int4",
        "v": "int4",
        "o": "int8",
    }
    x = torch.randn(1, 5, 64, generator=torch.Generator().manual_seed(0))
    for layer, codes in zip(projections.values(), (3, 15, 15, 256), strict=True):
        assert layer.codes().codes_NK.unique().numel() <= codes
        assert layer(x[..., : layer.in_features]).isfinite().all()
    assert type(models.build(A, scheme, seed=1).model.layers[0].mlp.up_proj) is torch.nn.Linear


def test_more_heads_at_equal_parameters():
    """Half the size of a head: the matrices are the same, the scores twice as many."""
    b = replace(A, num_attention_heads=8, num_key_value_heads=4, head_dim=8)
    one, two = (models.build(a, SCHEMES["ternary-attention"], 1) for a in (A, b))
    for (name, p), (other, q) in zip(one.named_parameters(), two.named_parameters(), strict=True):
        assert (name, p.shape) == (other, q.shape)
    assert not torch.allclose(one(TOKENS), two(TOKENS), rtol=1e-3, atol=1e-3)


def test_biases_begin_at_zero():
    a = Architecture(97, 64, 96, 1, 4, 2, 16, model_type="qwen2", qkv_bias=True)
    model = models.build(a, SCHEMES["fp"], seed=1)
    assert not model.model.layers[0].self_attn.q_proj.bias.any()
    assert model.model.layers[0].self_attn.o_proj.bias is None


def test_bitnet_has_its_sub_norms_and_tied_embeddings():
    model = models.build(BITNET, SCHEMES["bitnet-b1.58"], seed=1)
    names = set(model.state_dict())
    assert "model.layers.0.self_attn.attn_sub_norm.weight" in names
    assert "model.layers.0.mlp.ffn_sub_norm.weight" in names
    assert "lm_head.weight" not in names
    assert isinstance(model.model.layers[0].mlp.down_proj, BitLinear)


def test_a_tied_head_cannot_be_quantized_alone():
    scheme = Scheme("head", {"head": LinearScheme("ternary")})
    with pytest.raises(OptionError, match=r'shares the embedding.*Take "head" out'):
        models.build(A, scheme, seed=1)


def test_an_untied_head_can():
    a = Architecture(97, 64, 96, 1, 4, 2, 16, tie_word_embeddings=False)
    model = models.build(a, Scheme("head", {"head": LinearScheme("int8", "absmax", "row")}), 1)
    assert isinstance(model.lm_head, BitLinear)
    assert model(TOKENS).shape == (2, 9, 97)


def test_every_model_type_has_its_family():
    from onebit.architecture import MODEL_TYPES

    assert set(models.FAMILIES) == set(MODEL_TYPES)


def test_building_does_not_load_torchs_compiler():
    """A second of import time, for drawing weights that nobody uses."""
    code = (
        "import sys; from onebit import Architecture, models; from onebit.scheme import SCHEMES;"
        "models.build(Architecture(29, 32, 64, 1, 4, 2, 8), SCHEMES['bitnet-b1.58'], 1);"
        "sys.exit('torch._dynamo' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
