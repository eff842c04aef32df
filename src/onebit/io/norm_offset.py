"""Norms whose weights a Hugging Face folder holds less 1: Gemma's multiply by 1 + weight.

Here, as in GGUF, a norm's weight is what multiplies. Every door to a folder turns it: what is read
by `plus_one`, what is written by `less_one`.

Source: transformers, `modeling_gemma3.py`, `Gemma3RMSNorm`.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

_MODEL_TYPES = ("gemma3_text",)
_INSIDE = "rms_norm.weight"  # of a linear layer: a norm of BitNet's, in whatever model


def has_offset(config: Mapping[str, Any], name: str) -> bool:
    """Whether a tensor of a folder with this config holds a norm's weights less 1."""
    norm = name.endswith("norm.weight") and not name.endswith(_INSIDE)
    return norm and config.get("model_type") in _MODEL_TYPES


def plus_one(stored: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return what multiplies, in float32 as transformers computes it."""
    return stored + np.float32(1)


def less_one(weight: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return what a folder holds. `plus_one` gives weights from 0.5 on back as they were; smaller
    ones may differ by 2^-25."""
    return weight - np.float32(1)
