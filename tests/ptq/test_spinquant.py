"""SpinQuant: steps stay orthogonal and go down; what is learned computes alike, rounds better."""

import pytest
import torch
import torch.nn.functional as F

from onebit import models, ptq
from onebit.errors import OptionError
from onebit.ptq.calibration import Calibration
from onebit.ptq.float_model import float_model
from onebit.ptq.options import Options
from onebit.ptq.quarot import quarot, random_turns
from onebit.ptq.rotate import Rotated, Turns
from onebit.ptq.spinquant import cayley_step, learn, spinquant
from onebit.scheme import find

TOKENS = torch.randint(50, (4, 24), generator=torch.Generator().manual_seed(5))


def orthogonal(size):
    random = torch.Generator().manual_seed(size)
    return torch.linalg.qr(torch.randn(size, size, generator=random).double()).Q


@torch.no_grad()
def text_of(source):
    """Text that the float model knows best: its own."""
    model, tokens = float_model(source, find("fp")), TOKENS[:, :1].repeat(4, 1)
    random = torch.Generator().manual_seed(0)
    for _ in range(24):
        share = model(tokens)[:, -1].softmax(dim=1)
        tokens = torch.cat([tokens, torch.multinomial(share, 1, generator=random)], dim=1)
    return tokens


def test_steps_stay_orthogonal_and_find_a_rotation():
    """From one rotation to another: |X R - Y|^2 has its minimum 0 at the R that made Y."""
    random = torch.Generator().manual_seed(0)
    X = torch.randn(40, 12, generator=random).double()
    A = torch.randn(12, 12, generator=random).double()
    goal = torch.matrix_exp(0.3 * (A - A.T) / 2) @ orthogonal(12)
    R, speed = orthogonal(12), torch.zeros(12, 12).double()
    Y = X @ goal
    first = float((X @ R - Y).square().mean())
    for _ in range(200):
        slope = 2 * X.T @ (X @ R - Y) / Y.numel()
        R, speed = cayley_step(R, slope, speed, rate=0.5)
    torch.testing.assert_close(R @ R.T, torch.eye(12).double(), rtol=0, atol=1e-10)
    assert float((X @ R - Y).square().mean()) < 1e-3 * first


def test_a_step_is_the_fixed_point_of_the_papers_iteration():
    random = torch.Generator().manual_seed(1)
    R = orthogonal(8)
    slope, speed = (0.1 * torch.randn(8, 8, generator=random).double() for _ in range(2))
    moved, along = cayley_step(R, slope, speed, rate=0.2)
    V = 0.9 * speed - slope
    hat = V @ R.T - 0.5 * R @ (R.T @ V @ R.T)
    Y = hat - hat.T
    X = R + 0.2 * V
    for _ in range(30):
        X = R + 0.2 * Y @ (R + X) / 2
    torch.testing.assert_close(moved, X, rtol=0, atol=1e-12)
    torch.testing.assert_close(along, Y @ R, rtol=0, atol=1e-12)


def with_outliers(source):
    """The same function, one channel of its stream 10 times as large, and read by less."""
    plain, large = source.tensor, 1 + 9.0 * (torch.arange(24) == 5)

    def tensor(name):
        w = plain(name)
        if "embed" in name:
            return w * large
        if name.endswith(("o_proj.weight", "down_proj.weight")):
            return w * large[:, None]
        if name == "model.norm.weight":
            return w / large**2  # its head is the embedding
        return w / large if name.endswith("_proj.weight") else w

    source.tensor = tensor
    return source


@pytest.mark.parametrize(
    ("name", "rate", "start", "less"),
    [
        ("w4a3", 0.1, Turns(torch.eye(24), [torch.eye(8)] * 2), 0.08),
        ("w2a16-g8", 0.05, None, 0.08),
    ],
    ids=["inputs", "weights"],
)
def test_learning_lowers_the_loss_of_what_is_rounded(tiny_source, name, rate, start, less):
    """From the unturned model, whose inputs have an outlier; from a random one, weights alone."""
    source = tiny_source()
    source = source if start is None else with_outliers(source)
    losses, options = [], Options(iterations=30, learning_rate=rate)
    text = text_of(source)
    whole, seen = len(text), losses.append
    learn(source, find(name), text, options, start, whole, progress=lambda _, loss: seen(loss))
    assert sum(losses[-5:]) / 5 < losses[0] - less


