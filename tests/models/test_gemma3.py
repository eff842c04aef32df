"""Gemma 3 in torch against transformers: a tiny random model, then the real one of 270M."""

import json

import pytest
import torch

from onebit import Architecture, models
from onebit.errors import OnebitError

transformers = pytest.importorskip("transformers")

# what importing transformers' compiled quantizers says of torch itself
pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.script_method. is deprecated")

WINDOW = 5
SIZES = {
    "vocab_size": 61,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 7,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "sliding_window": WINDOW,
    "query_pre_attn_scalar": 16,
    "max_position_embeddings": 64,
}
CASES = {
    "as released": {},
    "scores divided by another number": {"query_pre_attn_scalar": 24},
    "positions of global layers scaled": {
        "rope_parameters": {
            "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
            "sliding_attention": {"rope_type": "default", "rope_theta": 5e3},
        }
    },
    "every third layer global, head of its own": {
        "layer_types": ["sliding_attention", "sliding_attention", "full_attention"] * 2
        + ["sliding_attention"],
        "tie_word_embeddings": False,
    },
}


def tiny(seed=0, **fields):
    """A transformers model with every weight random, norms far from 0 too."""
    config = transformers.Gemma3TextConfig(**(SIZES | fields))
    config._attn_implementation = "eager"
    model = transformers.Gemma3ForCausalLM(config).eval()
    random = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.3 if parameter.ndim == 1 else 0.2, generator=random)
    return model


@pytest.fixture
def tokens():
    return torch.randint(0, 61, (1, 4 * WINDOW), generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("case", CASES)
@torch.no_grad()
def test_logits_are_transformers(case, tmp_path, tokens):
    theirs = tiny(**CASES[case])
    theirs.save_pretrained(tmp_path)
    ours = models.load(tmp_path)
    expected = theirs(tokens).logits
    assert expected.std() > 0.5  # else 1e-4 would not be small
    torch.testing.assert_close(ours(tokens), expected, rtol=0, atol=1e-4)
    assert set(ours.state_dict()) == {name for name, _ in theirs.named_parameters()}
    a = ours.architecture
    assert Architecture.from_config(json.loads(json.dumps(a.to_config()))) == a


@torch.no_grad()
def test_the_window_and_the_global_layer_matter(tmp_path, tokens):
    """What a token sees: in local layers the window, in all seven together everything."""
    tiny().save_pretrained(tmp_path)
    ours = models.load(tmp_path)
    assert ours.model.local == [True] * 5 + [False, True]
    attention = ours.model.layers[0].self_attn
    rotation = ours.model.beside(20)[0]
    x = torch.randn(1, 20, 32, generator=torch.Generator().manual_seed(1))
    before = attention(x, rotation)
    x[0, 4] += 1
    changed = (attention(x, rotation) != before).any(dim=2)[0]
    assert changed.nonzero()[:, 0].tolist() == [4, 5, 6, 7, 8]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@torch.no_grad()
def test_what_we_save_loads_in_transformers(dtype, tmp_path, tokens):
    tiny().save_pretrained(tmp_path / "theirs")
    ours = models.load(tmp_path / "theirs")
    models.save(ours.to(dtype), tmp_path / "ours")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path / "ours", dtype=torch.float32
    )
    back = models.load(tmp_path / "ours")
    torch.testing.assert_close(back(tokens), theirs.eval()(tokens).logits, rtol=0, atol=1e-4)
    if dtype == torch.float32:
        for (name, p), q in zip(ours.named_parameters(), back.parameters(), strict=True):
            torch.testing.assert_close(p, q, rtol=0, atol=2e-7, msg=name)


