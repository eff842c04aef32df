"""MatMul-free models: against a plain re-derivation, first weights, files, a few steps of training.

Shape letters: B sequences, T tokens, C model width, L layers.
"""

import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from onebit import Architecture, models, tensors
from onebit.analyze.verify import verify
from onebit.errors import FormatError, MissingError, OptionError, UnsupportedError
from onebit.io import open_checkpoint, safetensors
from onebit.models.hgrn_bit import bounds
from onebit.scheme import SCHEMES, Scheme

MATMULFREE = SCHEMES["matmulfree"]
CONFIG = {
    "model_type": "hgrn_bit",
    "vocab_size": 61,
    "hidden_size": 32,
    "intermediate_size": 40,
    "num_hidden_layers": 3,
    "eos_token_id": 2,
}
TOKENS = torch.randint(0, 61, (2, 11), generator=torch.Generator().manual_seed(0))


def built(scheme=MATMULFREE, seed=1, **changes):
    """A model whose bounds and norms are not those it begins with."""
    model = models.build(Architecture.from_config(CONFIG | changes), scheme, seed)
    random = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name == tensors.LOWER_BOUNDS:
                parameter.normal_(generator=random)
            elif parameter.ndim == 1:
                parameter.uniform_(0.5, 1.5, generator=random)
    return model


def rms(x, w, eps=1e-6):
    return x / (x.square().mean(-1, keepdim=True) + eps).sqrt() * w


class Plain:
    """The published code's arithmetic by the state dict alone, with straight-through rounding."""

    def __init__(self, model):
        a = model.architecture
        self.layers, self.form, self.ternary = a.num_hidden_layers, a.mlgru, model.scheme.quantized
        self.w = {name: p.detach().clone() for name, p in model.state_dict().items()}
        for values in self.w.values():
            values.requires_grad_()

    def linear(self, name, x):
        w = self.w[f"{name}.weight"]
        if not self.ternary:
            return x @ w.T
        x = rms(x, self.w[f"{name}.rms_norm.weight"])
        scale = 127 / x.abs().amax(-1, keepdim=True).clamp(min=1e-5)
        x_hat = (x * scale).round().clamp(-128, 127) / scale
        mean = w.abs().mean().clamp(min=1e-5)
        w_hat = (w / mean).round().clamp(-1, 1) * mean
        return (x + (x_hat - x).detach()) @ (w + (w_hat - w).detach()).T

    def mixer(self, n, x, bound):
        f = torch.sigmoid(self.linear(f"{n}.f_proj", x))
        f = f if bound is None else bound + (1 - bound) * f
        i = F.silu(self.linear(f"{n}.i_proj", x)) * (1 - f)
        g, h, states = self.linear(f"{n}.g_proj", x), torch.zeros(x.shape[0], x.shape[2]), []
        for t in range(x.shape[1]):
            h = f[:, t] * h + i[:, t]
            states.append(h)
        h = torch.stack(states, 1)
        if self.form == "paper":
            return self.linear(f"{n}.o_proj", g * torch.sigmoid(h))
        g = rms(g, self.w[f"{n}.g_norm.weight"])
        return self.linear(f"{n}.o_proj", g * h * torch.sigmoid(h))

    def __call__(self, tokens):
        lower = self.w.get("model.lower_bounds")
        share = None if lower is None else torch.softmax(lower, 0)
        x = self.w["model.embed_tokens.weight"][tokens]
        for layer in range(self.layers):
            n, bound = f"model.layers.{layer}", None
            if share is not None and layer:
                bound = share[1 : layer + 1].sum(0)
            x = x + self.mixer(f"{n}.attn", rms(x, self.w[f"{n}.attn_norm.weight"]), bound)
            y = self.linear(f"{n}.mlp.gate_proj", rms(x, self.w[f"{n}.mlp_norm.weight"]))
            gate, up = y[..., :40], y[..., 40:]
            x = x + self.linear(f"{n}.mlp.down_proj", F.silu(gate) * up)
        return self.linear("lm_head", rms(x, self.w["model.norm.weight"]))


CASES = [{}, {"mlgru": "paper"}, {"use_lower_bound": False}]


@pytest.mark.parametrize("changes", CASES, ids=str)
@pytest.mark.parametrize("scheme", ["fp", "matmulfree"])
def test_logits_and_gradients_are_those_of_the_plain_form(scheme, changes):
    """One code of an input that falls to the other side of a half moves a logit by about 1e-4 and
    gradients more; float sums in another order leave the float model within 1e-5."""
    model = built(SCHEMES[scheme], **changes)
    plain = Plain(model)
    logits, wanted = model(TOKENS), plain(TOKENS)
    near = 1e-5 if scheme == "fp" else 2e-3
    assert float((logits - wanted).detach().norm() / wanted.detach().norm()) < near
    for value in (logits, wanted):
        F.cross_entropy(value.flatten(0, 1), TOKENS.flatten()).backward()
    for name, parameter in model.named_parameters():
        right = plain.w[name].grad
        assert float(right.norm()) > 0, name
        off = float((parameter.grad - right).norm() / right.norm())
        assert off < (1e-4 if scheme == "fp" else 5e-2), name


