"""A model that computes no numbers says so in one line, whatever its scheme; it does not answer."""

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file

from onebit import LLM, SCHEMES, Batch, models
from onebit.errors import FormatError
from onebit.eval import perplexity
from onebit.scheme import LinearScheme, Scheme

LINE = r"logits are not finite: a weight is NaN .*`onebit verify` names it.* model again\.$"
BROKEN = 7
"""The token whose embedding is not all numbers."""
PROMPT = [1, 2, BROKEN, 3, 4]
TERNARY = LinearScheme("ternary", activation="int8_absmax")
HEAD = Scheme("head", {"body": TERNARY, "head": TERNARY}, q_bits=8)
USED = {name: SCHEMES[name] for name in ("fp", "bitnet-b1", "bitnet-a4.8", "bitnet-v2-a4")}
USED["head"] = HEAD


@pytest.fixture(scope="module")
def spoilt(architecture, tokenizer, tmp_path_factory):
    """A function that returns the folder of a model with `value` in one place of one tensor."""
    made = {}

    def make(name, tensor, place, value=np.nan, **changes):
        folder = tmp_path_factory.mktemp("spoilt")
        key = (name, *changes.items())
        if key not in made:
            sizes = architecture(tie_word_embeddings=False, **changes)
            models.save(models.build(sizes, USED[name], 1), folder / "masters", tokenizer)
            made[key] = folder / ("masters" if name == "fp" else "sound")
            if name != "fp":
                models.export(folder / "masters", made[key], embed="f32")
        with safe_open(made[key] / "model.safetensors", "np") as file:
            tensors = {found: file.get_tensor(found) for found in file.keys()}  # noqa: SIM118
            metadata = file.metadata()
        tensors[tensor][place] = value
        for other in made[key].iterdir():
            if other.name != "model.safetensors":
                (folder / other.name).write_bytes(other.read_bytes())
        save_file(tensors, folder / "model.safetensors", metadata)
        return folder

    return make


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("name", USED)
def test_a_token_without_numbers_is_said_by_those_after_it(spoilt, name, value):
    folder = spoilt(name, "model.embed_tokens.weight", (BROKEN, 3), value)
    with LLM(folder, threads=1) as llm:
        assert len(llm.generate([1, 2, 3], max_tokens=3).token_ids) <= 3
        for use in (llm.generate, llm.logits, llm.logprobs):
            for prompt in (PROMPT, [BROKEN], [1, BROKEN]):
                with pytest.raises(FormatError, match=LINE):
                    use(prompt)
        with pytest.raises(FormatError, match=LINE):
            perplexity(llm, PROMPT)


@pytest.mark.parametrize("kv_bits", [32, 16, 8, 4, 3])
@pytest.mark.parametrize("prompt", [PROMPT, [BROKEN, 1, 2], [1] * 70 + PROMPT])
def test_a_cache_of_codes_does_not_hide_it(spoilt, kv_bits, prompt):
    folder = spoilt("bitnet-a4.8", "model.embed_tokens.weight", (BROKEN, 3))
    with LLM(folder, threads=1, kv_bits=kv_bits) as llm, Batch(llm) as batch:
        with pytest.raises(FormatError, match=LINE):
            llm.generate(prompt)
        sound = batch.add([1, 2, 3], max_tokens=3)
        broken = batch.add(prompt, max_tokens=3)
        "".join(sound)
        with pytest.raises(FormatError, match=LINE):
            "".join(broken)


@pytest.mark.parametrize("act", ["silu", "relu2"])
@pytest.mark.parametrize(
    "name",
    [
        *(f"model.layers.0.self_attn.{part}_proj" for part in "qkvo"),
        *(f"model.layers.0.mlp.{part}_proj" for part in ("gate", "up", "down")),
        "lm_head",
    ],
)
def test_a_float_weight_that_is_no_number_is_said(spoilt, name, act):
    folder = spoilt("fp", f"{name}.weight", (5, 3), hidden_act=act)
    with LLM(folder, threads=1) as llm, pytest.raises(FormatError, match=LINE):
        llm.generate([1, 2, 3])


@pytest.mark.parametrize("name", ["model.norm", "model.layers.1.input_layernorm"])
def test_a_norm_that_is_no_number_is_refused_at_once(spoilt, name):
    folder = spoilt("bitnet-a4.8", f"{name}.weight", 5)
    with pytest.raises(FormatError, match=f"{name}.weight holds a value that nothing can be"):
        LLM(folder)
