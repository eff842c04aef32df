"""The training loop: text in, a model folder out, and exactly continued after any interruption.

One process, one machine. For a run of steps or tokens, everything that follows from the recipe is
deterministic on one machine: weights, order of the text, losses. A checkpoint holds all of the
state, so the run that was killed and the run that was not give the same losses to the bit.
"""

import json
import os
import shutil
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from onebit import models, nn
from onebit.data.sampler import Sampler
from onebit.errors import FormatError
from onebit.io.atomic import write_bytes
from onebit.scheme import KV_BITS
from onebit.train import checkpoint, held_out, metrics, plot, recipe, stages, start
from onebit.train.changes import Changes
from onebit.train.checkpoint import Position
from onebit.train.config import TrainConfig
from onebit.train.folder import claim
from onebit.train.measure import in_words, measure
from onebit.train.metrics import Metrics
from onebit.train.progress import Progress, Silent
from onebit.train.text import Text, next_batch, prepare
from onebit.train.trainer import Trainer, resolve_precision, threads


@dataclass(frozen=True)
class Result:
    """What a run made."""

    folder: str
    """Of the run; the model is in `model` inside it."""
    scheme: str
    """Its scheme's name."""
    parameters: int
    """Trained weights, embeddings included."""
    steps: int
    """Optimizer steps."""
    tokens: int
    """Tokens trained on."""
    time_s: float
    """Seconds spent in training steps."""
    rate_tokens_per_s: float
    """Tokens per second over all steps."""
    train_loss: float
    """Of the last step, nats per token."""
    held_out_bits_per_byte: float
    """Over the whole held-out text."""
    precision: str
    """Of the matrix products in training."""

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        return asdict(self)

    def __str__(self) -> str:
        return (
            f"{self.folder}/model: {self.scheme}, {self.parameters:,} weights, "
            f"{self.tokens:,} tokens in {self.time_s:.0f} s, "
            f"held-out text {self.held_out_bits_per_byte:.3f} bits per byte"
        )


def train(config: TrainConfig, folder: Path, progress: Progress | None = None) -> Result:
    """Train a model in `folder`, or go on from the last checkpoint there.

    Args:
        config: the run.
        folder: of the run; made if it is not there.
        progress: who watches; nobody by default.

    Returns:
        The result, at once if the run was already finished.

    Raises:
        OptionError: the folder holds another run, the config does not fit the text, or the loss
            became infinite.
        FileError: a file is missing, damaged or cannot be written.
    """
    progress = progress or Silent()
    with claim(folder, config):
        finished = folder / "result.json"
        if finished.exists():
            progress.say(f"{folder}: already finished. Remove the folder to train again.")
            return _read_result(finished)
        check_sizes(config)
        if config.start_from is not None:
            start.check(config)
        text = prepare(config.data, folder / "data", progress)
        saved = checkpoint.latest(folder / "checkpoints")
        position = checkpoint.position(saved) if saved else _beginning(config)
        with (
            threads(position.threads),
            Metrics(folder / "metrics.jsonl", position.metrics_bytes) as lines,
        ):
            run = _Run(config, folder, text, position, lines, progress)
            if saved:
                checkpoint.load(saved, run.model, run.trainer.optimizer, position)
                progress.say(f"going on from {saved}")
            elif config.start_from is not None:
                run.start()
            run.to_the_end()
            result = run.finish()
        write_bytes(finished, (json.dumps(result.to_dict(), indent=1) + "\n").encode())
        return result


def check_sizes(config: TrainConfig) -> None:
    """Find sizes that do not fit together before the text is prepared, which can take minutes.

    None of them depends on the size of the vocabulary, which a tokenizer yet to be read decides.
    """
    vocab_size = config.data.vocab_size or 1
    architecture = config.model.architecture(
        vocab_size, config.data.context, None, (), config.scheme
    )
    stages.check_parameters(architecture, config.every_stage, config.scheme)
    for scheme in (*(stage.scheme for stage in config.every_stage), config.scheme):
        with torch.device("meta"):
            models.LanguageModel(architecture, scheme)


def _notes(config: TrainConfig) -> list[str]:
    """Return what of a run is good for training only."""
    if config.scheme.kv_bits in KV_BITS:
        return []
    return [
        f"kv_bits is {config.scheme.kv_bits}: the model trains and is measured in torch; the "
        f"engine runs {', '.join(map(str, KV_BITS))}."
    ]


def _read_result(path: Path) -> Result:
    try:
        return Result(**json.loads(path.read_text("utf-8")))
    except (TypeError, ValueError) as error:
        raise FormatError(f"{path}: damaged ({error}). Remove it to measure again.") from error


def _beginning(config: TrainConfig) -> Position:
    return Position(
        step=0,
        elapsed_s=0.0,
        loss=0.0,
        sampler={},
        metrics_bytes=0,
        threads=config.threads or torch.get_num_threads(),
        precision=resolve_precision(config.precision),
    )