def test_a_token_sees_those_before_it_and_none_after():
    model = built().eval()
    changed = TOKENS.clone()
    changed[:, 6] = (changed[:, 6] + 1) % 61
    with torch.no_grad():
        one, other = model(TOKENS), model(changed)
    assert torch.equal(one[:, :6], other[:, :6])
    assert ((one != other).any(-1)[:, 6:]).all()


def test_bounds_rise_from_nothing_and_stay_below_one():
    learned_LC = torch.randn(5, 7, generator=torch.Generator().manual_seed(3))
    first, *others = bounds(learned_LC, 5)
    assert first is None
    stacked_LC = torch.stack([torch.zeros(7), *others, torch.ones(7)])
    assert (stacked_LC.diff(dim=0) > 0).all()
    assert bounds(None, 2) == [None, None]
    evenly = bounds(torch.zeros(4, 1), 4)
    torch.testing.assert_close(torch.cat(evenly[1:]), torch.tensor([0.25, 0.5, 0.75]))


def test_first_weights_are_the_published_ones():
    a = Architecture.from_config(CONFIG | {"hidden_size": 96, "num_hidden_layers": 2})
    weights = models.build(a, MATMULFREE, seed=3).state_dict()
    span = 2**-2.5 * (6 / (96 + 96)) ** 0.5
    for name in ("i", "f", "g", "o"):
        w = weights[f"model.layers.1.attn.{name}_proj.weight"]
        assert 0.98 * span < float(w.abs().max()) <= span
        assert abs(float(w.std()) / (span / 3**0.5) - 1) < 0.03
    for name, std in (
        ("model.embed_tokens", 0.02),
        ("lm_head", 0.02),
        ("model.layers.0.mlp.gate_proj", 0.02),
        ("model.layers.0.mlp.down_proj", 0.02 / 2),
    ):
        assert abs(float(weights[f"{name}.weight"].std()) / std - 1) < 0.05
    assert not weights["model.lower_bounds"].any()
    assert (weights["lm_head.rms_norm.weight"] == 1).all()
    assert torch.equal(
        weights["lm_head.weight"],
        models.build(a, SCHEMES["fp"], seed=3).state_dict()["lm_head.weight"],
    )


def test_the_names_are_those_of_the_list():
    for changes in CASES:
        model = built(**changes)
        found = {name: tuple(p.shape) for name, p in model.named_parameters()}
        assert found == tensors.shapes(model.architecture, MATMULFREE)


PUBLISHED_OF_A_LAYER = {
    "attn_norm.weight",
    "attn.g_norm.weight",
    "mlp_norm.weight",
    *(f"attn.{x}_proj.{leaf}" for x in "ifgo" for leaf in ("weight", "norm.weight")),
    *(f"mlp.{x}_proj.{leaf}" for x in ("gate", "down") for leaf in ("weight", "norm.weight")),
}


def test_a_folder_has_the_published_names_and_comes_back(tmp_path):
    model = built().eval()
    models.save(model, tmp_path)
    stored = set(safetensors.Reader(tmp_path / "model.safetensors").tensors)
    assert stored == {
        "model.embeddings.weight",
        "model.lower_bounds",
        "model.norm.weight",
        "lm_head.weight",
        "lm_head.norm.weight",
        *(f"model.layers.{layer}.{name}" for layer in range(3) for name in PUBLISHED_OF_A_LAYER),
    }
    again = models.load(tmp_path)
    assert again.architecture == model.architecture
    assert again.scheme == MATMULFREE
    assert all(torch.equal(again.state_dict()[n], w) for n, w in model.state_dict().items())
    with torch.no_grad():
        assert torch.equal(again(TOKENS), model(TOKENS))


