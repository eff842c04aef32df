"""Checkpoints: whole or absent, two kept, nothing believed that does not fit the model."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from onebit.errors import FileError, FormatError
from onebit.train import checkpoint, optim
from onebit.train.checkpoint import Position
from onebit.train.config import OptimConfig
from onebit.train.schedule import Rates


class Tiny(torch.nn.Module):
    """A matrix, a norm and a tied head: every kind of weight a checkpoint meets."""

    def __init__(self, seed=0):
        super().__init__()
        torch.manual_seed(seed)
        self.embed_tokens = torch.nn.Embedding(5, 4)
        self.up_proj = torch.nn.Linear(4, 4, bias=False)
        self.norm = torch.nn.LayerNorm(4)
        self.lm_head = torch.nn.Linear(4, 5, bias=False)
        self.lm_head.weight = self.embed_tokens.weight

    def forward(self, x):
        return self.lm_head(self.norm(self.up_proj(self.embed_tokens(x))))


def at(step):
    return Position(step, 1.5, 0.25, {"epoch": 0}, 12, 2, "fp32")


def trained(steps, model=None, optimizer=None):
    model = model or Tiny()
    optimizer = optimizer or optim.build(model, OptimConfig())
    optim.set_rates(optimizer, Rates(0.1, 0.1))
    for _ in range(steps):
        model(torch.tensor([0, 1, 2, 3])).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    return model, optimizer


def weights(model):
    return {name: weight.detach().clone() for name, weight in model.named_parameters()}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_training_goes_on_to_the_bit(tmp_path):
    path = checkpoint.save(tmp_path, *trained(3), at(3))
    torch.manual_seed(7)
    checkpoint.save(tmp_path / "other", *trained(1), at(1))  # the random state it leaves
    other = Tiny(seed=9)
    optimizer = optim.build(other, OptimConfig())
    checkpoint.load(path, other, optimizer, checkpoint.position(path))
    whole, _ = trained(8)
    resumed, _ = trained(5, other, optimizer)
    assert same(weights(whole), weights(resumed))
    assert other.lm_head.weight is other.embed_tokens.weight


def test_the_random_state_comes_back(tmp_path):
    model, optimizer = trained(1)
    path = checkpoint.save(tmp_path, model, optimizer, at(1))
    expected = torch.rand(3)
    checkpoint.load(path, model, optimizer, at(1))
    assert torch.equal(torch.rand(3), expected)


def test_position_comes_back_exactly(tmp_path):
    position = Position(3, 0.1 + 0.2, 1e-17, {"epoch": 2, "next": 5}, 99, 1, "bf16")
    assert checkpoint.position(checkpoint.save(tmp_path, *trained(1), position)) == position


def test_the_last_two_are_kept(tmp_path):
    model, optimizer = trained(1)
    for step in (5, 10, 100_000_000):
        checkpoint.save(tmp_path, model, optimizer, at(step))
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["step-00000010", "step-100000000"]
    assert checkpoint.latest(tmp_path).name == "step-100000000"


def test_nothing_there_is_no_checkpoint(tmp_path):
    assert checkpoint.latest(tmp_path / "none") is None
    (tmp_path / "step-x").mkdir()
    assert checkpoint.latest(tmp_path) is None


def test_what_a_kill_left_is_swept(tmp_path):
    (tmp_path / ".writing-00000004").mkdir()
    (tmp_path / ".removing-step-00000001").mkdir()
    assert checkpoint.latest(tmp_path) is None
    checkpoint.save(tmp_path, *trained(1), at(4))
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000004"]


def test_a_disk_that_refuses_is_one_line(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(FileError, match="cannot be written") as caught:
        checkpoint.save(tmp_path / "file", *trained(1), at(1))
    assert "\n" not in str(caught.value)


@pytest.fixture
def saved(tmp_path):
    return checkpoint.save(tmp_path, *trained(2), at(2))


def read_all(path):
    model, optimizer = trained(0)
    checkpoint.load(path, model, optimizer, checkpoint.position(path))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"step": -1}, "step is -1, not a usable int"),
        ({"step": True}, "step is True"),
        ({"elapsed_s": float("nan")}, "elapsed_s is nan"),
        ({"sampler": []}, r"sampler is \[\], not a usable dict"),
        ({"more": 1}, "expected exactly step, "),
        ({"threads": 10**9}, "threads 1000000000 or precision"),
        ({"threads": 0}, "threads 0 or precision"),
        ({"precision": "fp8"}, "or precision is none we use"),
    ],
)
def test_a_bad_state_is_refused(saved, change, message):
    state = json.loads((saved / "state.json").read_text())
    (saved / "state.json").write_text(json.dumps(state | change))
    with pytest.raises(FormatError, match=message):
        read_all(saved)


@pytest.mark.parametrize("file", ["state.json", "model.safetensors", "optimizer.safetensors"])
@pytest.mark.parametrize("damage", ["gone", "empty", "cut", "noise"])
def test_a_damaged_file_is_refused_with_a_way_out(saved, file, damage):
    path = saved / file
    data = path.read_bytes()
    path.unlink()
    if damage != "gone":
        path.write_bytes(
            {"empty": b"", "cut": data[: len(data) // 2], "noise": b"\xff" * 99}[damage]
        )
    with pytest.raises(FormatError, match=f"{file}: unreadable.*Remove .*step-00000002 to go on"):
        read_all(saved)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda tensors: tensors.pop("norm.bias"), "norm.bias is in the file or in the model"),
        (lambda tensors: tensors.update(x=torch.zeros(1)), "x is in the file or in the model"),
        (lambda tensors: tensors.update({"norm.bias": torch.zeros(5)}), r"norm.bias is .*\[5\]"),
        (
            lambda tensors: tensors.update({"norm.bias": torch.zeros(4).double()}),
            "norm.bias is torch.float64",
        ),
    ],
    ids=["missing", "extra", "shape", "dtype"],
)
def test_tensors_of_another_model_are_refused(saved, change, message):
    tensors = load_file(saved / "model.safetensors")
    change(tensors)
    save_file(tensors, saved / "model.safetensors")
    with pytest.raises(FormatError, match=message):
        read_all(saved)


def with_idle(steps, model=None, optimizer=None, used=False):
    """As `trained`, with a weight that has no gradient unless it is used."""
    if model is None:
        model = Tiny()
        model.idle = torch.nn.Parameter(torch.ones(3, 2))
    optimizer = optimizer or optim.build(model, OptimConfig())
    optim.set_rates(optimizer, Rates(0.1, 0.1))
    for _ in range(steps):
        loss = model(torch.tensor([0, 1, 2, 3])).square().sum()
        (loss + model.idle.square().sum() if used else loss).backward()
        optimizer.step()
        optimizer.zero_grad()
    return model, optimizer


def test_a_weight_without_gradient_is_kept_and_begins_later_as_if_never_stopped(tmp_path):
    path = checkpoint.save(tmp_path, *with_idle(3), at(3))
    stored = load_file(path / "optimizer.safetensors")
    assert stored["exp_avg.idle"].shape == stored["exp_avg_sq.idle"].shape == (0,)
    other, optimizer = with_idle(1, used=True)  # moments that must not stay
    checkpoint.load(path, other, optimizer, checkpoint.position(path))
    assert other.idle not in optimizer.state
    whole, _ = with_idle(4, *with_idle(3), used=True)
    resumed, _ = with_idle(4, other, optimizer, used=True)
    assert same(weights(whole), weights(resumed))


def test_one_moment_alone_is_damage(saved):
    tensors = load_file(saved / "optimizer.safetensors")
    tensors["exp_avg.norm.bias"] = torch.zeros(0)
    save_file(tensors, saved / "optimizer.safetensors")
    with pytest.raises(FormatError, match=r"exp_avg.norm.bias is torch.float32 \[0\]"):
        read_all(saved)
