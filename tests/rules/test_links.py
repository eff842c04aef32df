"""Every relative link of every page leads to a file, and so does every name of our files."""

import re
import subprocess
from pathlib import Path
from urllib.parse import unquote

import pytest

ROOT = Path(__file__).parents[2]
TRACKED = subprocess.run(
    ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
).stdout.split("\0")
PAGES = [name for name in TRACKED if name.endswith(".md")]
FOLDERS = ("", "src/", "src/onebit/")  # from where pages name the files of the project
BLOCK = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(<?([^)\s>]+)>?[^)]*\)|^\[[^\]]+\]:\s*(\S+)", re.MULTILINE)
FILE = re.compile(r"`([\w./-]+/[\w.-]+\.(?:py|pyi|md|toml|h|cpp|inl))`")


def prose(page):
    return BLOCK.sub("", (ROOT / page).read_text(encoding="utf-8"))


def links(text):
    found = (first or second for first, second in LINK.findall(text))
    return [link for link in found if not re.match(r"\w+:|//", link)]


def anchors(path):
    """The names that a page's headings have as anchors, as GitHub makes them."""
    headings = re.findall(r"^#+ +(.+?) *$", BLOCK.sub("", path.read_text("utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def broken(page, text):
    for link in links(text):
        file, _, anchor = unquote(link).partition("#")
        target = (ROOT / page).parent / file if file else ROOT / page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            yield link


@pytest.mark.parametrize("page", PAGES)
def test_links_resolve(page):
    assert list(broken(page, prose(page))) == []


# pages on formats name files of other projects too
@pytest.mark.parametrize("page", [p for p in PAGES if not p.startswith("docs/formats/")])
def test_files_that_are_named_exist(page):
    named = FILE.findall(prose(page))
    assert [f for f in named if not any((ROOT / at / f).exists() for at in FOLDERS)] == []


def test_a_broken_link_is_seen():
    text = "[a](LICENSE) [b](none.md) [c](README.md#no-such-heading) [d](https://example.org)\n"
    assert list(broken("README.md", text)) == ["none.md", "README.md#no-such-heading"]
    assert list(broken("docs/train.md", "[a](../README.md) [b](README.md)")) == ["README.md"]