def test_a_published_config_needs_no_word_of_ours(tmp_path):
    model = built().eval()
    models.save(model, tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    del config["onebit_scheme"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    again = models.load(tmp_path)
    assert again.scheme == MATMULFREE
    with torch.no_grad():
        assert torch.equal(again(TOKENS), model(TOKENS))


def test_a_packed_folder_has_them_too(tmp_path):
    model = built(hidden_size=64, intermediate_size=64).eval()
    models.save(model, tmp_path / "masters")
    report = models.export(tmp_path / "masters", tmp_path / "packed", "t1_6")
    assert report
    stored = set(safetensors.Reader(tmp_path / "packed" / "model.safetensors").tensors)
    assert {"model.embeddings.weight", "lm_head.norm.weight", "model.lower_bounds"} <= stored
    assert not any("embed_tokens" in name or "rms_norm" in name for name in stored)
    again = models.load(tmp_path / "packed")
    for name, linear in again.named_modules():
        if hasattr(linear, "frozen") and linear.frozen:
            mine, theirs = linear.codes(), model.get_submodule(name).codes()
            assert torch.equal(mine.codes_NK, theirs.codes_NK)
    with torch.no_grad():
        wanted = model(TOKENS)
        off = again(TOKENS) - wanted
    assert float(off.norm() / wanted.norm()) < 5e-2  # the embedding is bfloat16 there
    assert verify(tmp_path / "packed").ok


def _rewrite(folder, change):
    """Save the folder's tensors again, as `change` makes them of name -> array."""
    path = folder / "model.safetensors"
    reader = safetensors.Reader(path)
    found = {
        name: np.array(reader.data(name)).view(np.float32).reshape(info.shape)
        for name, info in reader.tensors.items()
    }
    change(found)
    declared = [safetensors.Declared(n, "F32", tuple(v.shape)) for n, v in found.items()]
    with safetensors.Writer(path, declared, {"format": "pt"}) as writer:
        for name, values in found.items():
            writer.write(name, np.ascontiguousarray(values).reshape(-1).view(np.uint8))


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        (lambda t: t.pop("model.lower_bounds"), MissingError, "model.lower_bounds is not there"),
        (lambda t: t.pop("lm_head.norm.weight"), MissingError, "lm_head.rms_norm.weight is not"),
        (
            lambda t: t.update({"model.layers.0.attn.h_conv1d.weight": np.ones((4, 1), "f4")}),
            UnsupportedError,
            "h_conv1d.weight' has no place in a hgrn_bit model",
        ),
        (
            lambda t: t.update({"model.lower_bounds": np.zeros((2, 32), "f4")}),
            FormatError,
            r"model.lower_bounds has shape \[2, 32\], and the config asks for \[3, 32\]",
        ),
        (
            lambda t: t.update({"model.embed_tokens.weight": t["model.embeddings.weight"]}),
            FormatError,
            "is there under two names",
        ),
    ],
    ids=["missing", "no norm", "extra", "shape", "twice"],
)
def test_a_damaged_folder_is_one_line(tmp_path, change, error, says):
    models.save(built(), tmp_path)
    _rewrite(tmp_path, change)
    with pytest.raises(error, match=says) as caught:
        models.load(tmp_path)
    assert "\n" not in str(caught.value)


def test_old_names_of_ours_are_read():
    from onebit.io import hgrn_names

    config = {"model_type": "hgrn_bit"}
    for name in tensors.shapes(Architecture.from_config(CONFIG), MATMULFREE):
        assert hgrn_names.ours(config, name) == name
        assert hgrn_names.ours(config, hgrn_names.published(config, name)) == name
        assert hgrn_names.published({"model_type": "llama"}, name) == name


def test_verify_looks_at_what_is_ternary(tmp_path):
    model = built().eval()
    models.save(model, tmp_path)
    report = verify(tmp_path)
    assert report.ok
    roles = [t.role for t in report.tensors]
    assert sorted(set(roles)) == ["down", "embed", "f", "g", "gate", "head", "i", "o"]
    assert "model.lower_bounds" not in [t.name for t in report.tensors]
    for module in model.modules():
        if hasattr(module, "freeze"):
            module.freeze()
    models.save(model, tmp_path / "rounded")
    report = verify(tmp_path / "rounded")
    assert report.ok
    kinds = {t.name: (t.kind, t.levels) for t in report.tensors}
    assert kinds.pop("model.embed_tokens.weight")[0] == "float"
    assert set(kinds.values()) == {("ternary", 3)}
    assert len(kinds) == 3 * 6 + 1


def test_what_a_recurrent_model_cannot_have_is_one_line():
    a = Architecture.from_config(CONFIG)
    with pytest.raises(OptionError, match="kv_bits is 4 and q_bits 16; a hgrn_bit model has no"):
        models.build(a, Scheme("x", MATMULFREE.layers, kv_bits=4), 0)
    tied = Architecture.from_config(CONFIG | {"tie_word_embeddings": True})
    with pytest.raises(OptionError, match="the head shares the embedding's weights"):
        models.build(tied, MATMULFREE, 0)


def test_methods_after_training_are_refused(tmp_path):
    from onebit.ptq.source import FileSource

    models.save(built(), tmp_path)
    with pytest.raises(UnsupportedError, match="`onebit export` packs it"):
        FileSource(open_checkpoint(tmp_path))


def test_a_few_steps_learn():
    model = models.build(Architecture.from_config(CONFIG), MATMULFREE, seed=2)
    optimizer = torch.optim.AdamW(model.parameters(), lr=4e-3)
    losses = []
    for _ in range(30):
        loss = F.cross_entropy(model(TOKENS)[:, :-1].flatten(0, 1), TOKENS[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.6 * losses[0]
    assert model.model.lower_bounds.abs().max() > 0


@pytest.mark.parametrize("tokens", [1, 300])
def test_one_token_and_many(tokens):
    model = built().eval()
    with torch.no_grad():
        logits = model(torch.zeros(1, tokens, dtype=torch.long))
    assert logits.shape == (1, tokens, 61)
    assert torch.isfinite(logits).all()


def test_bfloat16_weights_compute():
    model = built().eval()
    with torch.no_grad():
        wanted = model(TOKENS)
        found = model.to(torch.bfloat16)(TOKENS)
    assert float((found - wanted).norm() / wanted.norm()) < 0.1
