"""Weights & Biases: what the package wrote without a network is read back."""

import json
import struct
import sys
import time

import pytest

from dars_jax.config import defaults
from dars_jax.records.metrics import MetricsLog
from dars_jax.records.tracker import tracking

KEY = "0123456789abcdef0123456789abcdef01234567"


def offline():
    config = defaults().unlock()
    config.wandb.project, config.wandb.mode = "dars", "offline"
    return config.lock()


def records_of(path):
    """The records of a .wandb file: blocks as in LevelDB's log, after a header of 7 bytes."""
    from wandb.proto import wandb_internal_pb2

    data, at, whole = path.read_bytes(), 7, b""
    while at + 7 <= len(data):
        if (left := 32768 - at % 32768) < 7:
            at += left
            continue
        length, kind = struct.unpack("<HB", data[at + 4 : at + 7])
        whole += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or its last piece
            yield wandb_internal_pb2.Record.FromString(whole)
            whole = b""


def read_back(workdir):
    """Of each start: (run record, {step: {name: number}})."""
    starts = []
    for path in sorted(workdir.glob("wandb/offline-run-*/*.wandb")):
        run, history, until = None, {}, time.monotonic() + 30
        # a process of W&B's own writes the file, and may still be at it
        while "exit" not in {r.WhichOneof("record_type") for r in records_of(path)}:
            assert time.monotonic() < until, path.read_bytes()
            time.sleep(0.05)
        for record in records_of(path):
            kind = record.WhichOneof("record_type")
            if kind == "run" and run is None:
                run = record.run
            elif kind == "history":
                items = {i.key or "/".join(i.nested_key): json.loads(i.value_json)
                         for i in record.history.item}  # fmt: skip
                step = items.pop("_step", record.history.step.num)
                history[step] = {k: v for k, v in items.items() if not k.startswith("_")}
        starts.append((run, history))
    return starts


def test_an_offline_run_is_read_back_and_a_resumed_one_continues_it(tmp_path, monkeypatch):
    pytest.importorskip("wandb", reason="pip install 'dars_jax[wandb]'")
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    said = []
    for start in (0, 2):
        with tracking(offline(), tmp_path, said.append) as tracker:
            log = MetricsLog(tmp_path, start, tracker)
            log.scalars(start, {"eval/pass_at_1": 0.25})
            for step in (start + 1, start + 2):
                log.write(step, {"reward_mean": step / 8, "verdicts": {"correct": 1}})
            log.close()
    (first, before), (second, after) = read_back(tmp_path)
    assert first.run_id == second.run_id == (tmp_path / "wandb" / "run_id").read_text().strip()
    assert first.project == "dars" and first.display_name == tmp_path.name
    assert before == {0: {"eval/pass_at_1": 0.25}, 1: {"reward_mean": 0.125},
                      2: {"reward_mean": 0.25}}  # fmt: skip
    assert after == {2: {"eval/pass_at_1": 0.25}, 3: {"reward_mean": 0.375},
                     4: {"reward_mean": 0.5}}  # fmt: skip
    stored = {u.key or "/".join(u.nested_key): json.loads(u.value_json)
              for u in first.config.update}  # fmt: skip
    assert stored["rollout.num_prompts"] == 32
    files = [p for p in tmp_path.rglob("*") if p.is_file()]
    assert len(files) > 5 and not [p for p in files if KEY.encode() in p.read_bytes()]
    assert str(tmp_path) in said[0]


def test_a_missing_package_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with (
        pytest.raises(ValueError, match=r"^wandb.project is 'dars', but wandb .*\[wandb\]'.*$"),
        tracking(offline(), tmp_path, print),
    ):
        pass


def test_without_a_project_the_package_is_not_even_imported(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with tracking(defaults(), tmp_path, print) as tracker:
        assert tracker is None
    assert not list(tmp_path.iterdir())
