"""How far a command is, on one line of stderr that is written over. Nothing where no one looks."""

import sys
from collections.abc import Callable

import click

Progress = Callable[[int, int], None]


def of(what: str) -> Progress:
    """Return what shows "`what` 3 of 14", to be called with (done, total)."""

    def show(done: int, total: int) -> None:
        if sys.stderr.isatty():
            end = "\n" if done == total else ""
            click.echo(f"\r{what} {done} of {total}{end}", nl=False, err=True)

    return show
