"""Names of a MatMul-free model's tensors: those of the published checkpoints, and those here.

They differ in two: the embedding is `model.embeddings` there and `model.embed_tokens` here, and the
norm inside a linear layer is `norm` there and `rms_norm` here. Folders of safetensors have the
published names; every door to one turns them.

Source: ridgerchu/matmulfreellm, `modeling_hgrn_bit.py` and `ops/fusedbitnet.py`.
"""

import re
from collections.abc import Mapping
from typing import Any

from onebit.architecture import RECURRENT

_OURS_OF_PUBLISHED = (
    (re.compile(r"model\.embeddings(?=\.)"), "model.embed_tokens"),
    (re.compile(r"(?<=_proj\.)norm(?=\.weight$)|(?<=lm_head\.)norm(?=\.weight$)"), "rms_norm"),
)
_PUBLISHED_OF_OURS = (
    (re.compile(r"model\.embed_tokens(?=\.)"), "model.embeddings"),
    (re.compile(r"rms_norm(?=\.weight$)"), "norm"),
)


def ours(config: Mapping[str, Any], name: str) -> str:
    """Return the name here of a tensor in a folder with this config."""
    return _turned(config, name, _OURS_OF_PUBLISHED)


def published(config: Mapping[str, Any], name: str) -> str:
    """Return the name that a folder with this config has for a tensor."""
    return _turned(config, name, _PUBLISHED_OF_OURS)


def _turned(
    config: Mapping[str, Any], name: str, table: tuple[tuple[re.Pattern[str], str], ...]
) -> str:
    if config.get("model_type") == RECURRENT:
        for pattern, word in table:
            name = pattern.sub(word, name)
    return name
