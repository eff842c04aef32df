"""The walk through a model's blocks: from the first that is not done to the last.

Shape letters: W windows, T tokens of a window, V vocabulary, C model width.
"""

import time
from collections.abc import Callable
from contextlib import ExitStack, closing
from dataclasses import dataclass

import torch

from onebit.eval.fresh_process import peak_memory_bytes
from onebit.ptq import blocks
from onebit.ptq.blocks import States, Task
from onebit.ptq.calibration import Calibration
from onebit.ptq.options import Options
from onebit.ptq.rows import Rows
from onebit.ptq.source import Source
from onebit.ptq.work import Work


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


def all_blocks(task: Task, folder: Work, tokens: Calibration | None, progress: Progress) -> None:
    """Round the blocks that are not done yet.

    Raises:
        OnebitError: a method refuses a layer, or the disk is full; the blocks before are kept.
    """
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
            after, block_began = None, time.monotonic()
            if tokens is not None and index + 1 < count:
                states_after = _states(folder, index + 1, shape, task.options)
                after = files.enter_context(closing(states_after))
            done = blocks.run(task, index, states, after)
            checksums = {} if after is None else {"hidden": after.rounded.checksum}
            if after is not None and after.floats is not None:
                checksums["float"] = after.floats.checksum
            block_s = time.monotonic() - block_began
            folder.finish(index, done.tensors, done.rows, peak_memory_bytes(), checksums, block_s)
            del done  # codes of a whole block, which the next one has no use for
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
