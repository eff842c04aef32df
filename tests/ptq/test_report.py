"""The report: sums, JSON and back, and the page."""

import json
import math
import re

import pytest

from onebit.errors import FormatError, InputError, MissingError
from onebit.ptq import report
from onebit.ptq.report import Report, Row, Text


def row(layer="model.layers.0.mlp.up_proj", **parts):
    given = {"method": "gptq", "scheme": "int3 zero_point group:64", "shape": (8, 64)}
    given |= {"size_bytes": 216, "weight_error": 0.25, "output_error": 0.125, "time_s": 0.5}
    return Row(layer, **given | parts)


def made(**parts):
    given = {"model": "m", "out": "m.gguf", "method": "gptq", "scheme": "w3a16-g64"}
    given |= {"rows": [row(), row("model.layers.1.mlp.up_proj", output_error=None)]}
    given |= {"parts": {"codes": 384, "factors": 48, "embedding": 1000}, "weights": 2048}
    given |= {"texts": [Text("wiki", 20.0, 25.0, 1.1, 1.2)], "calibration": {"tokens": 512}}
    return Report(**given | parts)


def test_sums_count_what_is_stored():
    r = made()
    assert r.rows[0].bits == 216 * 8 / 512 == 3.375
    assert r.linear_bits_per_weight == 3.375
    assert r.size_bytes == 1432
    assert r.bits_per_weight == 1432 * 8 / 2048


def test_empty_report_has_no_bits():
    r = Report("m", "o", "rtn", "s")
    assert math.isnan(r.bits_per_weight)
    assert math.isnan(r.linear_bits_per_weight)
    assert r.to_dict()["bits_per_weight"] is None


def test_json_comes_back_equal_and_says_the_sums(tmp_path):
    r = made(notes=["kept 3 layers"], options={"damping": 0.02}, time_s=3.5)
    r.write(tmp_path / "r.json")
    assert report.read(tmp_path / "r.json") == r
    data = json.loads((tmp_path / "r.json").read_text())
    assert data["size_bytes"] == 1432
    assert data["rows"][0]["bits"] == 3.375


def test_a_broken_model_is_reported_too(tmp_path):
    r = made(texts=[Text("wiki", 20.0, math.inf)], rows=[row(weight_error=math.inf)])
    r.write(tmp_path / "r.json")
    assert report.read(tmp_path / "r.json") == r


def test_page_is_whole_and_names_are_escaped(tmp_path):
    made(rows=[row("model.layers.0.<script>.up_proj")], model="<b>").write(tmp_path / "r.json")
    page = (tmp_path / "r.html").read_text()
    assert "<script" not in page
    assert "&lt;b&gt;" in page
    assert page.count("data:image/png;base64,") == 1
    assert not re.search(r"(src|href)=\"https?:", page)
    for wanted in ("3.375", "0.1250", "1.2500", "1,432 bytes"):
        assert wanted in page


def test_page_without_layers_has_no_plot():
    from onebit.ptq.report_page import page

    assert "<img" not in page(made(rows=[row("lm_head")]))
    assert "<img" not in page(made(rows=[]))


@pytest.mark.parametrize("bad", [{"rows": [{}]}, {"rows": 3}, {"texts": [{"name": 1}]}, {}])
def test_damaged_reports_are_one_error(bad):
    data = made().to_dict() | bad if bad else {"version": 1}
    with pytest.raises(FormatError, match="a part is missing"):
        Report.from_dict(data)


def test_later_versions_and_wrong_names_are_refused(tmp_path):
    with pytest.raises(FormatError, match="version 2"):
        Report.from_dict(made().to_dict() | {"version": 2})
    with pytest.raises(InputError, match=r"\.json"):
        made().write(tmp_path / "r.txt")
    with pytest.raises(MissingError):
        report.read(tmp_path / "none.json")
