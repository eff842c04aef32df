"""The rounds of a benchmark: what is measured, in which order, and against which limits."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from onebit import pack
from onebit.eval import rivals, shapes, speed
from onebit.eval.bench_lines import Line
from onebit.eval.bench_options import BenchOptions
from onebit.eval.fresh import first_token
from onebit.eval.kernel_speed import LAYOUTS, Products
from onebit.eval.machine import Limits
from onebit.io.stored import Checkpoint
from onebit.kernels import ops
from onebit.runtime.llm import LLM

Progress = Callable[[int, int], None]
LONG_PROMPT = 512
"""Prompts above this are given to a rival in the first round only: it may take minutes."""


@dataclass(frozen=True)
class Measured:
    """One number, and what it took to get it."""

    name: str
    unit: str
    value: float
    rival: float | None = None
    time_s: float = 0
    size_bytes: float = 0
    """Read from memory in `time_s`, and ..."""
    operations: float = 0
    """... int8 multiplications and additions done; both 0 where they do not bound it."""
    token_bytes: float | None = None


Measure = Callable[[], list[Measured]]


class Run:
    """A model, its rivals, and the lines that the rounds fill."""

    def __init__(self, llms: dict[int, LLM], checkpoint: Checkpoint, options: BenchOptions) -> None:
        """llms: the model, opened for each number of threads."""
        self._llms, self._options, self._path = llms, options, checkpoint.path
        self._llm = llm = llms[options.threads[0]]  # the one in use
        self.file_bytes = _size_bytes(checkpoint.path)
        self._rivals: dict[int, rivals.Rival] = {}
        self._lines: dict[tuple[str, int], Line] = {}
        a = llm.architecture
        self.kv_token_bytes = speed.kv_token_bytes(llm)
        of_codes = all(
            checkpoint.tensor(f"{linear.name}.weight").format in pack.FORMATS
            for linear in shapes.body(a)
        )
        self._body = shapes.body_weights(a) if of_codes else 0  # floats are not multiplied as int8
        self._head = a.vocab_size * a.hidden_size if of_codes else 0
        fitting = [n for n in options.prompts if n + options.decode <= llm.context]
        self._prompts = list(dict.fromkeys(fitting))
        self._products = {
            layout: Products(a.intermediate_size, a.hidden_size, layout, options.stream_bytes)
            for layout in (LAYOUTS if "kernels" in options.only else ())
        }

    @property
    def lines(self) -> list[Line]:
        """All lines, those of one number of threads together."""
        return sorted(self._lines.values(), key=lambda line: line.threads)

    def open_rivals(self) -> float | None:
        """Open the rival once for each number of threads, and hold it against the model; return how
        far apart they are."""
        if self._options.against is None:
            return None
        # a rival counts the first token of an answer in its decoding, and needs room for it
        longest = max([*self._prompts, speed.START + self._options.decode]) + 1
        found = None
        for threads in self._options.threads:
            rival = rivals.open_rival(
                self._options.against, self._path, threads, max(longest, rivals.CONTEXT)
            )
            self._rivals[threads] = rival
            found = rivals.check_agreement(self._llms[threads], rival, self._questions())
        return found

    def all_rounds(self, progress: Progress) -> None:
        """Measure everything, round by round."""
        options, done = self._options, 0
        for round_ in range(options.rounds):
            for threads in options.threads:
                self._llm = self._llms[threads]
                ops.set_threads(threads)
                measures = list(self._measures(threads, first=round_ == 0))
                before = self._limits(threads)
                for measure in measures:
                    found = measure()
                    after = self._limits(threads)
                    for one in found:
                        self._record(one, threads, before.between(after))
                    before = after
                    done += 1
                    progress(done, options.rounds * len(options.threads) * len(measures))
        for threads in options.threads:
            self._compare(threads)

    def _questions(self) -> list[list[int]]:
        """Return the prompts after which engines are compared."""
        if self._options.random_weights:
            return [speed.random_prompt(self._llm, 8, seed) for seed in range(8)]
        return [self._llm.encode(text) for text in rivals.PROMPTS]

    def _limits(self, threads: int) -> Limits:
        options = self._options
        found = Limits.measure(threads, options.dram_bytes, options.limit_time_s)
        self._line("DRAM read", "GB/s", threads).values.append(found.bandwidth / 1e9)
        if found.int8:
            self._line("int8 peak", "GOP/s", threads).values.append(found.int8 / 1e9)
        return found

    def _line(self, name: str, unit: str, threads: int) -> Line:
        return self._lines.setdefault((name, threads), Line(name, threads, unit))

    def _record(self, found: Measured, threads: int, limits: Limits) -> None:
        line = self._line(found.name, found.unit, threads)
        line.values.append(found.value)
        line.against.append(found.rival)
        if found.token_bytes:
            line.token_bytes = round(found.token_bytes)
        if found.size_bytes or found.operations:
            least_s = limits.least_time_s(found.size_bytes, found.operations)
            if least_s:
                line.shares.append(least_s / found.time_s)

    def _compare(self, threads: int) -> None:
        """Say what lines are relative to: long prompts to short ones, a batch to one sequence,
        memory to the file."""
        bases = {f"prefill {n}": f"prefill {self._prompts[0]}" for n in self._prompts[1:]}
        bases[f"batch of {self._options.sequences}"] = "decode"
        for name, base in bases.items():
            if {(name, threads), (base, threads)} <= self._lines.keys():
                self._lines[name, threads].relative_to(self._lines[base, threads])
        if peak := self._lines.get(("peak memory", threads)):
            peak.base, peak.factors = "file", [1e6 * mb / self.file_bytes for mb in peak.values]

    def _measures(self, threads: int, first: bool) -> Iterator[Measure]:
        """Yield what is measured in a round, in order. Writing after a long prompt follows reading
        it, and finds it in the cache."""
        only, rival = self._options.only, self._rivals.get(threads)
        for layout, products in self._products.items():
            yield partial(self._one_token_product, layout, products)
            yield partial(self._product, layout, products, 128)
            yield partial(self._product, layout, products, 512)
        if "decode" in only:
            yield partial(self._decode, speed.START, rival)
        if "batch" in only:
            yield self._batch
        for tokens in self._prompts if "prefill" in only else ():
            yield partial(self._prefill, tokens, rival if first or tokens <= LONG_PROMPT else None)
        longest = max(self._prompts, default=speed.START)
        if "decode" in only and longest != speed.START:
            yield partial(self._decode, longest, None)
        if "start" in only:
            yield partial(self._start, threads)

    def _one_token_product(self, layout: str, products: Products) -> list[Measured]:
        time_s, size = products.time_gemv(), products.stream_bytes
        return [
            Measured(
                name=f"{layout} product, 1 token",
                unit="GB/s",
                value=size / time_s / 1e9,
                time_s=time_s,
                size_bytes=size,
            )
        ]

    def _product(self, layout: str, products: Products, tokens: int) -> list[Measured]:
        time_s, work = products.time_gemm(tokens), products.operations(tokens)
        return [
            Measured(
                name=f"{layout} product, {tokens} tokens",
                unit="GOP/s",
                value=work / time_s / 1e9,
                time_s=time_s,
                operations=work,
            )
        ]

    def _prefill(self, tokens: int, rival: rivals.Rival | None) -> list[Measured]:
        time_s = speed.time_prefill(self._llm, tokens)
        prompt = speed.random_prompt(self._llm, tokens)
        return [
            Measured(
                name=f"prefill {tokens}",
                unit="tokens/s",
                value=tokens / time_s,
                rival=tokens / rival.time_prefill(prompt) if rival else None,
                time_s=time_s,
                operations=2 * (self._body * tokens + self._head),  # the head for the last only
            )
        ]

    def _decode(self, after: int, rival: rivals.Rival | None) -> list[Measured]:
        tokens = self._options.decode
        time_s = speed.time_decode(self._llm, tokens, after)
        prompt = speed.random_prompt(self._llm, after)
        size = self._llm.token_bytes + self.kv_token_bytes * (after + tokens / 2)
        return [
            Measured(
                name="decode" if after == speed.START else f"decode after {after}",
                unit="tokens/s",
                value=tokens / time_s,
                rival=tokens / rival.time_decode(prompt, tokens) if rival else None,
                time_s=time_s,
                size_bytes=size * tokens,
                operations=2 * (self._body + self._head) * tokens,
                token_bytes=size,
            )
        ]

    def _batch(self) -> list[Measured]:
        count, tokens = self._options.sequences, self._options.decode
        time_s = speed.time_together(self._llm, count, tokens)
        kv = self.kv_token_bytes * (speed.START + tokens / 2)
        step_bytes = self._llm.token_bytes + count * kv
        return [
            Measured(
                name=f"batch of {count}",
                unit="tokens/s",
                value=count * tokens / time_s,
                time_s=time_s,
                size_bytes=step_bytes * tokens,
                operations=2 * (self._body + self._head) * count * tokens,
                token_bytes=step_bytes / count,
            )
        ]

    def _start(self, threads: int) -> list[Measured]:
        against, kv_bits = self._options.against, self._options.kv_bits
        options = {"input_bits": self._llm.input_bits, "body": self._options.body}
        if kv_bits is not None:  # which a model without keys and values refuses
            options["kv_bits"] = kv_bits
        ours = first_token("onebit", self._path, threads, options)
        theirs = first_token(against, self._path, threads, {}) if against else None
        return [
            Measured(
                "first token", "s", ours.first_token_s, theirs.first_token_s if theirs else None
            ),
            Measured("load", "s", ours.load_s, theirs.load_s if theirs else None),
            Measured(
                "peak memory",
                "MB",
                ours.peak_memory_bytes / 1e6,
                theirs.peak_memory_bytes / 1e6 if theirs else None,
            ),
        ]


def _size_bytes(path: Path) -> int:
    """Return the bytes of a file, or of all weights of a folder."""
    files = [path] if path.is_file() else path.glob("*.safetensors")
    return sum(file.stat().st_size for file in files)
