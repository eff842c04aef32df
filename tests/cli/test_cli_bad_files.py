"""Bad input from the outside in: whatever command meets it, one clear line and exit code 1."""

import json
import re
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from onebit import models
from onebit.cli import main
from onebit.io import gguf

TEXT = "It was the age of wisdom, it was the age of foolishness. "
RUN = Path(sys.executable).parent / "onebit"


@pytest.fixture(scope="module")
def masters(save_tiny):
    return save_tiny(TEXT, scheme="bitnet-b1.58")


@pytest.fixture(scope="module")
def packed(masters, tmp_path_factory):
    path = tmp_path_factory.mktemp("packed") / "good.gguf"
    models.export(masters, path, "t1_6")
    return path


def truncated(packed, masters, out):
    (out / "m.gguf").write_bytes(packed.read_bytes()[:-5000])
    return out / "m.gguf"


def flipped(packed, masters, out):
    """A bit of a tensor's offset."""
    raw = bytearray(packed.read_bytes())
    name = b"blk.0.ffn_up.weight"
    place = raw.index(name + b"\x02\x00\x00\x00") + len(name) + 4 + 16 + 4
    raw[place + 6] ^= 0x40
    (out / "m.gguf").write_bytes(raw)
    return out / "m.gguf"


def empty(packed, masters, out):
    (out / "m.gguf").write_bytes(b"")
    return out / "m.gguf"


def truncated_safetensors(packed, masters, out):
    folder = shutil.copytree(masters, out / "m")
    raw = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(raw[:-1])
    return folder


def config(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return folder


def wrong_shape(packed, masters, out):
    models.export(masters, out / "m", "t1_6")
    return config(out / "m", intermediate_size=96)


def unknown_scheme(packed, masters, out):
    folder = shutil.copytree(masters, out / "m")
    return config(folder, onebit_scheme={"name": "x", "layers": {"body": {"weight": "septary"}}})


def no_tokenizer(packed, masters, out):
    folder = shutil.copytree(masters, out / "m")
    for file in folder.glob("*token*"):
        file.unlink()
    return folder


BAD = {
    truncated: ("run verify export eval bench", "ends|beyond|bytes"),
    flipped: ("run verify export eval bench", "ffn_up|offset"),
    empty: ("run verify export eval chat", "the file is empty"),
    truncated_safetensors: ("run verify export eval", "the tensors end at byte .* the file at"),
    wrong_shape: ("run export eval", r"gate_proj\.weight has shape .* asks for"),
    unknown_scheme: ("run verify export eval", "weight is 'septary'; accepted: fp, ternary"),
    no_tokenizer: ("export", "no tokenizer"),
}
ARGUMENTS = {
    "run": ["run", "MODEL", "It was"],
    "chat": ["chat", "MODEL"],
    "verify": ["verify", "MODEL"],
    "export": ["export", "MODEL", "-o", "OUT"],
    "eval": ["eval", "MODEL", "--text", "TEXT"],
    "bench": ["bench", "MODEL"],
}


@pytest.mark.parametrize(
    ("damage", "command"),
    [(damage, word) for damage, (words, _) in BAD.items() for word in words.split()],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_one_line_and_exit_code_1(packed, masters, tmp_path, damage, command):
    (tmp_path / "in").mkdir()
    (tmp_path / "text.txt").write_text(TEXT)
    model = damage(packed, masters, tmp_path / "in")
    places = {
        "MODEL": str(model), "OUT": str(tmp_path / "out.gguf"), "TEXT": str(tmp_path / "text.txt")
    }  # fmt: skip
    arguments = [places.get(argument, argument) for argument in ARGUMENTS[command]]
    result = CliRunner().invoke(main, arguments, input="Hello")
    assert result.exit_code == 1, result.exception
    assert result.stdout == ""
    errors = [line for line in result.stderr.splitlines() if line != "Checking, then timing ..."]
    assert len(errors) == 1
    assert errors[0].startswith("Error: ")
    assert re.search(BAD[damage][1], errors[0])
    assert not (tmp_path / "out.gguf").exists()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits the size of files")
def test_a_full_disk_during_export(packed, masters, tmp_path):
    """The whole command, on a system that ends every file at 20 kB; the old file survives."""
    out = tmp_path / "m.gguf"
    shutil.copy(packed, out)
    limit = 20_000
    assert limit < packed.stat().st_size
    done = subprocess.run(
        [RUN, "export", masters, "-o", out, "--force"],
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert len(done.stderr.splitlines()) == 1
    assert "cannot be written (File too large)" in done.stderr
    assert out.read_bytes() == packed.read_bytes()
    assert [file.name for file in tmp_path.iterdir()] == ["m.gguf"]
    assert gguf.Reader(out).tensors
