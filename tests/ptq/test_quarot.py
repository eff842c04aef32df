"""QuaRot: what is turned where, and that it helps where inputs have outliers."""

import numpy as np
import pytest
import torch

from onebit import LLM, models, ptq, quant
from onebit.nn import BitLinear
from onebit.ptq.calibration import Calibration
from onebit.ptq.float_model import float_model
from onebit.ptq.options import Options
from onebit.ptq.quarot import online, quarot, random_turns, randomized
from onebit.ptq.rotate import Rotated, Turns
from onebit.scheme import Scheme, find

TOKENS = torch.arange(40).view(2, 20) * 7 % 50


@pytest.mark.parametrize("size", [8, 24, 40, 64, 576])
def test_randomized_is_orthogonal(size):
    Q = randomized(size, seed=4)
    torch.testing.assert_close(Q @ Q.T, torch.eye(size), rtol=0, atol=1e-5)
    assert torch.unique((Q[:8, :8] * size**0.5).abs().round(decimals=3)).tolist() == [1.0]


def test_rotations_differ_by_seed_layer_and_use():
    assert not torch.equal(randomized(24, 1), randomized(24, 2))


def test_online_turns_are_on_o_and_down_alone(tiny_source):
    a = tiny_source().architecture
    scheme = online(find("w4a4kv4"), a, seed=0)
    for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
        linear = scheme.linear(f"model.layers.0.self_attn.{name}")
        assert linear.hadamard == ("both" if name == "o_proj" else "none")
    assert scheme.linear("model.layers.1.mlp.down_proj").signs > 0
    assert scheme.linear("model.layers.1.mlp.up_proj").hadamard == "none"
    assert set(online(find("w4a8"), a, seed=0).layers) == {"body", "o", "down"}
    assert scheme.kv_bits == 4


def test_online_turns_in_a_mixed_scheme(tiny_source):
    """Layers by name keep their own bits; floats are not turned."""
    a = tiny_source().architecture
    body = find("w3a16-g8").layers["body"]
    wide = find("w8a16-row").layers["body"]
    mixed = Scheme("mixed", {"model.layers.0.*": wide, "*.1.mlp.down_proj": body})
    scheme = online(mixed, a, seed=0)
    assert scheme.linear("model.layers.0.mlp.down_proj").hadamard == "both"
    assert scheme.linear("model.layers.0.mlp.down_proj").weight == "int8"
    assert scheme.linear("model.layers.0.mlp.up_proj") == wide
    assert scheme.linear("model.layers.1.mlp.down_proj").weight == "int3"
    assert scheme.linear("model.layers.1.mlp.down_proj").hadamard == "both"
    assert scheme.linear("model.layers.1.self_attn.o_proj").hadamard == "none"


def test_without_a_turned_stream_every_input_is_turned_online(tiny_source):
    source = tiny_source(model_type="bitnet", sub_norms=True, hidden_act="relu2")
    rotated, scheme = quarot(source, find("w4a4"), None, Options())
    assert scheme.linear("model.layers.0.self_attn.q_proj").hadamard == "both"
    assert scheme.linear("model.layers.1.mlp.up_proj").hadamard == "both"
    assert rotated.config == source.config


def test_float_function_stays_with_online_turns(tiny_source):
    """8 bits are fine enough to see that both sides of every turn meet (0.027 here)."""
    source = tiny_source()
    rotated, scheme = quarot(source, find("w8a16-row"), None, Options(seed=7))
    with torch.no_grad():
        before = float_model(source, find("fp"))(TOKENS)
        after = float_model(rotated, scheme)(TOKENS)
    assert (after - before).norm() / before.norm() < 0.05


def test_outliers_cost_less_when_turned(tiny_source):
    """W4A4 of one linear whose input has a channel 30 times as large as the others."""
    source = tiny_source(hidden_size=96, intermediate_size=96)
    turns = random_turns(source.architecture, seed=0)
    name = "model.layers.0.mlp.up_proj.weight"
    fused = Rotated(source, Turns(torch.eye(96))).tensor(name)
    turned = Rotated(source, turns).tensor(name)
    x = torch.randn(64, 96, generator=torch.Generator().manual_seed(0))
    x[:, 5] *= 30
    right = x @ fused.T

    def error(x, w):
        linear = BitLinear(96, 96, scheme=find("w4a4").layers["body"])
        linear.weight.data = w
        return float((linear(x) - right).detach().norm() / right.norm())

    assert error(x @ turns.residual_CC, turned) < 0.5 * error(x, fused)


def test_signs_keep_the_turns_of_o_from_undoing_that_of_its_values():
    """Sylvester's matrices are their own inverse: without signs, half of the turn would vanish."""
    spread = torch.eye(64)[0].repeat(4)  # one large value in each of 4 heads
    R = randomized(64, seed=1)
    heads = (spread.view(4, 64) @ R).view(-1)
    signs = torch.from_numpy(quant.hadamard.hadamard.signs(9, 256))
    assert quant.hadamard.transform(heads, signs).abs().max() < 0.5


SIZES = {"hidden_size": 64, "intermediate_size": 96, "head_dim": 16}


@pytest.mark.parametrize("method", ["quarot+rtn", "quarot"])
def test_the_file_is_the_rotated_model_and_runs(tiny_source, tmp_path, method):
    """Torch and the engine read it, untied head, online turns, 4-bit inputs."""
    model = tiny_source(**SIZES).checkpoint.path
    out = tmp_path / "out"
    text = Calibration("test", TOKENS.numpy(), "")
    report = ptq.quantize(model, out, method=method, scheme="w4a4", calibration=text)
    assert len(report.rows) == 14
    loaded = models.load(out)
    assert not loaded.architecture.tie_word_embeddings
    down = loaded.scheme.linear("model.layers.1.mlp.down_proj")
    assert (down.hadamard, down.activation) == ("both", "int4_absmean")
    with torch.no_grad():
        torch_logits = loaded(TOKENS[:1])[0].numpy()
    with LLM(out, kv_bits=32) as llm:
        engine_logits = llm.logits(TOKENS[0].tolist())
    miss = np.linalg.norm(engine_logits - torch_logits) / np.linalg.norm(torch_logits)
    assert miss < 0.02
