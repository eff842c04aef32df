"""`onebit verify`: the table, the sums, and exit code 1 for a model that is not what it claims."""

import json

import pytest
import torch
from click.testing import CliRunner

from onebit import models, quant
from onebit.cli import main
from onebit.data import Tokenizer


@pytest.fixture(scope="module")
def masters(save_tiny):
    return save_tiny("the cat sat on the mat. " * 3, "bitnet-b1.58")


@pytest.fixture
def twice(masters, tmp_path):
    """A model whose scales went through absmean a second time."""
    model = models.load(masters)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "_proj" in name:
                once = quant.dequantize(quant.ternary.quantize_absmean(parameter))
                again = quant.ternary.quantize_absmean(once.bfloat16())
                parameter.copy_(quant.dequantize(again))
    models.save(model, tmp_path / "twice", Tokenizer.load(masters))
    config = json.loads((tmp_path / "twice" / "config.json").read_text())
    del config["quantization_config"]
    (tmp_path / "twice" / "config.json").write_text(json.dumps(config))
    return tmp_path / "twice"


def onebit(*args):
    return CliRunner().invoke(main, [str(arg) for arg in args])


def test_the_table_and_the_sums(masters, tmp_path):
    models.export(masters, tmp_path / "m.gguf", "t1_6")
    result = onebit("verify", tmp_path / "m.gguf")
    assert result.exit_code == 0
    rows = [line.split() for line in result.stdout.splitlines()]
    assert " ".join(rows[0]) == "matrix shape stored claimed is levels zeros scale bits entropy"
    row = next(row for row in rows if row[1:2] == ["0.mlp.down_proj"])
    assert row[:7] == ["ok", "0.mlp.down_proj", "64x128", "t1_6", "ternary", "ternary", "3"]
    assert "scheme bitnet-b1.58; " in result.stdout
    assert "The weights are what the scheme claims." in result.stdout
    assert result.stderr == ""


def test_masters_are_not_an_error(masters):
    result = onebit("verify", masters)
    assert result.exit_code == 0
    assert "float masters" in result.stdout


def test_a_model_that_is_not_what_it_claims(twice):
    result = onebit("verify", twice)
    assert result.exit_code == 1
    assert "0.mlp.down_proj" in result.stdout  # the table is still there
    assert "quantized twice" in result.stderr
    assert result.stderr.count("\n") == 1


def test_against_the_masters(masters, twice):
    result = onebit("verify", twice, "--against", masters)
    assert result.exit_code == 1
    assert "7 of 8 matrices are not what scheme 'bitnet-b1.58' claims" in result.stderr
    assert "quantized 2 times" in result.stderr


def test_a_missing_layer_is_one_line_and_exit_code_1(masters, tmp_path):
    models.export(masters, tmp_path / "m", "t2")
    path = tmp_path / "m" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"num_hidden_layers": 2}))
    result = onebit("verify", tmp_path / "m")
    assert result.exit_code == 1
    assert "The weights are what the scheme claims" not in result.stdout
    assert "the model is not what scheme 'bitnet-b1.58' claims. 'model.layers.1." in result.stderr
    assert result.stderr.count("\n") == 1


def test_json(masters, twice):
    assert json.loads(onebit("verify", masters, "--json").stdout)["ok"] is True
    result = onebit("verify", twice, "--json")
    assert result.exit_code == 1
    report = json.loads(result.stdout)
    assert report["ok"] is False
    assert report["findings"][0]["level"] == "error"


def test_a_missing_model_is_one_line(tmp_path):
    result = onebit("verify", tmp_path / "none")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.count("\n") == 1
