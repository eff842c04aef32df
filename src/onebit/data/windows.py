"""Windows for evaluation: how a long text is cut so that every token is scored about once.

Non-overlapping windows of 512 tokens; a model scores every token of a window but the first, which
nothing precedes. With `bos`, that id takes the first place of each window, and every token of the
text is scored. Perplexities are comparable only under the same cut.
"""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from onebit.errors import OptionError


def windows(
    tokens: ArrayLike | Sequence[int], length: int = 512, bos: int | None = None
) -> Iterator[NDArray[np.int64]]:
    """Yield the windows of a text, each (T,) int64 with 2 <= T <= length.

    In a window w, w[:-1] are the inputs and w[1:] the tokens to score. A last window of which
    nothing would be scored is left out.

    Raises:
        OptionError: `length` is below 2.
    """
    if length < 2:
        raise OptionError(f"windows: length is {length}; at least 2, as the first is not scored.")
    ids = np.asarray(tokens, dtype=np.int64).reshape(-1)
    head = np.array([] if bos is None else [bos], dtype=np.int64)
    step = length - len(head)
    for first in range(0, len(ids), step):
        window = np.concatenate([head, ids[first : first + step]])
        if len(window) >= 2:
            yield window
