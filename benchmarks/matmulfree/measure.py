"""What is measured on a trained model of the first seed: that it packs, and runs as it trained.

"file_bytes"        of the GGUF file that the engine reads, codes in the fewest bits
"engine", "torch"   nats per token of that file in the engine and of the model in torch, on the
                    same windows
"verified"          whether `verify` finds in the folder what its scheme claims
"""

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from benchmarks.bitnet.measure import Subject

import onebit
from onebit import models
from onebit.analyze.verify import verify
from onebit.eval import perplexity

WINDOWS = 8


def packed(subject: Subject) -> dict[str, Any]:
    """Return the numbers of the module's docstring."""
    ids = subject.tokens_BT(WINDOWS).flatten().tolist()
    context, model = subject.setup.data.context, subject.model()
    form = None if model.scheme.quantized else "f32"  # None: what holds the codes in fewest bits
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.gguf"
        models.export(subject.folder / "model", file, form, embed="f32")
        with onebit.LLM(file, threads=1) as llm:
            native = perplexity(llm, ids, window=context).nll_per_token
        size_bytes = file.stat().st_size
    return {
        "file_bytes": size_bytes,
        "engine": native,
        "torch": perplexity(model, ids, window=context).nll_per_token,
        "verified": verify(subject.folder / "model").ok,
    }


KINDS: Mapping[str, tuple[Callable[[Subject], dict[str, Any]], Callable[[Subject], bool]]] = {
    "packed": (packed, lambda subject: subject.first_seed),
}
"""Each kind, and which runs it is for."""
