"""A decoder-only language model, tokens to logits, built from an `Architecture` and a `Scheme`.

Shape letters: B batch, T tokens, C model width, V vocabulary.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from onebit.architecture import Architecture
from onebit.errors import OptionError
from onebit.models import bitnet, llama
from onebit.models.layer import Layer
from onebit.nn import RMSNorm, Rope, convert
from onebit.scheme import FP, Scheme

# model_type of config.json -> the function that builds one layer
FAMILIES: dict[str, Callable[[Architecture], Layer]] = {
    "llama": llama.layer,
    "qwen2": llama.layer,
    "qwen3": llama.layer,
    "bitnet": bitnet.layer,
}


class Body(nn.Module):
    """Embedding, layers and last norm; what Hugging Face calls `model`."""

    def __init__(self, a: Architecture) -> None:
        super().__init__()
        # given a weight, it draws none, which on the meta device would load torch's compiler: 1 s
        weight_VC = torch.empty(a.vocab_size, a.hidden_size)
        self.embed_tokens = nn.Embedding.from_pretrained(  # type: ignore[no-untyped-call]
            weight_VC, freeze=False
        )
        self.layers = nn.ModuleList(FAMILIES[a.model_type](a) for _ in range(a.num_hidden_layers))
        self.norm = RMSNorm(a.hidden_size, a.rms_norm_eps)
        self.rope = Rope(a.inv_freq())

    def forward(self, tokens_BT: Tensor) -> Tensor:
        rotation = self.rope(tokens_BT.shape[1])
        x_BTC: Tensor = self.embed_tokens(tokens_BT)
        for layer in self.layers:
            x_BTC = layer(x_BTC, rotation)
        y: Tensor = self.norm(x_BTC)
        return y


class LanguageModel(nn.Module):
    """The names in `state_dict()` are Hugging Face's; tied embeddings have no `lm_head`."""

    scheme: Scheme

    def __init__(self, architecture: Architecture, scheme: Scheme) -> None:
        """Build the modules, the embedding not set; `models.build` gives all their first weights.

        Raises:
            OptionError: the scheme quantizes the embedding or a tied head, or has no such rule.
            ShapeError: a group of the scheme does not divide a layer's width.
        """
        super().__init__()
        self.architecture = a = architecture
        if a.tie_word_embeddings and scheme.linear("lm_head") != FP:
            raise OptionError(
                f"scheme {scheme.name}: the head shares the embedding's weights, which stay float. "
                'Take "head" out of the scheme, or untie the embeddings.'
            )
        self.model = Body(a)
        self.lm_head = (
            None if a.tie_word_embeddings else nn.Linear(a.hidden_size, a.vocab_size, bias=False)
        )
        convert(self, scheme, a.rms_norm_eps)

    def forward(self, tokens_BT: Tensor) -> Tensor:
        """Return the logits of the next token after every position, float32 (B, T, V).

        Args:
            tokens_BT: int64 ids below the vocabulary size.
        """
        x_BTC = self.model(tokens_BT)
        if self.lm_head is None:
            return F.linear(x_BTC, self.model.embed_tokens.weight).float()
        logits_BTV: Tensor = self.lm_head(x_BTC)
        return logits_BTV.float()
