"""Quantizing a trained model after training.

    from onebit import ptq
    ptq.quantize("model", "out.gguf", method="gptq", scheme="w3a16-g64", calibration="wiki")

Each method is one file and one function; here is their table. What to round, with which range and
in which order is decided in this folder; the rounding itself is in `quant/`.
"""

from pathlib import Path

from onebit.ptq import (
    awq,
    driver,
    gptq,
    hqq,
    kquants,
    quarot,
    rtn,
    smoothquant,
    spinquant,
    ternary,
)
from onebit.ptq.calibration import WINDOW, WINDOWS, Calibration
from onebit.ptq.method import Method
from onebit.ptq.options import Options
from onebit.ptq.plan import Plan
from onebit.ptq.report import Report
from onebit.ptq.walk import Progress, Status
from onebit.scheme import Scheme

__all__ = ["METHODS", "Calibration", "Method", "Options", "Plan", "Report", "Status", "quantize"]

METHODS: dict[str, Method] = {
    "rtn": rtn.METHOD,
    "gptq": gptq.METHOD,
    "kquants": kquants.METHOD,
    "ternary": ternary.METHOD,
    "hqq": hqq.METHOD,
    "quarot": quarot.METHOD,
    "spinquant": spinquant.METHOD,
    "smoothquant": smoothquant.METHOD,
    "awq": awq.METHOD,
}
"""Word on the command line -> the method; "smoothquant+gptq" names two, the rounding last."""


def quantize(
    model: str | Path,
    out: str | Path,
    *,
    method: str | None = None,
    scheme: str | Scheme | Plan = "w4a16-g64",
    calibration: str | Calibration | None = None,
    windows: int = WINDOWS,
    window: int = WINDOW,
    options: Options | None = None,
    work: Path | None = None,
    resume: bool = True,
    force: bool = False,
    kept: str = "refuse",
    embed: str | None = None,
    progress: Progress = lambda status: None,
) -> Report:
    """Round the linear layers of a trained model to few bits, and write it to `out`.

    Args:
        model: a folder, a file or a catalog name. Of packed weights, the values are the reference.
        out: a file that ends in .gguf, or a folder for safetensors.
        method: names of `METHODS` joined by +: rotations, transforms, one rounding. A rotation or
            transform alone takes the rounding that goes with it. None is gptq, or kquants where the
            scheme is a block format.
        scheme: a name ("w3a16-g64", "w4a4kv4", "q4_k"), a scheme, or a plan that says it layer by
            layer.
        calibration: what `calibration.read` takes, or windows of tokens; methods that look at
            inputs need one.
        windows: of a named text, each of `window` tokens.
        options: of the methods; an option that none of them takes is refused.
        work: the folder in which a run leaves what it has done, removed at its end. None is
            `<out>.work`.
        resume: go on with what is there of the same run; else begin anew.
        force: overwrite what is at `out`.
        kept: layers that were rounded before: "refuse" the model, "keep" them as they are, or
            "force" another rounding.
        embed: format of embedding and head, as `models.export`.
        progress: called before the first block and after each.

    Returns:
        What was done and what it cost; perplexities are for the caller to measure.

    Raises:
        OptionError: a name or option is not known or not taken, `out` exists, or the work folder
            holds another run.
        MissingError, FormatError: model or text is not there, or damaged.
        ShapeError: a layer does not fit its groups or blocks.
        InputError: weights or inputs are not finite, the text is too short, or layers were rounded
            before.
        FileError: the disk is full, or the system refused. What is done is kept.
    """
    return driver.quantize(
        model,
        out,
        METHODS,
        method=method,
        scheme=scheme,
        text=calibration,
        windows=windows,
        window=window,
        settings=options or Options(),
        work=work,
        resume=resume,
        force=force,
        kept=kept,
        embed=embed,
        progress=progress,
    )
