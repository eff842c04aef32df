"""The engine against the torch model that trains: same logits for floats, same tokens for codes."""

import json

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from onebit import LLM, SCHEMES, models

FAMILIES = {
    "llama": {},
    "llama untied": {"tie_word_embeddings": False, "mlp_bias": True},
    "qwen2": {"model_type": "qwen2", "qkv_bias": True},
    "qwen3": {"model_type": "qwen3", "qk_norm": True, "head_dim": 24},
    "bitnet": {"model_type": "bitnet", "sub_norms": True, "hidden_act": "relu2"},
    "gemma3": {
        "model_type": "gemma3_text",
        "hidden_act": "gelu_pytorch_tanh",
        "qk_norm": True,
        "post_norms": True,
        "sliding_window": 7,
        "global_every": 2,
    },
    "llama3 rope": {
        "rope_scaling": {
            "rope_type": "llama3",
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 32,
        }
    },
}
TERNARY = [
    ("llama", "bitnet-b1.58"),
    ("llama", "bitnet-b1.58-norm"),
    ("qwen2", "bitnet-b1.58"),
    ("qwen3", "bitnet-b1.58"),
    ("bitnet", "bitnet-b1.58"),
    ("gemma3", "bitnet-b1.58"),
]
END = 0  # of the tokenizer, and of the architecture
TOKENS = np.random.default_rng(0).integers(0, 300, 40).tolist()


def build(architecture, family, scheme):
    """Return a model whose every parameter matters: matrices spread, norms and biases random."""
    changes = {"tie_word_embeddings": scheme == "fp", "eos_token_id": (END,)}
    a = architecture(**changes | FAMILIES[family])
    model = models.build(a, SCHEMES[scheme], seed=5).eval()
    random = torch.Generator().manual_seed(6)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 2:
                parameter *= 5
            else:
                low = -0.2 if name.endswith("bias") else 0.5
                parameter.uniform_(low, low + 1, generator=random)
    return model


@torch.no_grad()
def torch_logits(model, tokens):
    return model(torch.tensor([tokens]))[0].numpy()


@pytest.mark.parametrize("family", FAMILIES)
def test_float_logits(tmp_path, architecture, family):
    model = build(architecture, family, "fp")
    models.save(model, tmp_path)
    expected = torch_logits(model, TOKENS)
    assert expected.std() > 0.1
    with LLM(tmp_path, kv_bits=32) as llm:
        np.testing.assert_allclose(llm.logits(TOKENS), expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision_weights_are_computed_in_float32(tmp_path, architecture, dtype):
    model = build(architecture, "llama", "fp")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(parameter.to(dtype))
    expected = torch_logits(model, TOKENS)
    models.save(model.to(dtype), tmp_path)
    with LLM(tmp_path, kv_bits=32) as llm:
        np.testing.assert_allclose(llm.logits(TOKENS), expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", ["out", "out.gguf"])
@pytest.mark.parametrize(("family", "scheme"), TERNARY)
def test_ternary_tokens(tmp_path, architecture, tokenizer, family, scheme, name):
    model = build(architecture, family, scheme)
    models.save(model, tmp_path / "masters", tokenizer)
    models.export(tmp_path / "masters", tmp_path / name, "t1_6", embed="f32")
    assert_writes_as(tmp_path / name, model)


def assert_writes_as(path, model):
    """The engine continues prompts with the very tokens that the torch model picks."""
    prompts = [TOKENS[start : start + 6] for start in range(0, 24, 6)]
    expected = [models.generate(model, prompt, 10) for prompt in prompts]
    assert len({token for text in expected for token in text}) > 9  # no text that repeats itself
    with LLM(path, kv_bits=32) as llm:
        for prompt, tokens in zip(prompts, expected, strict=True):
            written = llm.generate(prompt, max_tokens=10).token_ids
            assert list(written) == [token for token in tokens if token != END]


@pytest.mark.parametrize("linear_class", ["autobitlinear", "bitlinear"])
def test_hugging_face_packed_in_both_scale_conventions(tmp_path, architecture, linear_class):
    """As others publish it: no scheme of ours, and "bitlinear" stores the scale's inverse."""
    masters = build(architecture, "bitnet", "bitnet-b1.58")
    models.save(masters, tmp_path / "masters")
    models.export(tmp_path / "masters", tmp_path / "hf", "hf_2bit", embed="f32")
    config = json.loads((tmp_path / "hf" / "config.json").read_text())
    del config["onebit_scheme"]
    config["quantization_config"]["linear_class"] = linear_class
    (tmp_path / "hf" / "config.json").write_text(json.dumps(config))
    tensors = load_file(tmp_path / "hf" / "model.safetensors")
    if linear_class == "bitlinear":
        for scale in (name for name in tensors if name.endswith("weight_scale")):
            tensors[scale] = 1 / tensors[scale]
        save_file(tensors, tmp_path / "hf" / "model.safetensors")
    model = models.load(tmp_path / "hf").eval()
    torch.testing.assert_close(  # the scale is turned, and not only by both sides alike
        model(torch.tensor([TOKENS])), masters(torch.tensor([TOKENS])), rtol=0, atol=1e-3
    )
    assert_writes_as(tmp_path / "hf", model)


def test_tokens_are_the_same_under_every_instruction_set(isa, tmp_path, architecture, tokenizer):
    model = build(architecture, "llama", "bitnet-b1.58")
    models.save(model, tmp_path / "masters", tokenizer)
    models.export(tmp_path / "masters", tmp_path / "out.gguf", "t1_6", embed="f32")
    with LLM(tmp_path / "out.gguf", kv_bits=32) as llm:
        tokens = list(llm.generate(TOKENS[:6], max_tokens=24).token_ids)
    assert tokens == models.generate(model, TOKENS[:6], 24)


def test_a_half_precision_cache_is_close(tmp_path, architecture):
    model = build(architecture, "llama", "fp")
    models.save(model, tmp_path)
    with LLM(tmp_path, kv_bits=16) as llm:
        np.testing.assert_allclose(llm.logits(TOKENS), torch_logits(model, TOKENS), atol=2e-2)
