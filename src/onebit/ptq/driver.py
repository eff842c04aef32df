"""From a model on disk to a quantized one: checks, the blocks one by one, the file, the report."""

import hashlib
import resource
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch

from onebit import pack
from onebit.data import Tokenizer
from onebit.errors import MissingError, OptionError, ShapeError
from onebit.models import ExportReport, export, stored_weight
from onebit.models.export_plan import EMBED_FORMATS
from onebit.ptq import blocks, calibration, guards, options, result, size
from onebit.ptq.blocks import States, Task
from onebit.ptq.calibration import Calibration
from onebit.ptq.method import Aside, Method, Rotation
from onebit.ptq.options import Options
from onebit.ptq.plan import FLOAT, KEEP, Held, Plan, uniform
from onebit.ptq.report import Report
from onebit.ptq.rows import Rows
from onebit.ptq.source import FileSource, Source
from onebit.ptq.work import Work
from onebit.scheme import FP, Scheme, of_config, role_of
from onebit.tensors import linears

BLOCK_METHOD = "kquants"
"""What rounds to block formats of ggml, whichever method rounds the other layers."""


@dataclass(frozen=True)
class Status:
    """How far a run is."""

    done: int
    """Blocks."""
    blocks: int
    time_s: float
    """Since this process began with its first block."""
    left_s: float | None
    """Likely; None before a block is done. Of the rotation alone, while one is learned."""
    words: str = ""
    """What is done now, where it is no block."""


Progress = Callable[[Status], None]


@dataclass(frozen=True)
class Chain:
    """The methods of "quarot+awq+gptq", by kind."""

    rotations: Sequence[tuple[str, Method]]
    transforms: Sequence[tuple[str, Method]]
    rounding: tuple[str, Method]

    @property
    def methods(self) -> list[tuple[str, Method]]:
        return [*self.rotations, *self.transforms, self.rounding]

    @property
    def name(self) -> str:
        return "+".join(name for name, _ in self.methods)


def chain(method: str, known: Mapping[str, Method]) -> Chain:
    """Return the methods that a name spells; a rounding is added where it names none.

    Raises:
        OptionError: a name is not known, or they stand in another order than rotations,
            transforms, one rounding.
    """
    names = method.split("+")
    for name in names:
        if name not in known:
            raise OptionError(
                f"{name!r:.40} is not a method; accepted: {', '.join(known)}, and several joined "
                "by +, the rounding last."
            )
    if known[names[-1]].kind != "rounding":
        names.append(known[names[-1]].rounds_with or "gptq")
    kinds = [known[name].kind for name in names]
    order = {"rotation": 0, "transform": 1, "rounding": 2}
    if sorted(kinds, key=order.__getitem__) != kinds or kinds.count("rounding") != 1:
        raise OptionError(
            f"{method!r:.80}: rotations come first, then transforms, then one rounding; these are "
            f"{', '.join(kinds)}."
        )

    def of(kind: str) -> list[tuple[str, Method]]:
        return [(name, known[name]) for name in names if known[name].kind == kind]

    return Chain(of("rotation"), of("transform"), of("rounding")[0])


def layers_of(source: Source) -> dict[str, tuple[int, int]]:
    """Return name and shape (N, K) of the linears to quantize: all but embedding and head."""
    found = linears(source.architecture)
    return {x.name: (x.N, x.K) for x in found if role_of(x.name) not in ("embed", "head")}


def quantize(
    model: str | Path,
    out: str | Path,
    known: Mapping[str, Method],
    *,
    method: str | None,
    scheme: str | Scheme | Plan,
    text: str | Calibration | None,
    windows: int,
    window: int,
    settings: Options,
    work: Path | None,
    resume: bool,
    force: bool,
    kept: str,
    embed: str | None,
    progress: Progress,
) -> Report:
    """What `ptq.quantize` does; `known` is its table of methods."""
    began = time.monotonic()
    out = Path(out)
    base = FileSource(model)
    layers = layers_of(base)
    held, wanted = _held(scheme, list(layers))
    methods = chain(method or _usual(held), known)
    options.check_taken(settings, _taken(methods, held, known), methods.name)
    _check(base, layers, held, out, force)
    _check_embed(base, out, embed)
    keeping = _keep(base, held, kept, methods, str(model))
    held, wanted = _without(held, wanted, keeping, methods)
    tokens = _calibration(base, text, windows, window, settings, methods, held, known)
    run = _run(base, methods.name, wanted, held, tokens, settings)
    with closing(Work(work or out.with_name(f"{out.name}.work"), run, resume)) as folder:
        source, wanted = _rotated(base, wanted, methods, tokens, settings, folder, progress)
        held = {name: h._replace(scheme=wanted.linear(name)) for name, h in held.items()}
        task = Task(
            source,
            wanted,
            held,
            methods.transforms,
            methods.rounding,
            (BLOCK_METHOD, known[BLOCK_METHOD]) if _has_blocks(held) else None,
            settings,
            folder.folder,
        )
        _all_blocks(task, folder, tokens, progress)
        made = result.Result(source, folder, wanted)
        exported = export(
            made, out, embed=embed, force=force, formats=_formats(held, made, keeping)
        )
        report = _report(base, exported, folder, methods.name, wanted, tokens, settings, keeping)
        report.time_s = time.monotonic() - began
        folder.remove()
    return report