def test_the_function_stays(tiny_source):
    source = tiny_source(qkv_bias=True, out_bias=True)
    turns = learn(source, find("w4a4"), TOKENS, Options(iterations=5))
    Q = turns.residual_CC
    torch.testing.assert_close(Q @ Q.T, torch.eye(24), rtol=0, atol=1e-5)
    start = random_turns(source.architecture, 0)
    assert (Q - start.residual_CC).abs().max() > 1e-3
    assert all(not torch.equal(R, S) for R, S in zip(turns.values_DD, start.values_DD, strict=True))
    with torch.no_grad():
        before = float_model(source, find("fp"))(TOKENS)
        after = float_model(Rotated(source, turns), find("fp"))(TOKENS)
    torch.testing.assert_close(after, before, rtol=0, atol=1e-4)


def test_the_network_it_learns_on_is_the_one_that_comes_out(tiny_source):
    """The loss at step 0 is that of `quarot`'s model with the same roundings."""
    source, options = tiny_source(), Options(iterations=1)
    first = []
    learn(
        source,
        find("w8a8kv8-row"),
        TOKENS[:1],
        options,
        progress=lambda _, value: first.append(value),
    )
    rotated, scheme = quarot(source, find("w8a8kv8-row"), None, options)
    with torch.no_grad():
        logits = float_model(rotated, scheme)(TOKENS[:1])
    right = F.cross_entropy(logits[0, :-1], TOKENS[0, 1:])
    assert first[0] == pytest.approx(float(right), rel=0.01)


def test_scheme_and_seed(tiny_source):
    source = tiny_source()
    text = Calibration("test", TOKENS.numpy(), "")
    options = Options(iterations=2, seed=3)
    one, scheme = spinquant(source, find("w4a4"), text, options)
    again, _ = spinquant(source, find("w4a4"), text, options)
    assert scheme.linear("model.layers.0.self_attn.o_proj").hadamard == "both"
    name = "model.layers.1.mlp.gate_proj.weight"
    assert torch.equal(one.tensor(name), again.tensor(name))


def test_a_killed_run_goes_on_where_it_was(tiny_source, tmp_path, monkeypatch):
    """To the bit: what is learned is kept every so many steps, with its momentum and its order."""
    monkeypatch.setattr("onebit.ptq.spinquant.SAVE_EVERY", 2)
    source, options, place = tiny_source(), Options(iterations=5), tmp_path / "turns.safetensors"
    whole = learn(source, find("w4a4"), TOKENS, options)

    def killed(step, loss):
        if step == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        learn(source, find("w4a4"), TOKENS, options, place=place, progress=killed)
    steps = []
    for _ in range(2):  # the second time all is done
        again = learn(
            source,
            find("w4a4"),
            TOKENS,
            options,
            place=place,
            progress=lambda step, _: steps.append(step),
        )
        assert torch.equal(again.residual_CC, whole.residual_CC)
        assert all(map(torch.equal, again.values_DD, whole.values_DD))
    assert steps == [2, 3, 4]


def test_quantize_learns_in_its_work_folder(tiny_source, tmp_path):
    told = []
    report = ptq.quantize(
        tiny_source().checkpoint.path,
        tmp_path / "out",
        method="spinquant+rtn",
        scheme="w4a4kv4",
        calibration=Calibration("test", TOKENS.numpy(), ""),
        options=Options(iterations=3),
        progress=told.append,
    )
    assert [status.words for status in told[:3]] == [f"rotation: step {i} of 3" for i in (1, 2, 3)]
    assert report.method == "spinquant+rtn"
    assert models.load(tmp_path / "out").scheme.kv_bits == 4
    assert sorted(file.name for file in tmp_path.iterdir()) == ["model", "out"]


def test_what_cannot_be_learned_is_refused(tiny_source):
    source = tiny_source()
    with pytest.raises(OptionError, match="Name a calibration text"):
        spinquant(source, find("w4a4"), None, Options())
    with pytest.raises(OptionError, match="rounds nothing"):
        learn(source, find("fp"), TOKENS, Options())
