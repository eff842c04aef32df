"""Sensitivity: each measure against what it stands for, on models small enough to know it."""

import pytest
import torch
from tests.analyze.test_layer_inputs import tiny, tokens

from onebit import quant
from onebit.errors import FormatError, InputError, OptionError, ShapeError
from onebit.ptq import fisher, loss, sensitivity
from onebit.ptq.loss import Prefix
from onebit.ptq.options import Options
from onebit.ptq.plan import uniform

UP, DOWN, Q = (
    f"model.layers.1.{name}" for name in ("mlp.up_proj", "mlp.down_proj", "self_attn.q_proj")
)


def lively(act="silu"):
    """A model whose layers matter: the first weights of a model hardly move its loss."""
    model = tiny(act=act)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 2:
                parameter.mul_(6 if "embed" in name else 8)
    return model


def kl(model, tokens_WT, weights):
    """Mean divergence of the predictions when weights are replaced, nats per token."""
    with torch.no_grad():
        before = torch.log_softmax(model(tokens_WT), -1)
        with loss.replaced(model, weights):
            after = torch.log_softmax(model(tokens_WT), -1)
    return float((before.exp() * (before - after)).sum(-1).mean())


def test_trace_is_the_mean_curvature_over_directions():
    """KL(p, p moved by e) is 1/2 e' H e, and over random directions 1/2 |e|^2 trace / n."""
    model, random = lively(), torch.Generator().manual_seed(0)
    draws = [fisher.curvatures(model, tokens(), [UP], seed)[UP].trace for seed in range(25)]
    w_NK = model.get_submodule(UP).weight.detach()
    curved = []
    for _ in range(40):
        d_NK = torch.randn(w_NK.shape, generator=random)
        d_NK *= 3e-2 / d_NK.norm()
        both = [kl(model, tokens(), {UP: w_NK + sign * d_NK}) for sign in (1, -1)]
        curved.append(sum(both) / float(d_NK.square().sum()))  # odd terms cancel
    trace = sum(curved) / len(curved) * w_NK.numel()
    assert sum(draws) / len(draws) == pytest.approx(trace, rel=0.15)


def test_fisher_predicts_the_divergence_of_rounding():
    model = lively()
    seeds = range(10)
    for layer in (UP, DOWN, Q):
        for word in ("w4a16-row", "w6a16-row"):
            rows = [
                sensitivity.measure(
                    model, tokens(), [word], layers=[layer], options=Options(seed=seed)
                ).entries[0]
                for seed in seeds
            ]
            w_NK = model.get_submodule(layer).weight.detach()
            w_hat_NK = sensitivity.rounded(w_NK, uniform(word).held(layer), None)
            truth = kl(model, tokens(), {layer: w_hat_NK})
            assert 0.5 < sum(row.fisher for row in rows) / len(seeds) / truth < 2


def test_curvature_leaves_the_model_as_it_was():
    model = lively()
    flags = [parameter.requires_grad for parameter in model.parameters()]
    fisher.curvatures(model, tokens(), sensitivity.body(model))
    assert [parameter.requires_grad for parameter in model.parameters()] == flags
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_weight_and_output_error_are_what_they_say():
    model, seen = lively(), []
    hook = model.get_submodule(DOWN).register_forward_pre_hook(lambda _, x: seen.append(x[0]))
    with torch.no_grad():
        model(tokens())
    hook.remove()
    words, whole = ["w3a16-row", "q8_0"], Options(clip="none")
    table = sensitivity.measure(model, tokens(), words, options=whole, layers=[DOWN, Q])
    assert [(e.layer, e.word) for e in table.entries] == [
        (layer, word) for layer in (DOWN, Q) for word in ("w3a16-row", "q8_0")
    ]
    entry = table.entries[0]
    x_TK, w_NK = seen[0].flatten(0, 1), model.get_submodule(DOWN).weight.detach()
    w_hat_NK = quant.dequantize(quant.integer.quantize_zero_point(w_NK, 3, 64))
    d_NK = w_NK - w_hat_NK
    assert entry.weight == pytest.approx(float((d_NK.norm() / w_NK.norm()) ** 2), rel=2e-2)
    expected = (x_TK @ d_NK.T).square().sum() / (x_TK @ w_NK.T).square().sum()
    assert entry.output == pytest.approx(float(expected), rel=2e-2)
    assert table.entries[1].output < entry.output / 100