def _held(scheme: str | Scheme | Plan, layers: list[str]) -> tuple[dict[str, Held], Scheme]:
    """Return how each layer will be held, and the scheme of the whole."""
    if isinstance(scheme, Scheme):
        held = {name: Held(scheme.linear(name)) for name in layers}
        return {name: h if h.scheme != FP else Held(FP, FLOAT) for name, h in held.items()}, scheme
    plan = uniform(scheme) if isinstance(scheme, str) else scheme
    return {name: plan.held(name) for name in layers}, plan.scheme(layers)


def _usual(held: Mapping[str, Held]) -> str:
    codes = any(h.scheme != FP for h in held.values())
    return "gptq" if codes or not _has_blocks(held) else BLOCK_METHOD


def _has_blocks(held: Mapping[str, Held]) -> bool:
    return any(h.format not in ("", KEEP, FLOAT) for h in held.values())


def _has_static(held: Mapping[str, Held]) -> bool:
    return any(h.scheme.static for h in held.values())


def _taken(methods: Chain, held: Mapping[str, Held], known: Mapping[str, Method]) -> set[str]:
    used = [method for _, method in methods.methods]
    if _has_blocks(held):
        if BLOCK_METHOD not in known:
            raise OptionError(f"nothing rounds to block formats of ggml; {BLOCK_METHOD} is absent.")
        used.append(known[BLOCK_METHOD])
        if methods.rounding[0] != BLOCK_METHOD and all(h.scheme == FP for h in held.values()):
            raise OptionError(
                f"{methods.rounding[0]} rounds to no block format of ggml; take {BLOCK_METHOD}, or "
                "a scheme such as w4a16-g64."
            )
    elif methods.rounding[0] == BLOCK_METHOD:
        raise OptionError(
            f"{BLOCK_METHOD} rounds to block formats of ggml, for instance q4_k; the scheme names "
            "none."
        )
    own = {"seed", "input_clip"} if _has_static(held) else {"seed"}
    return {name for method in used for name in method.options} | own


def _check(
    source: Source,
    layers: Mapping[str, tuple[int, int]],
    held: Mapping[str, Held],
    out: Path,
    force: bool,
) -> None:
    """Refuse now what would fail after hours."""
    own = of_config(source.config)
    if any(linear.norm != "none" or linear.hadamard != "none" for linear in own.layers.values()):
        raise OptionError(
            f"{source.checkpoint.path}: its layers have norms or Hadamard turns inside, of "
            f"scheme {own.name!r}, which float layers have not. Take the float model."
        )
    for name, (N, K) in layers.items():
        scheme = held[name].scheme
        if scheme.norm != "none":
            raise OptionError(
                f"scheme: norm {scheme.norm!r} of {name} would put a norm into a trained model. "
                'Quantizing after training takes norm "none".'
            )
        if K % (scheme.group or 1):
            fits = [g for g in (256, 128, 64, 32, 16) if K % g == 0]
            raise ShapeError(
                f"{name}: {K} columns do not split into groups of {scheme.group}. Groups that fit: "
                f'{", ".join(map(str, fits))}, or "row".'
            )
        with stored_weight.named(name):
            if held[name].format != KEEP:
                size.size_bytes(held[name], N, K)
    if out.exists() and not force:
        raise OptionError(f"{out} exists. Name another place with -o, or pass --force.")


