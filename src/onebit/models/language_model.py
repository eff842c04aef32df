"""A language model, tokens to logits, built from an `Architecture` and a `Scheme`.

Shape letters: B batch, T tokens, C model width, V vocabulary.
"""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from onebit import tensors
from onebit.architecture import Architecture
from onebit.models import bitnet, gemma3, hgrn_bit, llama
from onebit.models.hgrn_bit import HgrnBitLayer
from onebit.models.layer import Layer
from onebit.nn import RMSNorm, Rope, Rotation, convert
from onebit.scheme import Scheme

# model_type of config.json -> the function that builds a layer, by its number from 0
FAMILIES: dict[str, Callable[[Architecture, int], Layer | HgrnBitLayer]] = {
    "llama": llama.layer,
    "qwen2": llama.layer,
    "qwen3": llama.layer,
    "bitnet": bitnet.layer,
    "gemma3_text": gemma3.layer,
    "hgrn_bit": hgrn_bit.layer,
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
        self.lower_bounds = (
            nn.Parameter(torch.zeros(a.num_hidden_layers, a.hidden_size))
            if a.recurrent and a.lower_bounds
            else None
        )
        self.set_ropes(a)

    def set_ropes(self, a: Architecture) -> None:
        """Make the frequencies of RoPE, which no checkpoint holds, on the CPU."""
        self.rope = None if a.recurrent else Rope(a.inv_freq())
        self.local_rope = Rope(a.inv_freq(local=True)) if a.sliding_window else None

    def embed(self, tokens_BT: Tensor) -> Tensor:
        """Return what the first layer is given, (B, T, C)."""
        x_BTC: Tensor = self.embed_tokens(tokens_BT)
        return x_BTC if self.embedding_scale == 1 else x_BTC * self.embedding_scale

    def beside(self, tokens: int) -> Sequence[Rotation | Tensor | None]:
        """Return what each layer is told beside the stream: the turns of positions from 0;
        a recurrent one instead the lower bounds of its forget gates, (C,)."""
        if self.rope is None:
            return hgrn_bit.bounds(self.lower_bounds, len(self.layers))
        everywhere: Rotation = self.rope(tokens)
        if self.local_rope is None:
            return [everywhere] * len(self.local)
        near: Rotation = self.local_rope(tokens)
        return [near if local else everywhere for local in self.local]

    def forward(self, tokens_BT: Tensor) -> Tensor:
        x_BTC = self.embed(tokens_BT)
        for layer, told in zip(self.layers, self.beside(tokens_BT.shape[1]), strict=True):
            x_BTC = layer(x_BTC, told)
        y: Tensor = self.norm(x_BTC)
        return y


class LanguageModel(nn.Module):
    """The names in `state_dict()` are Hugging Face's, but for two of MatMul-free models
    (`io.hgrn_names`); tied embeddings have no `lm_head`."""

    scheme: Scheme

    def __init__(self, architecture: Architecture, scheme: Scheme) -> None:
        """Build the modules, the embedding not set; `models.build` gives all their first weights.

        Raises:
            OptionError: the scheme quantizes the embedding or a tied head, or keys and values of a
                model without any; or has no such rule.
            ShapeError: a group of the scheme does not divide a layer's width.
        """
        super().__init__()
        self.architecture = a = architecture
        tensors.check(a, scheme)
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