def test_layers_that_share_their_input_share_its_statistics():
    model = lively()
    stats = sensitivity.record(model, tokens(), sensitivity.body(model))
    q, k, v, o = (stats[f"model.layers.0.self_attn.{p}_proj"] for p in "qkvo")
    assert q is k is v
    assert o is not q
    assert stats[UP] is stats["model.layers.1.mlp.gate_proj"] is not stats[Q]
    assert len(stats) == 14


def test_loss_from_a_layer_on_is_the_loss_of_everything():
    model = lively()
    prefix = Prefix(model, tokens())
    w_NK = model.get_submodule(UP).weight
    changed = {UP: torch.zeros_like(w_NK), DOWN.replace("1", "0"): model.get_submodule(DOWN).weight}
    for weights in ({UP: changed[UP]}, changed, {}):
        with loss.replaced(model, weights):
            expected = Prefix(model, tokens()).base
        assert prefix.with_weights(weights) == expected
    assert model.get_submodule(UP).weight is w_NK
    assert Prefix(model, tokens()).base == prefix.base
    assert len(model.model.layers) == 2


def test_measured_losses_are_rises_over_the_base():
    model = lively()
    table = sensitivity.measure(model, tokens(), ["w2a16-row", "w8a16-row"], losses=1)
    by_word = {w: [e.loss for e in table.entries if e.word == w] for w in table.made["words"]}
    assert max(map(abs, by_word["w8a16-row"])) < max(map(abs, by_word["w2a16-row"])) / 10
    assert set(table.of_roles("w2a16-row", "loss")) == set("qkvo") | {"gate", "up", "down"}


def test_halves_apart_and_together():
    model = lively()
    prefix = Prefix(model, tokens())
    words = {
        name: sensitivity.rounded(
            model.get_submodule(name).weight.detach(), uniform("w2a16-row").held(name), None
        )
        for name in sensitivity.body(model)
    }
    effect = loss.order_effect(prefix, words)
    assert effect.base == prefix.base
    assert effect.both == prefix.with_weights(words)
    assert effect.excess == pytest.approx(
        effect.both + effect.base - effect.attention - effect.mlp, abs=1e-12
    )
    with pytest.raises(OptionError, match="attention and of MLP"):
        loss.order_effect(prefix, {UP: words[UP]})


def test_what_does_not_fit_a_width_is_left_out_for_that_layer():
    table = sensitivity.measure(
        lively(), tokens(), ["w4a16-g64", "q8_0"], layers=[UP, DOWN]
    ).of_layers()
    assert [e.word for e in table[UP]] == ["q8_0"]  # 32 columns
    assert [e.word for e in table[DOWN]] == ["w4a16-g64", "q8_0"]
    with pytest.raises(ShapeError, match=r"up_proj fits none of q4_k: .*256"):
        sensitivity.measure(lively(), tokens(), ["q4_k"], layers=[UP])


def test_tables_are_read_back(tmp_path):
    table = sensitivity.measure(lively(), tokens(), ["w4a16-row"], losses=2)
    table.write(tmp_path / "s.json")
    assert sensitivity.read(tmp_path / "s.json") == table
    (tmp_path / "bad.json").write_text('{"entries": [{}], "made": {}}')
    with pytest.raises(FormatError, match="no sensitivity table"):
        sensitivity.read(tmp_path / "bad.json")


def test_wrong_use_is_one_line():
    model = lively()
    with pytest.raises(OptionError, match="no scheme was named"):
        sensitivity.measure(model, tokens(), [])
    with pytest.raises(OptionError, match="rounds nothing"):
        sensitivity.measure(model, tokens(), ["keep"])
    with pytest.raises(InputError, match="at least 2 tokens"):
        Prefix(model, tokens()[:, :1])
    with pytest.raises(InputError, match="no windows"):
        fisher.curvatures(model, tokens()[:0], [UP])
    entry = sensitivity.measure(model, tokens(), ["w4a16-row"], layers=[UP]).entries[0]
    with pytest.raises(OptionError, match="accepted: weight, output, trace, fisher"):
        entry.cost("loss")
    with torch.no_grad():
        model.get_submodule(UP).weight[0, 0] = float("nan")
    with pytest.raises(InputError, match="no number"):
        Prefix(model, tokens())
