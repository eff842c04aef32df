"""Stop texts in a text that comes in pieces."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from onebit.runtime.stopping import StopTexts


def run(pieces, stop):
    """Return what was handed out piece by piece, and the stop text found."""
    watcher = StopTexts(stop)
    out = [watcher.feed(piece) for piece in pieces]
    return [*out, watcher.flush()], watcher.found


def test_found_across_pieces_and_never_shown():
    out, found = run(["Hello wo", "rld<", "|en", "d|> more"], ["<|end|>"])
    assert out == ["Hello wo", "rld", "", "", ""]
    assert found == "<|end|>"


def test_what_could_have_become_a_stop_text_is_shown_when_it_does_not():
    assert run(["a<|", "b"], ["<|end|>"]) == (["a", "<|b", ""], None)


def test_what_is_held_at_the_end_is_shown():
    assert run(["a<|en"], ["<|end|>"]) == (["a", "<|en"], None)


def test_the_earliest_of_several_wins():
    out, found = run(["one two three"], ["three", "two"])
    assert (out, found) == (["one ", ""], "two")


def test_a_stop_text_that_begins_like_itself():
    out, found = run(["aab", "aaab"], ["aaab"])
    assert ("".join(out), found) == ("aab", "aaab")


def test_nothing_is_held_without_stop_texts():
    assert run(["a", "b"], []) == (["a", "b", ""], None)


@given(
    st.text("ab", max_size=30),
    st.lists(st.text("ab", min_size=1, max_size=4), max_size=3),
    st.lists(st.integers(0, 30), max_size=6),
)
def test_however_it_is_cut_the_result_is_that_of_the_whole(text, stop, cuts):
    edges = [0, *sorted(min(c, len(text)) for c in cuts), len(text)]
    out, found = run([text[a:b] for a, b in pairwise(edges)], stop)
    ends = [text.find(s) for s in stop if s in text]
    # cut finely, the stop text that is complete first wins, which may begin later than another
    expected_end = min(ends, default=len(text))
    shown = "".join(out)
    assert text.startswith(shown)
    assert (found is None) == (not ends)
    if found is None:
        assert shown == text
    else:
        assert not any(s in shown for s in stop)
        assert len(shown) >= expected_end
