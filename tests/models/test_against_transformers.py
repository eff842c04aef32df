"""Our models against transformers' on tiny random configurations: equal logits, float32.

The weights are drawn wide, so that logits are of order 1 and a tolerance of 1e-4 means something.
"""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from onebit import models
from onebit.errors import OnebitError
from onebit.nn import bit_linears
from onebit.scheme import SCHEMES

transformers = pytest.importorskip("transformers")

# what importing transformers' compiled quantizers says of torch itself
pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.script_method. is deprecated")

VOCAB, HIDDEN, FFN, LAYERS = 61, 32, 48, 2
BASE = {
    "vocab_size": VOCAB,
    "hidden_size": HIDDEN,
    "intermediate_size": FFN,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-5,
    "initializer_range": 0.2,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
LINEAR = {"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0}
FLOAT_MODELS = {
    "llama": ("Llama", {}),
    "llama tied, scaled as Llama 3": (
        "Llama",
        {"tie_word_embeddings": True, "rope_parameters": LLAMA3},
    ),
    "llama with biases, positions scaled": (
        "Llama",
        {"attention_bias": True, "mlp_bias": True, "rope_parameters": LINEAR},
    ),
    "qwen2": ("Qwen2", {}),
    "qwen3, heads wider than the model": ("Qwen3", {"head_dim": 24}),
    "qwen3 with biases": ("Qwen3", {"head_dim": 8, "attention_bias": True}),
}


@pytest.fixture(autouse=True)
def no_compilation():
    """transformers compiles its BitNet quantizers; their plain Python computes the same."""
    with torch.compiler.set_stance("force_eager"):
        yield


@pytest.fixture
def without_accelerate(monkeypatch):
    """transformers asks for the accelerate package before it loads BitNet, and then has no use
    for it on one CPU."""
    from transformers.quantizers import quantizer_bitnet

    monkeypatch.setattr(quantizer_bitnet, "is_accelerate_available", lambda: True)


@pytest.fixture
def tokens():
    return torch.randint(0, VOCAB, (1, 9), generator=torch.Generator().manual_seed(3))


def random_hf(family, fields, seed=0):
    """A transformers model with every weight random, norms and biases too."""
    config = getattr(transformers, f"{family}Config")(**{**BASE, **fields})
    model = getattr(transformers, f"{family}ForCausalLM")(config).eval()
    random = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.uniform_(0.5, 1.5, generator=random)
            else:
                parameter.normal_(std=0.2, generator=random)
    return model


@torch.no_grad()
def assert_equal_logits(ours, theirs, tokens):
    expected = theirs(tokens).logits
    assert expected.std() > 0.5  # else 1e-4 would not be small
    torch.testing.assert_close(ours(tokens), expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("case", FLOAT_MODELS)
def test_float_model(case, tmp_path, tokens):
    family, fields = FLOAT_MODELS[case]
    theirs = random_hf(family, fields)
    theirs.save_pretrained(tmp_path)
    ours = models.load(tmp_path)
    assert_equal_logits(ours, theirs, tokens)
    names = {name for name, _ in theirs.named_parameters()}
    assert set(ours.state_dict()) == names


def hf_pack(codes_NK):
    """Four codes plus one to a byte, of rows N/4 apart: transformers' layout, written anew."""
    quarter = codes_NK.shape[0] // 4
    digits = (codes_NK + 1).astype(np.uint8).reshape(4, quarter, -1)
    return sum(digits[i] << (2 * i) for i in range(4)).astype(np.uint8)


def write_bitnet(folder: Path, linear_class, mode):
    """Write one bitnet model in the form that `linear_class` and `mode` name."""
    source = random_hf("BitNet", {"tie_word_embeddings": True})
    tensors = {}
    for name, parameter in source.named_parameters():
        w = parameter.detach().numpy()
        if "_proj" not in name or mode == "online":
            tensors[name] = w
            continue
        mean = np.abs(w).mean()
        tensors[name] = hf_pack(np.clip(np.rint(w / mean), -1, 1).astype(np.int8))
        stored = mean if linear_class == "autobitlinear" else 1 / mean
        tensors[f"{name}_scale"] = np.array([stored], np.float32)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    config = source.config.to_dict() | {
        "quantization_config": {
            "quant_method": "bitnet",
            "linear_class": linear_class,
            "quantization_mode": mode,
            "modules_to_not_convert": ["lm_head"],
        }
    }
    (folder / "config.json").write_text(json.dumps(config))


@pytest.mark.usefixtures("without_accelerate")
@pytest.mark.parametrize(
    ("linear_class", "mode"),
    [("autobitlinear", "online"), ("autobitlinear", "offline"), ("bitlinear", "offline")],
)
def test_bitnet(linear_class, mode, tmp_path, tokens):
    write_bitnet(tmp_path, linear_class, mode)
    theirs = transformers.BitNetForCausalLM.from_pretrained(tmp_path, dtype=torch.float32).eval()
    ours = models.load(tmp_path)
    assert_equal_logits(ours, theirs, tokens)
    assert len(dict(bit_linears(ours))) == 7 * LAYERS
    assert all(layer.frozen == (mode == "offline") for _, layer in bit_linears(ours))


@pytest.mark.usefixtures("without_accelerate")
@pytest.mark.parametrize("name", ["bitnet-b1.58", "bitnet-b1.58-norm"])
def test_what_we_save_loads_in_transformers(name, tmp_path, tokens):
    """A model trained here runs there, with its ternary weights and int8 inputs."""
    source = random_hf("Llama", {})
    source.save_pretrained(tmp_path / "float")
    architecture = models.load(tmp_path / "float").architecture
    ours = models.build(architecture, SCHEMES[name], seed=0)
    ours.load_state_dict(source.state_dict(), strict=name == "bitnet-b1.58")
    models.save(ours, tmp_path / "ternary")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "ternary").eval()
    assert_equal_logits(ours, theirs, tokens)


@pytest.fixture(scope="module")
def smollm2():
    """The real SmolLM2-135M by transformers' own reading of its GGUF file."""
    from onebit.io import catalog

    try:
        path = Path(catalog.find("smollm2"))
    except OnebitError as error:
        pytest.skip(str(error))
    with pytest.MonkeyPatch.context() as patch:
        # asked for before a GGUF is read, as for BitNet
        patch.setattr(transformers.modeling_utils, "is_accelerate_available", lambda: True)
        model = transformers.AutoModelForCausalLM.from_pretrained(
            path.parent, gguf_file=path.name, dtype=torch.float32
        )
    return model.eval()


@pytest.mark.slow
def test_smollm2_from_its_gguf(smollm2):
    prompt = torch.tensor([[504, 3575, 282, 4649, 314, 7042, 30, 198, 504, 2100]])
    assert_equal_logits(models.load("smollm2"), smollm2, prompt)


@pytest.mark.slow
@torch.no_grad()
def test_smollm2_s_perplexity_is_transformers(smollm2):
    """By our protocol, and by the loss that transformers itself computes of each window."""
    from onebit.eval import engines, perplexity, texts

    try:
        text = texts.read("wiki", limit_chars=2_500).text
    except OnebitError as error:
        pytest.skip(str(error))
    ours, tokenizer = engines.open_model("smollm2", "torch")
    result = perplexity(ours, text, 256, tokenizer)
    windows = torch.tensor(tokenizer.encode(text)).split(256)
    losses = [float(smollm2(w[None], labels=w[None]).loss) * (len(w) - 1) for w in windows]
    assert result.scored_tokens == sum(len(w) - 1 for w in windows) > 500
    assert result.nll_per_token == pytest.approx(sum(losses) / result.scored_tokens, rel=1e-5)