def _check_embed(source: Source, out: Path, embed: str | None) -> None:
    """Refuse a format of embedding and head now, that the export would refuse after hours."""
    if embed is None:
        return
    container = "gguf" if out.suffix == ".gguf" else "safetensors"
    if embed not in EMBED_FORMATS[container]:
        raise OptionError(
            f"embed is {embed!r:.40}; accepted in {container}: "
            f"{', '.join(EMBED_FORMATS[container])}."
        )
    for linear in linears(source.architecture):
        if role_of(linear.name) in ("embed", "head") and embed in pack.FORMATS:
            with stored_weight.named(linear.name):
                pack.find(embed).size_bytes(linear.N, linear.K)


def _keep(
    source: Source, held: Mapping[str, Held], kept: str, methods: Chain, model: str
) -> frozenset[str]:
    """Return the layers that stay as they are because they were rounded before."""
    asked = [name for name, h in held.items() if h.format not in (KEEP, FLOAT)]
    found = {} if kept == "force" else guards.rounded_before(source, asked)
    return guards.settle(found, len(asked), kept, model, bool(methods.rotations))


def _without(
    held: Mapping[str, Held], scheme: Scheme, keeping: frozenset[str], methods: Chain
) -> tuple[dict[str, Held], Scheme]:
    """Return the layers, and the scheme, with some of them kept."""
    keeping |= {name for name, h in held.items() if h.format == KEEP}
    if keeping and methods.rotations:
        raise OptionError(
            f"{min(keeping)} is to be kept as it is, and {methods.rotations[0][0]} turns its "
            "weights. Keep none, or choose a method that turns none."
        )
    layers = dict.fromkeys(sorted(keeping), FP) | dict(scheme.layers)
    held = {name: Held(FP, KEEP) if name in keeping else h for name, h in held.items()}
    return held, replace(scheme, layers=layers) if keeping else scheme


def _calibration(
    source: Source,
    text: str | Calibration | None,
    windows: int,
    window: int,
    settings: Options,
    methods: Chain,
    held: Mapping[str, Held],
    known: Mapping[str, Method],
) -> Calibration | None:
    if isinstance(text, Calibration):
        return text
    if text is None and _has_static(held):
        raise OptionError(
            "static activations have the range that a text shows. Name a calibration text: wiki, "
            "sotu, or a file."
        )
    if text is None:
        blocks_too = [(BLOCK_METHOD, known[BLOCK_METHOD])] if _has_blocks(held) else []
        for name, method in (*methods.methods, *blocks_too):
            if method.calibrates or settings.clip == "output":
                raise OptionError(
                    f"{name} needs to see what layers are given. Name a calibration text: wiki, "
                    "sotu, or a file."
                )
        return None
    if source.checkpoint.tokenizer is None:
        raise MissingError(
            f"{source.checkpoint.path}: has no tokenizer, and a calibration text needs one. Put "
            "the model's tokenizer files beside it."
        )
    tokenizer = Tokenizer.load(source.checkpoint.tokenizer.source)
    longest = source.architecture.max_position_embeddings
    return calibration.read(
        text,
        tokenizer,
        windows=windows,
        length=min(window, longest),
        seed=settings.seed,
        bos=tokenizer.bos_id if tokenizer.add_bos else None,
    )


def _rotated(
    source: Source,
    scheme: Scheme,
    methods: Chain,
    tokens: Calibration | None,
    settings: Options,
    folder: Work,
    progress: Progress,
) -> tuple[Source, Scheme]:
    began, count = time.monotonic(), source.architecture.num_hidden_layers
    before: list[int] = []  # steps that a run which was stopped had done

    def tell(done: int, steps: int) -> None:
        before.append(done - 1)
        spent = time.monotonic() - began
        left = spent / (done - before[0]) * (steps - done)
        progress(Status(0, count, spent, left, f"rotation: step {done} of {steps}"))

    for name, method in methods.rotations:
        rotate = cast(Rotation, method.run)
        with stored_weight.named(name):
            source, scheme = rotate(source, scheme, tokens, settings, Aside(folder.folder, tell))
    return source, scheme


def _run(
    source: Source,
    method: str,
    scheme: Scheme,
    held: Mapping[str, Held],
    tokens: Calibration | None,
    settings: Options,
) -> dict[str, Any]:
    """Return all that the result depends on."""
    path = source.checkpoint.path
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    ids = b"" if tokens is None else tokens.tokens_WT.tobytes()
    return {
        "version": 1,
        "model": [[file.name, file.stat().st_size, file.stat().st_mtime_ns] for file in files],
        "method": method,
        "scheme": scheme.to_dict(),
        "formats": {name: h.format for name, h in held.items() if h.format},
        "calibration": hashlib.sha256(ids).hexdigest(),
        "options": asdict(settings),
    }


