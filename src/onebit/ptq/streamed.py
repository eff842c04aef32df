"""Sensitivity of a model that does not fit into memory: one block at a time, by its float inputs.

What `sensitivity.measure` finds of the measures "weight" and "output", to the same numbers; the
others need the gradient of the whole model.

Shape letters: W windows, T tokens of a window.
"""

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from pathlib import Path

from onebit.errors import FileError
from onebit.ptq import blocks, rtn, sensitivity
from onebit.ptq.blocks import Task
from onebit.ptq.calibration import Calibration
from onebit.ptq.flow import Flow
from onebit.ptq.method import Method
from onebit.ptq.options import Options
from onebit.ptq.plan import FLOAT, Held
from onebit.ptq.rows import Rows
from onebit.ptq.sensitivity_table import Sensitivity
from onebit.ptq.source import Source, layers_of
from onebit.ptq.stages import stages
from onebit.ptq.walk import embed_text
from onebit.scheme import FP, SCHEMES


def measure(
    source: Source,
    text: Calibration,
    words: Sequence[str],
    method: Method,
    block_method: Method | None,
    options: Options,
    folder: Path,
    progress: Callable[[str, int, int], None] | None = None,
) -> Sensitivity:
    """Round every layer in every way, alone, and measure its error; nothing is left rounded.

    Args:
        source: the float model.
        text: calibration windows.
        words, method, block_method, options: as `sensitivity.measure`.
        folder: takes the hidden states of two blocks at a time; they are removed at the end.
        progress: called with ("layers", blocks done, of).

    Raises:
        OnebitError: as `sensitivity.measure`, or the disk is full.
    """
    began = time.monotonic()
    sensitivity.check_words(words)
    held = dict.fromkeys(layers_of(source), Held(FP, FLOAT))
    task = Task(source, SCHEMES["fp"], held, (), ("rtn", rtn.METHOD), None, options, folder)
    count, entries = source.architecture.num_hidden_layers, []
    (W, T), C = text.tokens_WT.shape, source.architecture.hidden_size
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FileError(f"{folder}: cannot be made ({error.strerror or error}).") from error
    places = [folder / "states-0.bin", folder / "states-1.bin"]
    with ExitStack() as stack:
        stack.callback(_remove, folder)
        states, after = (stack.enter_context(closing(Rows((W, T, C), place))) for place in places)
        embed_text(source, text, states)
        for index in range(count):
            block, rotation = blocks.load(task, index, T)
            flow = Flow(block, rotation, states, folder)
            for stage in stages(block.layer):
                stats = flow.stats(stage, dict.fromkeys(stage.linears, FP))
                for own in stage.linears:
                    way = f"{block.name}.{own}", block.linear(own).weight.detach(), stats[own]
                    found = sensitivity.ways(*way, None, words, method, block_method, options)
                    entries += [entry for entry, _ in found]
            flow.finish(after)
            states, after = after, states
            if progress:
                progress("layers", index + 1, count)
    made = {"words": list(words), "tokens": W * T, "time_s": time.monotonic() - began}
    return Sensitivity(entries, made)


def _remove(folder: Path) -> None:
    """Remove the states, and what `blocks` left of those inside a block."""
    for file in (*folder.glob("states-[01].bin"), *folder.glob("scratch-*.bin")):
        file.unlink()
