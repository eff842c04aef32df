"""Write the pages of docs/ that are made from the code: docs/cli.md from the commands' own help.

    python scripts/docs.py           write them
    python scripts/docs.py --check   exit 1 if they differ from what would be written

`make docs` runs the first, `make check` the second.
"""

import sys
from pathlib import Path

import click

from onebit.cli import main

PAGE = Path(__file__).parent.parent / "docs" / "cli.md"


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


def run(check: bool) -> int:
    """Write the pages, or say which is out of date. Returns the exit code."""
    page = cli_page()
    if not check:
        PAGE.write_text(page, encoding="utf-8")
        return 0
    if not PAGE.exists() or PAGE.read_text(encoding="utf-8") != page:
        print(f"{PAGE.name} differs from the commands' help. Run `make docs`.", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(run("--check" in sys.argv[1:]))
