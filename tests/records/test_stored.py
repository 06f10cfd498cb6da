"""What earlier versions have stored is read, bit for bit, and goes on: a file of each format."""

import json
import pathlib
import tarfile

import pytest
import stored_run

from dars_jax.records import checkpoint

STORED = sorted(pathlib.Path(__file__).parent.glob("run_of_format_*.tar.xz"))


def test_there_is_one_of_the_format_of_today():
    assert f"run_of_format_{checkpoint.FORMAT}.tar.xz" in [path.name for path in STORED]


@pytest.mark.parametrize("path", STORED, ids=lambda path: path.name)
def test_a_stored_run_is_read_bit_for_bit_and_goes_on(path, tmp_path, monkeypatch):
    with tarfile.open(path) as file:
        file.extraction_filter = getattr(tarfile, "data_filter", None)  # since Python 3.11.4
        file.extractall(tmp_path)
    monkeypatch.setenv("ANSWERS", str(tmp_path))
    before = (tmp_path / "run" / "metrics.jsonl").read_bytes()
    run = stored_run.trainer(tmp_path, stored_run.STEPS + 1)
    assert not (tmp_path / "run" / "damaged").exists()
    wanted = json.loads((tmp_path / "state.json").read_text())
    assert stored_run.digests(run._state) == wanted
    assert len(wanted) > 20
    run.run()
    assert checkpoint.finished(tmp_path / "run" / "checkpoints") == [stored_run.STEPS + 1]
    after = (tmp_path / "run" / "metrics.jsonl").read_bytes()
    assert after.startswith(before) and after.count(b"\n") == stored_run.STEPS + 1
