"""BitNet b1.58 2B4T: a llama with norms before the two output projections, and squared ReLU.

The norms inside the layers (SubLN) keep the inputs of `o_proj` and `down_proj` in the range that
int8 holds well; the norms before attention and feed-forward stay. Embeddings are tied.

Source: BitNet b1.58 2B4T, section 2, https://arxiv.org/abs/2504.12285
"""

from onebit.architecture import Architecture
from onebit.models import llama
from onebit.models.layer import Layer


def layer(a: Architecture, index: int) -> Layer:
    """Return one layer: that of a llama, with the sub-norms that the architecture names."""
    return llama.layer(a, index)
