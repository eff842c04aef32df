"""What a quantization cost: perplexity of the float model and of the file that was written.

Before is the float reference in torch, its packed weights dequantized; after is the file in the
engine, as it will run. Both read the same windows of texts that no calibration reads.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

from onebit.data import Tokenizer
from onebit.errors import InputError, MissingError
from onebit.eval import engines, perplexity
from onebit.eval.perplexity import Perplexity
from onebit.eval.texts import Text as EvalText
from onebit.io import open_checkpoint
from onebit.ptq.report import Text

Progress = Callable[[str, int, int], None]


def of_model(
    model: str | Path,
    texts: Sequence[EvalText],
    engine: str = "torch",
    threads: int | None = None,
    progress: Progress | None = None,
) -> list[Perplexity]:
    """Measure a model on texts.

    Args:
        model: what `LLM` opens.
        texts: from `eval.texts.read`.
        engine: "torch" or "native".
        threads: CPU threads; None takes all.
        progress: called with (what, windows done, of).

    Raises:
        OnebitError: it cannot be opened, or its probabilities are no numbers.
    """
    opened, tokenizer = engines.open_model(model, engine, threads)
    found = []
    for text in texts:

        def tell(done: int, of: int, name: str = text.name) -> None:
            if progress:
                progress(f"perplexity on {name}", done, of)

        found.append(perplexity(opened, text.text, None, tokenizer, tell))
    return found


def check_texts(model: str | Path, texts: Sequence[EvalText]) -> None:
    """Refuse a text now that could not be measured after hours.

    Raises:
        MissingError: the model has no tokenizer.
        InputError: a text has fewer than two tokens.
    """
    if not texts:
        return
    checkpoint = open_checkpoint(model)
    if checkpoint.tokenizer is None:
        raise MissingError(
            f"{checkpoint.path}: has no tokenizer, and perplexity on a text needs one. Put the "
            "model's tokenizer files beside it, or measure nothing (--no-text)."
        )
    tokenizer = Tokenizer.load(checkpoint.tokenizer.source)
    for text in texts:
        if len(tokenizer.encode(text.text[:1000])) < 2:
            raise InputError(f"{text.name}: has fewer than two tokens to measure on. Give more.")


def compared(
    texts: Sequence[EvalText], before: Sequence[Perplexity], after: Sequence[Perplexity]
) -> list[Text]:
    """Return the lines of a report."""
    return [
        Text(
            text.name,
            b.perplexity,
            a.perplexity,
            b.bits_per_byte,
            a.bits_per_byte,
            a.protocol,
        )
        for text, b, a in zip(texts, before, after, strict=True)
    ]
