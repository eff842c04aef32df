"""Shared by all tests: one torch thread, the fixture `isa`, which runs a test per instruction set,
and `save_tiny`, which saves a model that loads in milliseconds."""

import os

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch: tests run side by side
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


def _isas() -> list[str]:
    from onebit.kernels import cpu

    return cpu.isas()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "isa" in metafunc.fixturenames:
        metafunc.parametrize("isa", _isas(), indirect=True)


@pytest.fixture
def isa(request, monkeypatch):
    """Runs the test once per instruction set that works here, and checks that it is in use."""
    from onebit.kernels import cpu

    monkeypatch.setenv("ONEBIT_ISA", request.param)
    assert cpu.active_isa() == request.param
    return request.param


@pytest.fixture(scope="session")
def save_tiny(tmp_path_factory):
    """A function that saves a random model of one layer with its tokenizer, and returns the folder.

    text: what the tokenizer is trained on; scheme: a name in SCHEMES; spread: multiplies the
    embedding, so that logits differ; changes: to the architecture.
    """

    def save(text, scheme="fp", seed=4, spread=1.0, chat_template=None, **changes):
        import torch

        from onebit import SCHEMES, Architecture, models
        from onebit.data import Tokenizer

        sizes = {
            "vocab_size": 300,
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "head_dim": 32,
            "max_position_embeddings": 96,
        }
        model = models.build(Architecture(**(sizes | changes)), SCHEMES[scheme], seed)
        with torch.no_grad():
            model.model.embed_tokens.weight *= spread
        folder = tmp_path_factory.mktemp("tiny") / "model"
        tokenizer = Tokenizer.train([text], 300, chat_template=chat_template)
        models.save(model, folder, tokenizer)
        return folder

    return save
