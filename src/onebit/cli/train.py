"""`onebit train`: run a recipe, or go on with one that was stopped."""

import json
from pathlib import Path

import click


@click.command()
@click.argument("recipe", metavar="RECIPE", type=click.Path(path_type=Path))
@click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="KEY=VALUE",
    help="Change a setting of the recipe, for instance --set lr=2e-3. May be repeated.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder of the run.  [default: runs/RECIPE]",
)
@click.option("--json", "as_json", is_flag=True, help="Print the result as one line of JSON.")
def train(recipe: Path, overrides: tuple[str, ...], out: Path | None, as_json: bool) -> None:
    """Train the model that RECIPE describes.

    RECIPE is a .toml file, or the name of one in the folder recipes/. If the run's folder holds a
    checkpoint of the same recipe, training goes on from there.
    """
    from onebit.train import loop, memory, progress
    from onebit.train import recipe as recipes

    file = recipes.find(recipe)
    config = recipes.read(file, overrides)
    memory.keep_freed()
    watcher = progress.on()
    try:
        result = loop.train(config, out or Path("runs") / file.stem, watcher)
    finally:
        watcher.close()
    click.echo(json.dumps(result.to_dict()) if as_json else str(result))
