"""What a benchmark is asked to measure."""

from dataclasses import dataclass

from onebit.errors import OptionError
from onebit.eval.rivals import RIVALS
from onebit.kernels.machine import DRAM_BYTES
from onebit.kernels.ops import MAX_THREADS

PARTS = ("kernels", "prefill", "decode", "batch", "start")


@dataclass(frozen=True)
class BenchOptions:
    """What to measure. Prompts that the model's context cannot hold are left out."""

    threads: tuple[int, ...] = ()
    """Each is measured; none means all CPUs that this process may use."""
    rounds: int = 3
    decode: int = 64
    """Tokens written in a round."""
    prompts: tuple[int, ...] = (128, 512, 2048)
    """Tokens of the prompts that are read; writing is also timed after the longest."""
    sequences: int = 8
    """That write together."""
    only: tuple[str, ...] = PARTS
    against: str | None = None
    """A key of `RIVALS`."""
    kv_bits: int | None = None
    input_bits: int = 16
    body: str = "auto"
    """Ternary weights in memory, as `LLM` takes it."""
    random_weights: bool = False
    """Whether the model was made by `random_model`: texts are nothing to it."""
    dram_bytes: int = DRAM_BYTES
    stream_bytes: int = 128 << 20
    limit_time_s: float = 0.1
    """How memory and multipliers are measured; see `kernels.machine` and `kernel_speed`."""

    def __post_init__(self) -> None:
        numbers = (*self.threads, self.rounds, self.decode, *self.prompts, self.sequences)
        if min(numbers) < 1 or not self.prompts:
            raise OptionError(
                f"bench: threads {list(self.threads)}, rounds {self.rounds}, decode {self.decode}, "
                f"prompts {list(self.prompts)}, sequences {self.sequences}; "
                "accepted: whole numbers from 1."
            )
        if max(self.threads, default=1) > MAX_THREADS:
            raise OptionError(f"bench: threads {list(self.threads)}; accepted: 1 to {MAX_THREADS}.")
        if not self.only:
            raise OptionError(f"only is empty; accepted: {', '.join(PARTS)}.")
        for part in self.only:
            if part not in PARTS:
                raise OptionError(f"only is {part!r:.80}; accepted: {', '.join(PARTS)}.")
        if self.against is not None and self.against not in RIVALS:
            raise OptionError(f"against is {self.against!r:.80}; accepted: {', '.join(RIVALS)}.")
