"""Folded rotations leave the function as it is, and move what they should."""

import pytest
import torch

from onebit.errors import ShapeError, UnsupportedError
from onebit.ptq.float_model import float_model
from onebit.ptq.quarot import random_turns, randomized
from onebit.ptq.rotate import HEAD, NORM, Rotated, Turns, split
from onebit.scheme import find

TOKENS = torch.arange(40).view(2, 20) * 7 % 50


def logits(source):
    with torch.no_grad():
        return float_model(source, find("fp"))(TOKENS)


FAMILIES = {
    "tied": {"tie_word_embeddings": True},
    "untied": {"tie_word_embeddings": False},
    "biases": {"qkv_bias": True, "out_bias": True, "mlp_bias": True},
    "qwen2": {"model_type": "qwen2", "qkv_bias": True},
    "qwen3": {"model_type": "qwen3", "qk_norm": True},
    "one head each": {"num_key_value_heads": 4},
}


@pytest.mark.parametrize("changes", FAMILIES.values(), ids=FAMILIES)
def test_function_stays(tiny_source, changes):
    source = tiny_source(**changes)
    rotated = Rotated(source, random_turns(source.architecture, seed=3))
    before, after = logits(source), logits(rotated)
    assert before.std() > 0.05
    torch.testing.assert_close(after, before, rtol=0, atol=1e-4)
    w, turned = (s.tensor("model.layers.1.mlp.up_proj.weight") for s in (source, rotated))
    assert (w - turned).norm() > w.norm() / 2


def test_tensors_are_those_of_the_formula(tiny_source):
    source = tiny_source(qkv_bias=True, out_bias=True)
    turns = random_turns(source.architecture, seed=0)
    Q, R = turns.residual_CC, turns.values_DD[1]
    rotated = Rotated(source, turns)
    at = "model.layers.1.self_attn."
    norm = source.tensor("model.layers.1.input_layernorm.weight")
    v = source.tensor(f"{at}v_proj.weight") * norm @ Q
    v = torch.cat([R.T @ head for head in v.split(8)])
    torch.testing.assert_close(rotated.tensor(f"{at}v_proj.weight"), v)
    b = torch.cat([R.T @ head for head in source.tensor(f"{at}v_proj.bias").split(8)])
    torch.testing.assert_close(rotated.tensor(f"{at}v_proj.bias"), b)
    o = Q.T @ source.tensor(f"{at}o_proj.weight")
    o = torch.cat([head @ R for head in o.split(8, dim=1)], dim=1)
    torch.testing.assert_close(rotated.tensor(f"{at}o_proj.weight"), o)
    torch.testing.assert_close(
        rotated.tensor(f"{at}o_proj.bias"), Q.T @ source.tensor(f"{at}o_proj.bias")
    )
    assert torch.equal(rotated.tensor(f"{at}q_proj.bias"), source.tensor(f"{at}q_proj.bias"))
    assert rotated.stored(f"{at}q_proj.weight") is None


def test_the_head_is_untied_only_where_the_last_norm_has_weights(tiny_source):
    source = tiny_source(tie_word_embeddings=True)
    eye = torch.eye(24)
    fused = Rotated(source, Turns(eye))
    assert HEAD in fused.names()
    assert not fused.config["tie_word_embeddings"]
    assert torch.equal(fused.tensor(NORM), torch.ones(24))
    source.config["tie_word_embeddings"] = True
    flat = Rotated(source, Turns())
    assert HEAD not in flat.names()
    assert flat.stored(NORM) is not None
    assert torch.equal(flat.tensor(NORM), source.tensor(NORM))


def test_rotating_twice_is_one_rotation(tiny_source):
    source = tiny_source()
    Q, P = randomized(24, 5), randomized(24, 6)
    twice = Rotated(Rotated(source, Turns(Q)), Turns(P))
    once = Rotated(source, Turns(Q @ P))
    for name in once.names():
        torch.testing.assert_close(twice.tensor(name), once.tensor(name), rtol=0, atol=1e-5)


def test_outliers_are_spread(tiny_source):
    """A channel of the stream that is 30 times as large, which is what rotations are for."""
    source = tiny_source()
    plain = source.tensor
    source.tensor = lambda name: (
        plain(name) * (1 + 29 * (torch.arange(24) == 3)) if "embed" in name else plain(name)
    )
    rotated = Rotated(source, random_turns(source.architecture, seed=0))
    before, after = (s.tensor("model.embed_tokens.weight") for s in (source, rotated))
    crest = [float((w.abs().amax(1) / w.square().mean(1).sqrt()).median()) for w in (before, after)]
    assert crest[0] > 4
    assert crest[1] < 2.2  # one value alone would be spread to 1


@pytest.mark.parametrize(
    ("turns", "message"),
    [
        (Turns(torch.eye(23)), r"the stream is \(23, 23\); this model needs \(24, 24\)"),
        (Turns(None, [torch.eye(8)]), "1 matrices for values, and the model has 2 layers"),
        (Turns(None, [torch.eye(8), torch.eye(4)]), r"layer 1's values is \(4, 4\)"),
    ],
)
def test_matrices_that_do_not_fit_are_refused(tiny_source, turns, message):
    with pytest.raises(ShapeError, match=message):
        Rotated(tiny_source(), turns)


def test_norms_behind_linears_are_refused(tiny_source):
    source = tiny_source(model_type="bitnet", sub_norms=True, hidden_act="relu2")
    with pytest.raises(UnsupportedError, match="a bitnet model has norms behind its linears"):
        Rotated(source, Turns(torch.eye(24)))


def test_names_are_taken_apart():
    assert split("model.layers.12.mlp.up_proj.bias") == (12, "mlp.up_proj", "bias")
    assert split("model.norm.weight")[0] == -1
