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


class Steps:
    """Shows a line for each step of a long command, to be called with (what, done, total)."""

    def __call__(self, what: str, done: int, total: int) -> None:
        """Show "`what` 3 of 14" in place of the last, and go to the next line when it is done."""
        if sys.stderr.isatty():
            end = "\n" if done == total else ""
            click.echo(f"\r\x1b[K{what} {done} of {total}{end}", nl=False, err=True)
