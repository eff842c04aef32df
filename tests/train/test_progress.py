"""What a person sees of a run."""

import io

from onebit.train import progress
from onebit.train.progress import Bar, Plain, Silent


class Terminal(io.StringIO):
    def isatty(self):
        return True


def tell(watcher):
    watcher.say("reading [the] text")
    for step in range(1, 5):
        watcher.step(step, step / 4, 7.25 - step, 12_345.6, 75.4)
    watcher.close()


def test_a_line_says_loss_rate_and_time_left():
    assert progress.describe(20, 3.25, 12_345.6, 75.4) == (
        "step 20  loss 3.250  12,346 tokens/s  1:15 left"
    )


def test_lines_are_few(monkeypatch):
    now = iter([100.0, 100.0, 101.0, 102.0, 105.5, 105.5])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(now))
    out = io.StringIO()
    tell(Plain(out))
    lines = out.getvalue().splitlines()
    assert [line.split("  ")[0].strip() for line in lines] == ["reading [the] text", "25%", "100%"]


def test_the_bar_shows_the_last_state(monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    out = Terminal()
    tell(Bar(out))
    assert "reading [the] text" in out.getvalue()
    assert "100%" in out.getvalue()
    assert "step 4  loss 3.250  12,346 tokens/s  1:15 left" in out.getvalue()


def test_a_terminal_gets_the_bar_and_a_file_gets_lines():
    assert isinstance(progress.on(Terminal()), Bar)
    assert isinstance(progress.on(io.StringIO()), Plain)


def test_silence_is_silent(capsys):
    tell(Silent())
    assert capsys.readouterr() == ("", "")
