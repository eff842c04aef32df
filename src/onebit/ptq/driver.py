"""From a model on disk to a quantized one: checks, the blocks one by one, the file, the report."""

import glob
import hashlib
import shutil
import time
from collections.abc import Mapping
from contextlib import closing, suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, cast

from onebit import pack
from onebit.data import Tokenizer
from onebit.errors import MissingError, OptionError
from onebit.eval.fresh_process import peak_memory_bytes
from onebit.models import ExportReport, export, stored_weight
from onebit.ptq import calibration, checks, guards, options, result, walk
from onebit.ptq.blocks import Task
from onebit.ptq.calibration import Calibration
from onebit.ptq.chain import Chain, chain
from onebit.ptq.checks import BLOCK_METHOD, has_blocks, has_static
from onebit.ptq.method import Aside, Method, Rotation
from onebit.ptq.options import Options
from onebit.ptq.plan import FLOAT, KEEP, Held, Plan, uniform
from onebit.ptq.report import Report
from onebit.ptq.source import FileSource, Source, layers_of
from onebit.ptq.walk import Progress, Status
from onebit.ptq.work import Work
from onebit.scheme import FP, Scheme, of_config


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
    options.check_taken(settings, checks.options_taken(methods, held, known), methods.name)
    checks.check(base, layers, held, out, force)
    checks.check_embed(base, out, embed)
    keeping = _keep(base, held, kept, methods, str(model))
    held, wanted = _without(base, held, wanted, keeping, methods)
    tokens = _calibration(base, text, windows, window, settings, methods, held, known)
    checks.check_methods(methods, held, settings, tokens is not None, known)
    checks.check_finite(base)
    run = _run(base, methods.name, wanted, held, tokens, settings)
    with closing(Work(_work(work, out), run, resume)) as folder:
        if folder.found == base.architecture.num_hidden_layers:
            _sweep(out)
        source, wanted = _rotated(base, wanted, methods, tokens, settings, folder, progress)
        held = {name: h._replace(scheme=wanted.linear(name)) for name, h in held.items()}
        task = Task(
            source,
            wanted,
            held,
            methods.transforms,
            methods.rounding,
            (BLOCK_METHOD, known[BLOCK_METHOD]) if has_blocks(held) else None,
            settings,
            folder.folder,
        )
        walk.all_blocks(task, folder, tokens, progress)
        made = result.Result(source, folder, wanted)
        exported = export(
            made, out, embed=embed, force=force, formats=_formats(held, made, keeping)
        )
        report = _report(base, exported, folder, methods.name, wanted, tokens, settings, keeping)
        report.time_s = time.monotonic() - began + folder.time_before_s()
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
    return "gptq" if codes or not has_blocks(held) else BLOCK_METHOD


def _work(work: Path | None, out: Path) -> Path:
    """Return the run's folder."""
    if work is not None and work.resolve() == out.resolve():
        raise OptionError(f"the work folder is {work}, and so is OUT. Name another work folder.")
    return work or out.with_name(f"{out.name}.work")


def _sweep(out: Path) -> None:
    """Remove what a run that was killed while it wrote `out` has left of that beside it."""
    for left in out.parent.glob(f".{glob.escape(out.name)}.*.tmp"):
        with suppress(OSError):
            shutil.rmtree(left) if left.is_dir() else left.unlink()


def _keep(
    source: Source, held: Mapping[str, Held], kept: str, methods: Chain, model: str
) -> frozenset[str]:
    """Return the layers that stay as they are because they were rounded before."""
    asked = [name for name, h in held.items() if h.format not in (KEEP, FLOAT)]
    if kept == "force":
        guards.refuse_masters(source, asked)
    found = {} if kept == "force" else guards.rounded_before(source, asked)
    return guards.settle(found, len(asked), kept, model, bool(methods.rotations))


def _without(
    source: Source,
    held: Mapping[str, Held],
    scheme: Scheme,
    keeping: frozenset[str],
    methods: Chain,
) -> tuple[dict[str, Held], Scheme]:
    """Return layers and scheme with some of them kept, under the scheme that the source has."""
    keeping |= {name for name, h in held.items() if h.format == KEEP}
    if keeping and methods.rotations:
        raise OptionError(
            f"{min(keeping)} is to be kept as it is, and {methods.rotations[0][0]} turns its "
            "weights. Keep none, or choose a method that turns none."
        )
    own = of_config(source.config)
    layers = {name: own.linear(name) for name in sorted(keeping)}
    layers |= {name: linear for name, linear in scheme.layers.items() if name not in layers}
    held = {n: Held(own.linear(n), KEEP) if n in keeping else h for n, h in held.items()}
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
        return checks.check_tokens(text, source)
    if text is None and has_static(held):
        raise OptionError(
            "static activations have the range that a text shows. Name a calibration text: wiki, "
            "sotu, or a file."
        )
    if text is None:
        blocks_too = [(BLOCK_METHOD, known[BLOCK_METHOD])] if has_blocks(held) else []
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
    found = calibration.read(
        text,
        tokenizer,
        windows=windows,
        length=min(window, longest),
        seed=settings.seed,
        bos=tokenizer.bos_id if tokenizer.add_bos else None,
    )
    return checks.check_tokens(found, source)


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
    ids = b"" if tokens is None else tokens.tokens_WT.tobytes()
    return {
        "version": 2,  # of the folder's files
        "model": files_of(source),
        "method": method,
        "scheme": scheme.to_dict(),
        "formats": {name: h.format for name, h in held.items() if h.format},
        "calibration": hashlib.sha256(ids).hexdigest(),
        "options": asdict(settings),
    }


def files_of(source: Source) -> list[list[str | int]]:
    """Return name, size and time of the files that hold a model's config and tensors."""
    path = source.checkpoint.path
    files = [path]
    if path.is_dir():
        files = [file for file in path.iterdir() if file.name == "config.json"]
        files += path.glob("*.safetensors")
    times = [(file.name, file.stat()) for file in sorted(files)]
    return [[name, found.st_size, found.st_mtime_ns] for name, found in times]


def _formats(
    held: Mapping[str, Held], made: result.Result, keeping: frozenset[str]
) -> dict[str, str]:
    """Return the format of each layer whose scheme does not say it."""
    found = {}
    for name, h in held.items():
        if h.scheme == FP and not h.format:
            found[name] = FLOAT
        elif h.format == KEEP:
            form = made.tensor(f"{name}.weight").format
            if h.scheme == FP or form in pack.FORMATS:  # else masters, which the export rounds
                found[name] = form
        elif h.format:
            found[name] = h.format
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
