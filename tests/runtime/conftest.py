"""A tiny random model with a tokenizer and a chat template, saved once for all tests here."""

import pytest

TEXT = "It was the best of times, it was the worst of times; the age of wisdom, of foolishness. "
TEMPLATE = (
    "{% for m in messages %}[{{ m.role }}] {{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}[assistant] {% endif %}"
)


RECURRENT = {
    "model_type": "hgrn_bit",
    "num_attention_heads": 0,
    "num_key_value_heads": 0,
    "head_dim": 0,
    "tie_word_embeddings": False,
    "max_position_embeddings": 1 << 20,
}


def stir(model, seed, factor):
    """Give a recurrent model's parameters sizes at which each matters."""
    import torch

    random = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 1:
                parameter.uniform_(0.5, 1.5, generator=random)
            elif name == "model.lower_bounds":
                parameter.normal_(generator=random)
            else:
                parameter *= factor
    return model


@pytest.fixture(scope="session")
def architecture():
    from onebit import Architecture

    def make(**changes):
        sizes = {
            "vocab_size": 300,
            "hidden_size": 64,
            "intermediate_size": 96,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 16,
            "max_position_embeddings": 128,
        }
        return Architecture(**(sizes | changes))

    return make


@pytest.fixture(scope="session")
def tokenizer():
    from onebit.data import Tokenizer

    return Tokenizer.train([TEXT * 4], 300, chat_template=TEMPLATE)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory, architecture, tokenizer):
    """The folder of a float model whose logits are spread enough for its text to vary."""
    import torch

    from onebit import SCHEMES, models

    model = models.build(architecture(), SCHEMES["fp"], seed=3)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter *= 8
    folder = tmp_path_factory.mktemp("tiny")
    models.save(model, folder, tokenizer)
    return folder


@pytest.fixture
def llm(tiny):
    from onebit import LLM

    with LLM(tiny, threads=1, kv_bits=32) as opened:
        yield opened