def _all_blocks(task: Task, folder: Work, tokens: Calibration | None, progress: Progress) -> None:
    """Round the blocks that are not done yet."""
    a = task.source.architecture
    count, began, first = a.num_hidden_layers, time.monotonic(), folder.done
    progress(Status(first, count, 0.0, None))
    if first == count:
        return
    shape = (0, 0, 0)
    if tokens is not None:
        W, T = tokens.tokens_WT.shape
        shape = (W, T, a.hidden_size)
        files_there = 4 if task.options.propagate else 2
        folder.check_space(files_there * 4 * W * T * a.hidden_size)
    with ExitStack() as files:  # closed whatever happens
        states = None
        if tokens is not None:
            states = files.enter_context(closing(_states(folder, first, shape, task.options)))
            if first == 0:
                for rows in (states.rounded, states.floats):
                    if rows is not None:
                        embed_text(task.source, tokens, rows)
        for index in range(first, count):
            after = None
            if tokens is not None and index + 1 < count:
                states_after = _states(folder, index + 1, shape, task.options)
                after = files.enter_context(closing(states_after))
            done = blocks.run(task, index, states, after)
            checksums = {} if after is None else {"hidden": after.rounded.checksum}
            if after is not None and after.floats is not None:
                checksums["float"] = after.floats.checksum
            folder.finish(index, done.tensors, done.rows, peak_memory_bytes(), checksums)
            if states is not None:
                states.close()
            states = after
            spent = time.monotonic() - began
            left = spent / (index + 1 - first) * (count - index - 1)
            progress(Status(index + 1, count, spent, left))


def _states(folder: Work, index: int, shape: tuple[int, int, int], settings: Options) -> States:
    floats = folder.hidden(index, shape, "float") if settings.propagate else None
    return States(folder.hidden(index, shape), floats)


def embed_text(source: Source, tokens: Calibration, states: Rows) -> None:
    """Write what the first block is given."""
    w_VC = source.tensor("model.embed_tokens.weight") * source.architecture.embedding_scale
    ids_WT = torch.from_numpy(tokens.tokens_WT)
    for first in range(len(ids_WT)):
        states.write(first, w_VC[ids_WT[first : first + 1]])


def _formats(
    held: Mapping[str, Held], made: result.Result, keeping: frozenset[str]
) -> dict[str, str]:
    """Return the format of each layer whose scheme does not say it."""
    found = {}
    for name, h in held.items():
        if h.scheme == FP and not h.format:
            found[name] = FLOAT
        elif h.format:
            found[name] = made.tensor(f"{name}.weight").format if h.format == KEEP else h.format
    return found


def _report(
    source: Source,
    exported: ExportReport,
    folder: Work,
    method: str,
    scheme: Scheme,
    tokens: Calibration | None,
    settings: Options,
    keeping: frozenset[str],
) -> Report:
    usual = Options()
    rows = [
        replace(row, size_bytes=exported.tensor_bytes[f"{row.layer}.weight"])
        for row in folder.rows()
    ]
    model = str(source.checkpoint.path)
    report = Report(model, exported.path, method, scheme.name, rows)
    report.parts = _parts(exported)
    report.weights = exported.parameters
    report.options = {k: v for k, v in asdict(settings).items() if v != getattr(usual, k)}
    report.peak_memory_bytes = max(folder.peak_memory_bytes(), peak_memory_bytes())
    if tokens is not None:
        W, T = tokens.tokens_WT.shape
        report.calibration = {"text": tokens.name, "windows": W, "window": T, "seed": settings.seed}
    if keeping:
        report.notes.append(f"{len(keeping)} layers were rounded before and are kept as they were.")
    return report


def _parts(exported: ExportReport) -> dict[str, int]:
    parts = exported.part_bytes
    other = exported.size_bytes - sum(parts[part] for part in ("body", "embed", "head"))
    return {
        "codes": parts["body"],
        "embedding": parts["embed"],
        "head": parts["head"],
        "other": other,
    }


def peak_memory_bytes() -> int:
    """Return the most memory that this process has held."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
