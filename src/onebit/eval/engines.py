"""Opening a model to measure it: on the native engine, or as a torch model."""

from pathlib import Path
from typing import TYPE_CHECKING

from onebit.data import Tokenizer
from onebit.errors import MissingError, OptionError
from onebit.io import open_checkpoint
from onebit.runtime.llm import LLM
from onebit.runtime.options import thread_count

if TYPE_CHECKING:
    from onebit.models import LanguageModel

ENGINES = ("native", "torch")


def open_model(
    path: str | Path,
    engine: str = "native",
    threads: int | None = None,
    context: int | None = None,
    kv_bits: int | None = None,
    input_bits: int | None = None,
) -> tuple["LLM | LanguageModel", Tokenizer]:
    """Return a model and its tokenizer.

    Args:
        path: whatever `LLM` opens.
        engine: "native", the engine that runs models; "torch", the one that trains them.
        threads: CPU threads; None takes all.
        context, kv_bits, input_bits: of the native engine; see `LLM`.

    Raises:
        OptionError: there is no such engine, it has no such bits, or a number is out of range.
        MissingError: the model has no tokenizer.
        OnebitError: it cannot be opened.
    """
    if engine == "native":
        width = 16 if input_bits is None else input_bits
        llm = LLM(path, threads, context, kv_bits, input_bits=width)
        return llm, llm.tokenizer
    if engine != "torch":
        raise OptionError(f"engine is {engine!r}; accepted: {', '.join(ENGINES)}.")
    for name, bits, has in (
        ("kv_bits", kv_bits, "has no cache"),
        ("input_bits", input_bits, "multiplies floats"),
    ):
        if bits is not None:
            raise OptionError(
                f"{name} is {bits}; engine torch {has}. Leave it out, or take native."
            )
    import torch

    from onebit import models

    source = open_checkpoint(path).tokenizer
    if source is None:
        raise MissingError(f"{path} has no tokenizer, and a text is to be measured. Add one.")
    if threads is not None:
        torch.set_num_threads(thread_count(threads))
    return models.load(path).eval(), Tokenizer.load(source.source)
