"""Write what is made from the code in docs/: docs/cli.md from the commands' own help, and the
sizes in docs/formats/hgrn.md.

    python scripts/docs.py           write them
    python scripts/docs.py --check   exit 1 if they differ from what would be written

`make docs` runs the first, `make check` the second.
"""

import sys
from pathlib import Path

import click

from onebit.cli import main
from onebit.eval.shapes import SHAPES
from onebit.models.packed_size import packed_size
from onebit.scheme import SCHEMES

DOCS = Path(__file__).parent.parent / "docs"
MATMULFREE = [name for name in SHAPES if name.startswith("matmulfree-") and "tiny" not in name]


def cli_page() -> str:
    """Return the help of `onebit` and of each of its commands, as Markdown."""
    parts = ["# The command line", "Made from the commands' own help by `make docs`."]
    root = click.Context(main, info_name="onebit", terminal_width=88, max_content_width=88)
    parts += ["```", main.get_help(root).strip(), "```"]
    for name in main.list_commands(root):
        command = main.get_command(root, name)
        assert command is not None
        context = click.Context(
            command, info_name=name, parent=root, terminal_width=88, max_content_width=88
        )
        parts += [f"## onebit {name}", "```", command.get_help(context).strip(), "```"]
    return "\n\n".join(parts).replace("```\n\n", "```\n").replace("\n\n```\n#", "\n```\n\n#") + "\n"


def hgrn_page() -> str:
    """Return docs/formats/hgrn.md with its table of sizes made anew."""
    page = (DOCS / "formats" / "hgrn.md").read_text(encoding="utf-8")
    head, made, rest = page.partition("<!-- made by scripts/docs.py")
    comment, _, old = rest.partition("\n")
    table = "\n".join(hgrn_sizes())
    return f"{head}{made}{comment}\n\n{table}\n\n<!-- end -->{old.partition('<!-- end -->')[2]}"


def hgrn_sizes() -> list[str]:
    """Return the lines of the table: each published shape, with the embedding in two formats."""
    lines = [
        "| shape | parameters | embedding as | body | head | embedding | rest | whole file |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name in MATMULFREE:
        for embed in ("q8_0", "q6_k"):
            size = packed_size(SHAPES[name], SCHEMES["matmulfree"], embed=embed)
            cells = (
                name.removeprefix("matmulfree-").upper(),
                f"{size.parameters:,}",
                f"`{embed}`",
                *(f"{size_bytes:,}" for size_bytes in size[1:]),
            )
            lines.append(f"| {' | '.join(cells)} |")
    return lines


PAGES = {"cli.md": cli_page, "formats/hgrn.md": hgrn_page}


def run(check: bool) -> int:
    """Write the pages, or say which is out of date. Returns the exit code."""
    wrong = 0
    for name, made in PAGES.items():
        path, page = DOCS / name, made()
        if not check:
            path.write_text(page, encoding="utf-8")
        elif not path.exists() or path.read_text(encoding="utf-8") != page:
            print(f"docs/{name} differs from the code. Run `make docs`.", file=sys.stderr)
            wrong = 1
    return wrong


if __name__ == "__main__":
    sys.exit(run("--check" in sys.argv[1:]))
