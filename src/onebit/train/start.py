"""Begin where another run ended: its weights, and Adam's moments where the parameters are the same.

    start_from = "runs/v2-a8"        # a finished run
    scheme = "bitnet-v2-a4"

Two stages as two runs (see `stages.py` for one), a float model that becomes ternary, or a search of
the second stage's rate from one first stage. Where the parameters differ (norms or learned steps
that only one scheme has), weights that both have are taken, the others begin as in a new model, and
so does Adam.
"""

from dataclasses import fields
from pathlib import Path

import torch

from onebit import nn, tensors
from onebit.architecture import Architecture
from onebit.errors import MissingError, OptionError
from onebit.models import LanguageModel
from onebit.train import checkpoint, recipe, stages
from onebit.train.config import TrainConfig

# what another run may have otherwise: the scheme decides it, or no weight depends on it
_FREE = {"pre_norms", "softmax_temperature", "learned_temperature", "max_position_embeddings"}


def check(config: TrainConfig) -> None:
    """Find out whether the run can begin so, before any text is prepared.

    Raises:
        MissingError: there is no finished run in `start_from`.
        OptionError: it is of another model or another text.
    """
    assert config.start_from is not None
    there = _there(config.start_from)
    before = recipe.read(there / "recipe.toml")
    names = [name for name in recipe.differences(before, config) if name.startswith("data.")]
    other, own = _architecture(before), _architecture(config)
    names = [name for name in names if name != "data.context"] + [
        f"model.{item.name}"
        for item in fields(Architecture)
        if item.name not in _FREE and getattr(other, item.name) != getattr(own, item.name)
    ]
    if names:
        raise OptionError(
            f"recipe: start_from is {there}, a run with another {', '.join(names)}. "
            "Weights go on with the model and the text that they were trained for."
        )


def take(config: TrainConfig, model: LanguageModel, optimizer: torch.optim.Optimizer) -> int:
    """Give the model the weights of the run in `start_from`, and the optimizer its moments.

    Returns:
        The steps that Adam has done; 0 where its moments begin anew.

    Raises:
        FormatError: the run's last checkpoint is damaged.
    """
    assert config.start_from is not None
    there = _there(config.start_from)
    saved = checkpoint.latest(there / "checkpoints")
    assert saved is not None  # `_there` has looked
    position = checkpoint.position(saved)
    if _same_parameters(recipe.read(there / "recipe.toml"), config):
        random = torch.get_rng_state()
        checkpoint.load(saved, model, optimizer, position)
        torch.set_rng_state(random)
        return position.adam_steps
    weights = checkpoint.weights(saved)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name in weights and not name.endswith(".step"):
                weight.copy_(weights[name])
        for _, layer in nn.bit_linears(model):
            if layer.step is not None:
                held = layer.step  # by the optimizer, so it must stay the same Parameter
                layer.start_step()
                held.copy_(layer.step)
                layer.step = held
    return 0


def _there(folder: str) -> Path:
    """Return the folder of a finished run."""
    path = Path(folder)
    whole = (path / "result.json").is_file() and (path / "recipe.toml").is_file()
    if not whole or checkpoint.latest(path / "checkpoints") is None:
        raise MissingError(
            f"recipe: start_from is {folder!r:.200}, which holds no finished run with its "
            "checkpoints. Name the folder of one."
        )
    return path


def _architecture(config: TrainConfig) -> Architecture:
    # the vocabulary follows from the text, which is compared by itself
    return config.model.architecture(
        config.data.vocab_size or 1, config.data.context, None, (), config.scheme
    )


def _same_parameters(before: TrainConfig, config: TrainConfig) -> bool:
    shapes, steps = (
        [kind(_architecture(c), c.scheme) for c in (before, config)]
        for kind in (tensors.shapes, stages.learned_steps)
    )
    return shapes[0] == shapes[1] and steps[0] == steps[1]
