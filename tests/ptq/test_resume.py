"""A run that is killed goes on where it was, and ends with the same bytes."""

import pytest
from tests.ptq.conftest import TEXT

from onebit import ptq
from onebit.errors import FileError, OptionError
from onebit.ptq import Options


class Killed(Exception):
    pass


def run(model, out, **options):
    return ptq.quantize(model, out, scheme="w3a16-g32", **({"calibration": TEXT} | options))


def stopped_after(blocks):
    def progress(status):
        if status.done == blocks:
            raise Killed

    return progress


def files(folder):
    return {file.name: file.read_bytes() for file in folder.iterdir()}


@pytest.mark.parametrize("calibration", [TEXT, None])
def test_a_stopped_run_ends_with_the_same_bytes(model, tmp_path, calibration):
    method = "gptq" if calibration else "rtn"
    options = {"calibration": calibration, "method": method}
    whole = run(model, tmp_path / "whole", **options)
    out, work = tmp_path / "out", tmp_path / "out.work"
    with pytest.raises(Killed):
        run(model, out, **options, progress=stopped_after(1))
    assert (work / "block-00000.json").exists()
    assert not out.exists()
    seen = []
    report = run(model, out, **options, progress=seen.append)
    assert [status.done for status in seen] == [1, 2]
    assert files(out) == files(tmp_path / "whole")
    assert [row.layer for row in report.rows] == [row.layer for row in whole.rows]
    assert not work.exists()


def test_a_kill_inside_a_block_costs_that_block(model, tmp_path, monkeypatch):
    from onebit.ptq.work import Work

    run(model, tmp_path / "whole")
    finish = Work.finish

    def killed_before_the_marker(self, index, *rest):
        if index == 1:
            (self.folder / "block-00001.safetensors").write_bytes(b"half a file")
            raise Killed
        finish(self, index, *rest)

    monkeypatch.setattr(Work, "finish", killed_before_the_marker)
    with pytest.raises(Killed):
        run(model, tmp_path / "out")
    monkeypatch.undo()
    run(model, tmp_path / "out")
    assert files(tmp_path / "out") == files(tmp_path / "whole")


def test_another_run_is_refused_and_begins_anew_when_told(model, tmp_path):
    out = tmp_path / "out"
    with pytest.raises(Killed):
        run(model, out, progress=stopped_after(1))
    with pytest.raises(
        OptionError,
        match=r"holds another run: damping is 0.01, not 0.02\. .* begin anew \(--restart",
    ):
        run(model, out, options=Options(damping=0.02))
    seen = []
    run(model, out, options=Options(damping=0.02), resume=False, progress=seen.append)
    assert [status.done for status in seen] == [0, 1, 2]


def test_damaged_states_are_refused(model, tmp_path):
    out, states = tmp_path / "out", tmp_path / "out.work" / "hidden-00001.bin"
    with pytest.raises(Killed):
        run(model, out, progress=stopped_after(1))
    raw = bytearray(states.read_bytes())
    raw[100] ^= 1
    states.write_bytes(raw)
    with pytest.raises(FileError, match="is not what was written there"):
        run(model, out)
    states.write_bytes(raw[:-4])
    with pytest.raises(FileError, match="is cut short"):
        run(model, out)
    states.unlink()
    with pytest.raises(FileError, match=r"is not there\. It cannot go on: begin anew"):
        run(model, out)


def test_a_folder_of_other_files_is_not_touched(model, tmp_path):
    work = tmp_path / "mine"
    work.mkdir()
    (work / "thesis.txt").write_text("years of it")
    with pytest.raises(OptionError, match=r"holds thesis\.txt, which no run has put there"):
        run(model, tmp_path / "out", work=work)
    assert (work / "thesis.txt").read_text() == "years of it"