@torch.no_grad()
def test_bfloat16_attention_has_the_same_window(tmp_path, tokens):
    """It goes by whole matrices of scores."""
    tiny().save_pretrained(tmp_path)
    exact, half = models.load(tmp_path)(tokens), models.load(tmp_path, torch.bfloat16)(tokens)
    assert (half - exact).square().mean() < 0.01 * exact.square().mean()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"final_logit_softcapping": 30.0}, "final_logit_softcapping is not supported"),
        ({"attn_logit_softcapping": 50.0}, "attn_logit_softcapping is not supported"),
        ({"use_bidirectional_attention": True}, "use_bidirectional_attention is not supported"),
        ({"layer_types": ["full_attention", "sliding_attention"] * 3 + ["full_attention"]}, "supp"),
        ({"layer_types": "all"}, "layer_types is 'all'"),
        ({"sliding_window": 0}, "sliding_window is 0"),
        ({"sliding_window": None}, "sliding_window is None"),
        ({"sliding_window_pattern": 0}, "sliding_window_pattern is 0"),
        ({"query_pre_attn_scalar": "256"}, "query_pre_attn_scalar is '256'"),
        ({"rope_local_base_freq": -1}, "rope_theta is -1"),
        ({"model_type": "gemma3"}, "model_type is 'gemma3'; supported: llama"),
    ],
)
def test_what_is_not_built_is_refused(fields, message):
    config = SIZES | {"model_type": "gemma3_text"}
    with pytest.raises(OnebitError, match=message) as caught:
        Architecture.from_config(config | fields)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 240


def test_the_config_that_google_wrote():
    """The fields of the 270M's config.json, before transformers had rope_parameters."""
    config = {
        **{"model_type": "gemma3_text", "head_dim": 256, "hidden_size": 640, "vocab_size": 262144},
        **{"intermediate_size": 2048, "num_attention_heads": 4, "num_hidden_layers": 18},
        **{"num_key_value_heads": 1, "query_pre_attn_scalar": 256, "rms_norm_eps": 1e-06},
        **{"rope_local_base_freq": 10000.0, "rope_scaling": None, "rope_theta": 1000000.0},
        **{"hidden_activation": "gelu_pytorch_tanh", "max_position_embeddings": 32768},
        **{"attention_bias": False, "attn_logit_softcapping": None, "sliding_window": 512},
        **{"_sliding_window_pattern": 6, "final_logit_softcapping": None, "bos_token_id": 2},
        "layer_types": (["sliding_attention"] * 5 + ["full_attention"]) * 3,
    }
    a = Architecture.from_config(config)
    assert (a.sliding_window, a.global_every, a.softmax_temperature) == (512, 6, 1.0)
    assert (a.rope_theta, a.local_rope_theta, a.tie_word_embeddings) == (1e6, 1e4, True)
    assert [i for i in range(18) if not a.is_local(i)] == [5, 11, 17]
    assert a.embedding_scale == pytest.approx(640**0.5)


@pytest.fixture(scope="module")
def real():
    """Gemma-3-270M by transformers' own reading of its GGUF file."""
    from onebit.io import catalog

    try:
        path = catalog.find("gemma3-270m")
    except OnebitError as error:
        pytest.skip(str(error))
    with pytest.MonkeyPatch.context() as patch:
        # asked for before a GGUF is read, though one CPU has no use for it
        patch.setattr(transformers.modeling_utils, "is_accelerate_available", lambda: True)
        model = transformers.AutoModelForCausalLM.from_pretrained(
            path.parent, gguf_file=path.name, dtype=torch.float32
        )
    return model.eval()


@pytest.mark.slow
@torch.no_grad()
def test_the_real_model_from_its_gguf(real):
    """More tokens than a window holds; and what it writes."""
    ours = models.load("gemma3-270m")
    tokens = torch.randint(0, 262144, (1, 560), generator=torch.Generator().manual_seed(5))
    tokens[0, 0] = 2
    expected = real(tokens, logits_to_keep=32).logits[0]
    assert expected.std() > 1
    torch.testing.assert_close(ours(tokens)[0, -32:], expected, rtol=0, atol=1e-3)
    prompt = [2, 818, 5279, 529, 7001, 563]  # "The capital of France is"
    written = real.generate(torch.tensor([prompt]), max_new_tokens=12, do_sample=False)[0].tolist()
    assert models.generate(ours, prompt, 12)[-12:] == written[6:]
