"""A decoder-only language model, tokens to logits, built from an `Architecture` and a `Scheme`.

Shape letters: B batch, T tokens, C model width, V vocabulary.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from onebit.architecture import Architecture
from onebit.errors import OptionError
from onebit.models import bitnet, gemma3, llama
from onebit.models.layer import Layer
from onebit.nn import RMSNorm, Rope, Rotation, convert
from onebit.scheme import FP, Scheme

# model_type of config.json -> the function that builds a layer, by its number from 0
FAMILIES: dict[str, Callable[[Architecture, int], Layer]] = {
    "llama": llama.layer,
    "qwen2": llama.layer,
    "qwen3": llama.layer,
    "bitnet": bitnet.layer,
    "gemma3_text": gemma3.layer,
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
        self.layers = nn.ModuleList(
            FAMILIES[a.model_type](a, index) for index in range(a.num_hidden_layers)
        )
        self.norm = RMSNorm(a.hidden_size, a.rms_norm_eps)
        self.embedding_scale = a.embedding_scale
        self.local = [a.is_local(index) for index in range(a.num_hidden_layers)]
        self.set_ropes(a)

    def set_ropes(self, a: Architecture) -> None:
        """Make the frequencies of RoPE, which no checkpoint holds, on the CPU."""
        self.rope = Rope(a.inv_freq())
        self.local_rope = Rope(a.inv_freq(local=True)) if a.sliding_window else None

    def embed(self, tokens_BT: Tensor) -> Tensor:
        """Return what the first layer is given, (B, T, C)."""
        x_BTC: Tensor = self.embed_tokens(tokens_BT)
        return x_BTC if self.embedding_scale == 1 else x_BTC * self.embedding_scale

    def rotations(self, tokens: int) -> list[Rotation]:
        """Return the turns of positions 0 ... tokens - 1, one `Rotation` for each layer."""
        everywhere: Rotation = self.rope(tokens)
        if self.local_rope is None:
            return [everywhere] * len(self.local)
        near: Rotation = self.local_rope(tokens)
        return [near if local else everywhere for local in self.local]

    def forward(self, tokens_BT: Tensor) -> Tensor:
        x_BTC = self.embed(tokens_BT)
        for layer, rotation in zip(self.layers, self.rotations(tokens_BT.shape[1]), strict=True):
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
