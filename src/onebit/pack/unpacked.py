"""What every format unpacks to, and what the runtime repacks from."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class Unpacked(NamedTuple):
    """Codes with their factors: value = code * scale (+ minimum)."""

    codes_NK: NDArray[np.int8]
    scale_NG: NDArray[np.float32]
    """G divides K: each of the G scales of a row serves K // G columns in a row."""
    minimum_NG: NDArray[np.float32] | None = None

    def values(self) -> NDArray[np.float32]:
        """Return the float32 weights that these stand for, (N, K)."""
        N, K = self.codes_NK.shape
        G = self.scale_NG.shape[1]
        w_NGk = self.codes_NK.reshape(N, G, -1).astype(np.float32) * self.scale_NG[..., None]
        if self.minimum_NG is not None:
            w_NGk += self.minimum_NG[..., None]
        return w_NGk.reshape(N, K)
