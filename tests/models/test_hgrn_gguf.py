"""MatMul-free models as GGUF: read by the `gguf` package and NumPy alone, as the page says; from
torch to the engine and back with equal tokens; and every way to be broken is one line."""

import json
import shutil

import gguf as reference
import numpy as np
import pytest
import safetensors.numpy as safetensors_numpy
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from onebit import LLM, SCHEMES, Architecture, models, tensors
from onebit.analyze.verify import verify
from onebit.data import Tokenizer
from onebit.errors import (
    FormatError,
    InputError,
    MissingError,
    OnebitError,
    OptionError,
    ShapeError,
    UnsupportedError,
)
from onebit.eval import shapes
from onebit.io import gguf, open_checkpoint
from onebit.models import stored_weight
from onebit.models.packed_size import packed_size

TOKENS = [5, 17, 99, 250, 4, 4, 31]
CONFIG = {
    "model_type": "hgrn_bit",
    "vocab_size": 300,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "bos_token_id": 0,  # as its tokenizer has them
    "eos_token_id": 0,
}
FORMS = {"code": {}, "paper": {"mlgru": "paper"}, "unbounded": {"use_lower_bound": False}}


def masters(folder, seed=3, **changes):
    """Save float masters whose every parameter matters; return the model."""
    model = models.build(Architecture.from_config(CONFIG | changes), SCHEMES["matmulfree"], seed)
    random = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name == tensors.LOWER_BOUNDS:
                parameter.normal_(generator=random)
            elif parameter.ndim == 1:
                parameter.uniform_(0.5, 1.5, generator=random)
            else:
                parameter *= 6
    tokenizer = Tokenizer.train(["It was the best of times, it was the worst of times. "], 300)
    models.save(model, folder, tokenizer)
    return model.eval()


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("masters")
    return masters(folder / "m"), folder / "m"


@pytest.fixture(scope="module")
def packed(model, tmp_path_factory):
    path = tmp_path_factory.mktemp("packed") / "m.gguf"
    models.export(model[1], path, embed="f32")
    return path


