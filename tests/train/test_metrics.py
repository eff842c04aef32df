"""metrics.jsonl and the curve drawn from it."""

import pytest

from onebit.errors import FormatError
from onebit.train import metrics, plot
from onebit.train.metrics import Metrics


def test_lines_after_the_checkpoint_are_cut_off(tmp_path):
    path = tmp_path / "metrics.jsonl"
    with Metrics(path) as file:
        file.write(step=1, loss=0.1 + 0.2)
        length = file.sync()
        file.write(step=2, loss=2.0)
    path.write_bytes(path.read_bytes() + b'{"step": 3, "lo')  # killed within a line
    with Metrics(path, length) as file:
        assert file.sync() == length
        file.write(step=2, loss=1.5)
    assert metrics.read(path) == [{"step": 1, "loss": 0.1 + 0.2}, {"step": 2, "loss": 1.5}]


def test_missing_lines_are_noticed(tmp_path):
    with pytest.raises(FormatError, match=r"has 0 bytes, the checkpoint remembers 10"):
        Metrics(tmp_path / "metrics.jsonl", 10)


def test_loss_curve_is_a_png(tmp_path):
    lines = [{"tokens": n * 1000, "loss": 8.0 / n} for n in range(1, 30)]
    lines += [{"tokens": n * 1000, "held_out_bits_per_byte": 2.0} for n in (10, 20)]
    path = tmp_path / "loss.png"
    plot.loss_curve(lines, "a run", path)
    data = path.read_bytes()
    assert data.startswith(b"\x89PNG\r\n\x1a\n")
    assert len(data) > 5000
