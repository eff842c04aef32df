"""Files to (config, named tensors) and back, tensor by tensor; knows containers, not models.

checkpoint = open_checkpoint("smollm2")
checkpoint.config["hidden_size"], checkpoint.tensor("model.norm.weight").format
"""

from onebit.io.checkpoint import Checkpoint, StoredTensor, TokenizerSource, open_checkpoint

__all__ = ["Checkpoint", "StoredTensor", "TokenizerSource", "open_checkpoint"]
