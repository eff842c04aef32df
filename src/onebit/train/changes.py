"""What of a model changes while it is trained: its scheme, by stages, and the lambda of its layers.

Both follow from the share of the run that is done, so a checkpoint need not hold them.
"""

from onebit import nn
from onebit.models import LanguageModel
from onebit.train import progressive, stages
from onebit.train.config import TrainConfig


class Changes:
    """Keeps a model at its stage. Its parameters stay the same objects, and so do their moments."""

    def __init__(self, model: LanguageModel, config: TrainConfig, done: float | None) -> None:
        """Take the model where a run stands whose last step had its middle at `done`.

        Args:
            model: built with the recipe's own scheme.
            config: the run.
            done: share of the run; None before the first step.
        """
        self._model, self._config = model, config
        self._before = config.every_stage
        self._stage = stages.current(done or 0.0, self._before)
        self._new = bool(self._before) and done is None
        self._convert()

    def enter(self, progress: float) -> bool:
        """Convert the model if another stage has begun; return whether one has, or the first.

        By the clock, progress may be estimated to go back a little; stages never do.
        """
        stage = max(self._stage, stages.current(progress, self._before))
        begun = self._new or stage != self._stage
        self._stage, self._new = stage, False
        self._convert()
        return begun

    def blend(self, progress: float) -> float | None:
        """Set lambda of every layer; return its mean, or None where the recipe has no lambda."""
        config = self._config.progressive
        if config is None or config.blend is None:
            return None
        layers = self._model.architecture.num_hidden_layers
        return progressive.set_blends(nn.bit_linears(self._model), progress, config, layers)

    def _convert(self) -> None:
        schemes = [*(stage.scheme for stage in self._before), self._config.scheme]
        if self._model.scheme != schemes[self._stage]:
            nn.convert(self._model, schemes[self._stage], self._model.architecture.rms_norm_eps)