class _Run:
    """A run under way: the trainer, the text, and where it stands."""

    def __init__(
        self,
        config: TrainConfig,
        folder: Path,
        text: Text,
        position: Position,
        lines: Metrics,
        progress: Progress,
    ) -> None:
        self.config, self.folder, self.text = config, folder, text
        self.position, self.metrics, self.progress = position, lines, progress
        tokenizer = text.tokenizer
        architecture = config.model.architecture(
            tokenizer.vocab_size,
            config.data.context,
            tokenizer.bos_id,
            tokenizer.eos_ids,
            config.scheme,
        )
        self.model = models.build(
            architecture, config.scheme, config.seed, config.model.embedding_std
        )
        torch.manual_seed(config.seed)
        self.trainer = Trainer(self.model, config, position.precision)
        self.sampler = Sampler(text.train, config.data.context, config.optim.batch, config.seed)
        if position.sampler:
            self.sampler.load_state(position.sampler)
        self.step, self.elapsed_s, self.loss = position.step, position.elapsed_s, position.loss
        self.last_step_s = 0.0
        for note in (*nn.notes(self.model), *_notes(config)):
            progress.say(note)
        self.changes = Changes(self.model, config, self.share(ahead=-0.5) if self.step else None)

    @property
    def tokens(self) -> int:
        """Tokens trained on so far."""
        return self.step * self.config.tokens_per_step

    def share(self, ahead: float = 0.0) -> float:
        """Return the share of the run that is done, 0 to 1, `ahead` steps from now."""
        if self.config.steps is not None:
            return min((self.step + ahead) / self.config.steps, 1.0)
        assert self.config.budget.max_minutes is not None
        soon_s = self.elapsed_s + ahead * self.last_step_s
        return min(soon_s / (60 * self.config.budget.max_minutes), 1.0)

    def start(self) -> None:
        """Begin with the weights of another run."""
        steps = start.take(self.config, self.model, self.trainer.optimizer)
        self.position = replace(self.position, adam_before=steps)
        also = f"and the moments of its {steps} steps" if steps else "and new moments"
        self.progress.say(f"starting with the weights of {self.config.start_from} {also}")

    def to_the_end(self) -> None:
        """Train until the budget is spent, with a checkpoint at the end."""
        while self.share() < 1:
            before = self.share()
            self._train_step()
            due = int(self.share() * self.config.evaluations)
            if due > int(before * self.config.evaluations) and self.share() < 1:
                self._evaluate(self.config.held_out_windows)
            if self.step % self.config.checkpoint_every == 0 or self.share() == 1:
                self._save()

    def finish(self) -> Result:
        """Measure on the whole held-out text, save the model, draw the curve."""
        self._enter_stage(1.0)
        self.changes.blend(1.0)
        self.progress.say("measuring on the whole held-out text")
        bits_per_byte = self._evaluate(0)
        self._save_model()
        lines = metrics.read(self.folder / "metrics.jsonl")
        plot.loss_curve(
            lines, f"{self.folder.name} ({self.config.scheme.name})", self.folder / "loss.png"
        )
        return Result(
            folder=str(self.folder),
            scheme=self.config.scheme.name,
            parameters=sum(weight.numel() for weight in self.model.parameters()),
            steps=self.step,
            tokens=self.tokens,
            time_s=self.elapsed_s,
            rate_tokens_per_s=self.tokens / self.elapsed_s,
            train_loss=self.loss,
            held_out_bits_per_byte=bits_per_byte,
            precision=self.position.precision,
        )

    def _train_step(self) -> None:
        begin_s = time.perf_counter()
        batches = [next_batch(self.sampler) for _ in range(self.config.optim.accumulate)]
        middle = self.share(ahead=0.5)
        self._enter_stage(middle)
        blend = self.changes.blend(middle)
        done = self.trainer.step(batches, middle)
        self.last_step_s = time.perf_counter() - begin_s
        self.elapsed_s += self.last_step_s
        self.step += 1
        self.loss = done.loss
        rate = self.tokens / self.elapsed_s
        if self.step % self.config.log_every == 0 or self.step == 1 or self.share() == 1:
            self.metrics.write(
                step=self.step,
                tokens=self.tokens,
                **done._asdict(),
                **({} if blend is None else {"blend": blend}),
                time_s=self.elapsed_s,
            )
        left_s = self.elapsed_s * (1 / self.share() - 1)
        self.progress.step(self.step, self.share(), self.loss, rate, left_s)

    def _enter_stage(self, progress: float) -> None:
        if self.changes.enter(progress):
            self.metrics.write(step=self.step, tokens=self.tokens, scheme=self.model.scheme.name)
            self.progress.say(f"step {self.step}  scheme {self.model.scheme.name}")

    def _evaluate(self, windows: int) -> float:
        context = self.config.data.context
        bits_per_byte = held_out.bits_per_byte(self.model, self.text.held_out, context, windows)
        seen = measure(self.model, self.text.held_out, context) if self.config.measure else {}
        self.metrics.write(
            step=self.step,
            tokens=self.tokens,
            held_out_bits_per_byte=bits_per_byte,
            windows=windows or "all",
            **seen,
        )
        text = f"{bits_per_byte:.3f} bits per byte{in_words(seen)}"
        self.progress.say(f"step {self.step}  held-out text {text}")
        return bits_per_byte

    def _save(self) -> None:
        self.position = replace(
            self.position,
            step=self.step,
            elapsed_s=self.elapsed_s,
            loss=self.loss,
            sampler=self.sampler.state(),
            metrics_bytes=self.metrics.sync(),
        )
        checkpoint.save(
            self.folder / "checkpoints", self.model, self.trainer.optimizer, self.position
        )

    def _save_model(self) -> None:
        """Write the model under a temporary name, then rename, so that `model` is whole."""
        temporary, final = self.folder / ".model", self.folder / "model"
        for old in (temporary, final):
            shutil.rmtree(old, ignore_errors=True)
        models.save(self.model, temporary, self.text.tokenizer)
        write_bytes(temporary / "recipe.toml", recipe.write(self.config).encode())
        os.rename(temporary, final)
