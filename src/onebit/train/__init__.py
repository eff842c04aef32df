"""Train a model as a recipe says.

    from pathlib import Path
    from onebit.train import recipe, train

    train(recipe.read(Path("recipes/demo-ternary.toml")), Path("runs/demo-ternary"))

config      what a run is        recipe       as TOML
loop        the run              trainer      one step of it
schedule    learning rates       optim        AdamW
text        tokens               held_out     bits per byte
stages      schemes in turn      progressive  lambda, and a ladder of bits
changes     what both change     measure      what the layers see
checkpoint  exact continuation   start        with another run's weights
metrics     what is written down on the way
"""

from onebit.train.config import TrainConfig
from onebit.train.loop import Result, train

__all__ = ["Result", "TrainConfig", "train"]