class ByThePage:
    """docs/formats/hgrn.md and docs/formats/t1_6.md, in NumPy; nothing of onebit is used."""

    def __init__(self, path):
        file = reference.GGUFReader(path)
        self.keys = {key: field.contents() for key, field in file.fields.items()}
        assert self.keys["general.architecture"] == "onebit"
        assert self.keys["onebit.model_type"] == "hgrn_bit"
        stored = {t.name: t for t in file.tensors}
        listed = json.loads(self.keys["onebit.tensors"])
        self.w, self.scale = {}, {}
        for name, t in stored.items():
            shape = tuple(int(n) for n in reversed(t.shape))
            if name not in listed:
                assert t.tensor_type.name == "F32"
                self.w[name] = np.asarray(t.data).reshape(shape)
                continue
            assert listed[name]["format"] == "t1_6"
            (N, K), byte = listed[name]["shape"], np.asarray(t.data).view(np.uint8).astype(int)
            assert (t.tensor_type.name, shape) == ("I8", (N, -(-K // 5)))
            trits = [(byte * 3**n % 256 * 3 >> 8) - 1 for n in range(5)]
            self.w[name] = np.stack(trits, -1).reshape(N, -1)[:, :K]
            self.scale[name] = float(stored[f"{name}_scale"].data[0])

    def rms(self, x, norm):
        mean = np.square(x.astype(np.float64)).mean(-1, keepdims=True)
        eps = self.keys["onebit.attention.layer_norm_rms_epsilon"]
        return (x / np.sqrt(mean + eps) * self.w[f"{norm}.weight"]).astype(np.float32)

    def linear(self, name, x):
        x = self.rms(x, f"{name}_norm_in")
        largest = np.maximum(np.abs(x).max(-1, keepdims=True), np.float32(1e-5))
        codes = np.clip(np.rint(x * (np.float32(127) / largest)), -128, 127)
        sums = codes @ self.w[f"{name}.weight"].T
        return sums * self.scale[f"{name}.weight"] * largest / 127

    def logits(self, tokens):
        keys, sigmoid = self.keys, lambda v: 1 / (1 + np.exp(-v))
        x = self.w["token_embd.weight"][tokens].astype(np.float64)
        learned = self.w["hgrn.lower_bounds"].astype(np.float64)
        share = np.exp(learned) / np.exp(learned).sum(0)
        for layer in range(keys["onebit.block_count"]):
            n = f"blk.{layer}"
            y = self.rms(x, f"{n}.attn_norm")
            f = sigmoid(self.linear(f"{n}.attn_f", y))
            bound = share[1 : layer + 1].sum(0)
            f = bound + (1 - bound) * f
            i = self.linear(f"{n}.attn_i", y)
            i = i * sigmoid(i) * (1 - f)
            h, state = np.zeros(x.shape[1]), []
            for t in range(len(tokens)):
                h = f[t] * h + i[t]
                state.append(h)
            h = np.stack(state)
            gate = self.rms(self.linear(f"{n}.attn_g", y), f"{n}.attn_gate_norm")
            x = x + self.linear(f"{n}.attn_output", gate * h * sigmoid(h))
            both = self.linear(f"{n}.ffn_gate_up", self.rms(x, f"{n}.ffn_norm"))
            width = keys["onebit.feed_forward_length"]
            gate, up = both[:, :width], both[:, width:]
            x = x + self.linear(f"{n}.ffn_down", gate * sigmoid(gate) * up)
        return self.linear("output", self.rms(x, "output_norm"))


def test_a_reader_written_from_the_page_gets_the_engines_logits(packed):
    """Within what one code of an input that falls to the other side of a half moves."""
    wanted_TV = ByThePage(packed).logits(TOKENS)
    with LLM(packed, threads=1) as llm:
        logits_TV = llm.logits(TOKENS)
    assert np.linalg.norm(logits_TV - wanted_TV) < 2e-3 * np.linalg.norm(wanted_TV)
    assert np.array_equal(logits_TV.argmax(1), wanted_TV.argmax(1))


@pytest.mark.parametrize("form", FORMS)
def test_from_torch_to_a_folder_to_gguf_to_the_engine(tmp_path, form):
    model = masters(tmp_path / "masters", **FORMS[form])
    models.export(tmp_path / "masters", tmp_path / "packed", embed="f32")
    models.export(tmp_path / "packed", tmp_path / "m.gguf", embed="f32")
    assert verify(tmp_path / "m.gguf", against=tmp_path / "masters").ok
    text = models.generate(model, TOKENS, 16)
    assert models.generate(models.load(tmp_path / "m.gguf"), TOKENS, 16) == text
    for path in ("m.gguf", "packed"):
        with LLM(tmp_path / path, threads=1) as llm:
            found = list(llm.generate(TOKENS, max_tokens=16).token_ids)
            assert found == [token for token in text if token != 0]  # the end is not given out
    models.export(tmp_path / "m.gguf", tmp_path / "back", embed="f32")
    old, new = open_checkpoint(tmp_path / "packed"), open_checkpoint(tmp_path / "back")
    assert sorted(old.names()) == sorted(new.names())
    for name in old.names():
        assert np.array_equal(old.tensor(name).data, new.tensor(name).data), name
    same = {"architecture", "model_type", "mlgru", "use_lower_bound", "onebit_scheme"}
    assert {k: old.config.get(k) for k in same} == {k: new.config.get(k) for k in same}


@pytest.mark.parametrize("format", ["t2", "tq1_0", "tq2_0", "q8_0", "f16"])
def test_other_formats_hold_the_same_codes(tmp_path, format):
    """Their scales are rounded to float16, but t2's."""
    masters(tmp_path / "m", hidden_size=256, intermediate_size=256, num_hidden_layers=1)
    models.export(tmp_path / "m", tmp_path / "one.gguf", embed="f32")
    models.export(tmp_path / "m", tmp_path / "two.gguf", format, embed="f32")
    assert verify(tmp_path / "two.gguf").ok
    one, two = open_checkpoint(tmp_path / "one.gguf"), open_checkpoint(tmp_path / "two.gguf")
    how = SCHEMES["matmulfree"].linear("lm_head")
    for name in one.names():
        if name.endswith(("_proj.weight", "lm_head.weight")):
            wanted = stored_weight.codes(one.tensor(name), how)
            found = stored_weight.codes(two.tensor(name), how)
            assert torch.equal(found.codes_NK, wanted.codes_NK)
            off = 0 if format == "t2" else 2**-11
            torch.testing.assert_close(found.scale_NG, wanted.scale_NG, rtol=off, atol=0)
    with LLM(tmp_path / "two.gguf", threads=1) as llm:
        assert np.isfinite(llm.logits(TOKENS)).all()


def test_rows_of_the_gate_stand_before_those_of_up(model, packed):
    """One matrix and one scale: the mean magnitude over both."""
    w_NK = model[0].state_dict()["model.layers.1.mlp.gate_proj.weight"]
    page = ByThePage(packed)
    codes_NK = page.w["blk.1.ffn_gate_up.weight"]
    assert page.scale["blk.1.ffn_gate_up.weight"] == float(w_NK.abs().mean())
    wanted = (w_NK / w_NK.abs().mean()).round().clamp(-1, 1).numpy()
    assert np.array_equal(codes_NK[:96], wanted[:96])  # silu goes over these
    assert np.array_equal(codes_NK[96:], wanted[96:])
    assert np.array_equal(page.w["hgrn.lower_bounds"], model[0].model.lower_bounds.detach())


def test_the_gguf_package_lists_what_is_there(packed):
    theirs = {t.name: t for t in reference.GGUFReader(packed).tensors}
    ours = gguf.Reader(packed)
    assert list(theirs) == list(ours.tensors)
    for name, t in theirs.items():
        assert np.asarray(t.data).tobytes() == bytes(ours.data(name))


@pytest.mark.parametrize("embed", ["q8_0", "f16", "f32"])
def test_sizes_are_known_from_the_shape(model, tmp_path, embed):
    report = models.export(model[1], tmp_path / "m.gguf", embed=embed)
    keys = gguf.Reader(tmp_path / "m.gguf").metadata
    tokenizer = {key: value for key, value in keys.items() if key.startswith("tokenizer.")}
    size = packed_size(model[0].architecture, SCHEMES["matmulfree"], embed=embed)
    parts = report.part_bytes
    assert size[:-1] == (
        report.parameters,
        *(parts[part] for part in ("body", "head", "embed", "other")),
    )
    whole = packed_size(model[0].architecture, SCHEMES["matmulfree"], None, embed, tokenizer)
    assert whole.file_bytes == (tmp_path / "m.gguf").stat().st_size == report.size_bytes
    assert size.file_bytes < whole.file_bytes


@pytest.mark.parametrize(
    ("name", "parameters", "body"),
    [
        ("matmulfree-370m", 374_108_160, 61_723_200),
        ("matmulfree-1.3b", 1_364_779_008, 246_841_920),
        ("matmulfree-2.7b", 2_702_357_504, 507_560_704),
    ],
)
def test_sizes_of_the_published_shapes(name, parameters, body):
    size = packed_size(shapes.find(name), SCHEMES["matmulfree"], embed="q6_k")
    assert (size.parameters, size.body_bytes) == (parameters, body)
    assert body < 600_000_000
    of_tensors = sum(size[1:5])
    assert of_tensors == shapes.tensor_bytes(
        shapes.find(name), "t1_6", "q6_k", SCHEMES["matmulfree"]
    )
    names = sum(map(len, tensors.shapes(shapes.find(name), SCHEMES["matmulfree"])))
    assert of_tensors < size.file_bytes < of_tensors + 20 * names


def rewritten(path, out, change):
    """Write the file anew, as `change` makes it of name -> [type, shape, bytes] and the keys."""
    reader = gguf.Reader(path)
    metadata = dict(reader.metadata)
    found = {
        name: [info.type.name, list(info.shape), bytes(reader.data(name))]
        for name, info in reader.tensors.items()
    }
    change(found, metadata)
    declared = [gguf.Declared(name, kind, tuple(shape)) for name, (kind, shape, _) in found.items()]
    with gguf.Writer(out, metadata, declared) as file:
        for name, (_, _, data) in found.items():
            file.write(name, data)
    return out


def f32(*shape, value=0.5):
    return ["f32", list(shape), np.full(shape, value, "<f4").tobytes()]


def without(*names):
    def change(t, keys):
        listed = json.loads(keys["onebit.tensors"])
        for name in names:
            del t[name]
            listed.pop(name, None)
        keys["onebit.tensors"] = json.dumps(listed)

    return change


def put(name, tensor):
    return lambda t, keys: t.update({name: tensor})


def key(name, value):
    return lambda t, keys: keys.update({name: value})


GATE = "blk.1.ffn_gate_up.weight"


def gate_without_up(t, keys):
    t[GATE] = ["i8", [96, 13], t[GATE][2][: 96 * 13]]
    listed = json.loads(keys["onebit.tensors"])
    listed[GATE]["shape"] = [96, 64]
    keys["onebit.tensors"] = json.dumps(listed)


BROKEN = {
    "no bounds": (without("hgrn.lower_bounds"), MissingError, "no tensor model.lower_bounds"),
    "no norm inside": (without("blk.0.attn_f_norm_in.weight"), MissingError, "f_proj.rms_norm"),
    "no gate norm": (without("blk.1.attn_gate_norm.weight"), MissingError, "attn.g_norm.weight"),
    "no matrix": (without(GATE, f"{GATE}_scale"), MissingError, "mlp.gate_proj.weight"),
    "no head": (
        without("output.weight", "output.weight_scale", "output_norm_in.weight"),
        OptionError,
        "the head shares the embedding's weights",
    ),
    "no scale": (without(f"{GATE}_scale"), MissingError, "ffn_gate_up.weight has no scale"),
    "another's name": (
        put("blk.0.attn_q.weight", f32(64, 64)),
        UnsupportedError,
        "'blk.0.attn_q.weight': no model that onebit builds",
    ),
    "a layer more": (
        put("blk.2.attn_norm.weight", f32(64)),
        UnsupportedError,
        "'model.layers.2.attn_norm.weight' has no place in a hgrn_bit model",
    ),
    "bounds of three layers": (
        put("hgrn.lower_bounds", f32(3, 64)),
        ShapeError,
        r"lower_bounds has shape \(3, 64\); its config asks for \(2, 64\)",
    ),
    "bounds of another width": (put("hgrn.lower_bounds", f32(2, 32)), ShapeError, r"\(2, 32\)"),
    "bounds that are not finite": (
        put("hgrn.lower_bounds", f32(2, 64, value=np.nan)),
        FormatError,
        "lower_bounds holds a value that nothing can be computed with",
    ),
    "bounds that are said not to be": (
        key("onebit.lower_bounds", False),
        UnsupportedError,
        "'model.lower_bounds' has no place",
    ),
    "a norm of another width": (put("blk.0.ffn_norm.weight", f32(96)), ShapeError, r"\(96,\)"),
    "gate without up": (
        gate_without_up,
        ShapeError,
        r"gate_proj.weight has shape \(96, 64\); its config asks for \(192, 64\)",
    ),
    "a layer that is said not to be": (
        key("onebit.block_count", 1),
        UnsupportedError,
        "'model.layers.1",
    ),
    "a layer that is said to be": (key("onebit.block_count", 3), MissingError, "model.layers.2"),
    "another width": (key("onebit.embedding_length", 80), ShapeError, "its config asks for"),
    "another inner width": (key("onebit.feed_forward_length", 48), ShapeError, r"\(96, 64\)"),
    "the paper's form": (key("onebit.mlgru", "paper"), UnsupportedError, "g_norm.weight' has no"),
    "heads": (key("onebit.attention.head_count", 4), OnebitError, "has no attention"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_file_is_one_line(packed, tmp_path, case):
    change, kind, says = BROKEN[case]
    path = rewritten(packed, tmp_path / "m.gguf", change)
    with pytest.raises(kind, match=says) as caught:
        LLM(path)
    assert "\n" not in str(caught.value)
    assert one_line(lambda: verify(path)) or not verify(path).ok
    assert one_line(lambda: models.load(path))


def edited(model, folder, name=None, change=None, **config):
    """Copy the masters with a tensor changed or with other words in their config."""
    shutil.copytree(model[1], folder)
    if name is not None:
        stored = safetensors_numpy.load_file(folder / "model.safetensors")
        stored[name] = change(stored[name])
        safetensors_numpy.save_file(stored, folder / "model.safetensors", {"format": "pt"})
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | config))
    return folder


FEW = SCHEMES["matmulfree"].to_dict() | {"kv_bits": 4}
UNLOADABLE = {
    "bounds in bytes": ("model.lower_bounds", lambda w: w.astype(np.uint8), {}, "stored as u8"),
    "a norm in bytes": ("model.norm.weight", lambda w: w.astype(np.int8), {}, "stored as int8"),
    "keys of few bits": (None, None, {"onebit_scheme": FEW}, "has no keys, values or queries"),
    "RoPE": (None, None, {"rope_scaling": {"rope_type": "linear"}}, "rope_scaling is"),
    "a window": (None, None, {"sliding_window": 64}, "sliding_window is 64"),
    "no such form": (None, None, {"mlgru": "x"}, "mlgru is 'x'"),
    "no such activation": (None, None, {"hidden_act": "gelu"}, "hidden_act is 'gelu'"),
}


@pytest.mark.parametrize("case", UNLOADABLE)
def test_what_no_loader_takes_is_not_sound(model, tmp_path, case):
    name, change, config, says = UNLOADABLE[case]
    folder = edited(model, tmp_path / "m", name, change, **config)
    assert one_line(lambda: models.load(folder))
    assert one_line(lambda: LLM(folder))
    report = verify(folder)
    assert [f.level for f in report.findings if says in f.text] == ["error"]
    assert not report.ok


@pytest.mark.parametrize(
    "name", ["model.lower_bounds", "model.norm.weight", "model.embeddings.weight"]
)
def test_what_is_not_finite_is_not_exported(model, tmp_path, name):
    def spoil(w):
        w = w.copy()
        w.flat[3] = np.nan
        return w

    folder = edited(model, tmp_path / "m", name, spoil)
    name = name.replace("embeddings", "embed_tokens")  # as inside onebit
    for out in ("m.gguf", "folder"):
        with pytest.raises(InputError, match=f"^{name}: holds a number that is not fin") as caught:
            models.export(folder, tmp_path / out)
        assert "\n" not in str(caught.value)
        assert not (tmp_path / out).exists()
    with pytest.raises(FormatError, match=f"{name} holds a value that nothing can be computed"):
        models.load(folder)


def one_line(step):
    """Return the line that refuses a step, or "" where nothing does."""
    said = ""
    try:
        step()
    except OnebitError as error:
        said = str(error)
    assert "\n" not in said
    return said


FUZZ = settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def run(path):
    with LLM(path, threads=1) as llm:
        llm.generate(TOKENS, max_tokens=2)


@FUZZ
@given(share=st.floats(0, 1, exclude_max=True))
def test_a_file_that_ends_early_is_one_line(packed, tmp_path, share):
    raw = packed.read_bytes()
    path = tmp_path / "m.gguf"
    path.write_bytes(raw[: int(share * len(raw))])
    assert one_line(lambda: run(path))


@FUZZ
@given(data=st.data())
def test_a_tensor_that_is_not_as_it_was_runs_or_is_one_line(packed, tmp_path, data):
    names = sorted(gguf.Reader(packed).tensors)
    name, other = data.draw(st.sampled_from(names)), data.draw(st.sampled_from(names))
    ways = {
        "drop": lambda t, keys: t.pop(name),
        "rename": lambda t, keys: t.update({f"{name}x": t.pop(name)}),
        "turn": lambda t, keys: t[name][1].reverse(),
        "flatten": lambda t, keys: t[name].__setitem__(1, [int(np.prod(t[name][1]))]),
        "swap": lambda t, keys: t.update({name: t[other], other: t[name]}),
        "noise": lambda t, keys: t[name].__setitem__(2, bytes(reversed(t[name][2]))),
    }
    way = data.draw(st.sampled_from(sorted(ways)))
    path = rewritten(packed, tmp_path / "m.gguf", ways[way])
    said = one_line(lambda: run(path))
    if way in ("drop", "rename"):
        assert said


def test_a_state_is_of_one_model(packed, tmp_path):
    masters(tmp_path / "m", seed=5)
    models.export(tmp_path / "m", tmp_path / "other.gguf", embed="f32")
    with LLM(packed, threads=1) as one, LLM(tmp_path / "other.gguf", threads=1) as two:
        states = [llm._decoder.new_cache(1, 16) for llm in (one, two)]
        one._decoder.forward(np.array(TOKENS, np.int32), states[0], "none")
        with pytest.raises(ValueError, match="the state belongs to another decoder") as caught:
            two._decoder.forward(np.array(TOKENS, np.int32), states[0], "last")
        with pytest.raises(ValueError, match="the prefix belongs to another decoder"):
            states[1].copy_prefix(states[0], len(TOKENS))
    assert "\n" not in str(caught.value)
    assert states[1].length == 0
