"""Saving goes on beside the run: what it saves, what it tells, in which order files come and go."""

import contextlib
import os
import pathlib
import shutil
import threading
import time

import jax
import jax.numpy as jnp
import numpy as np
import processes
import pytest

from dars_jax.records import checkpoint, manifest
from dars_jax.records.checkpoint import Checkpoints, SaveError
from dars_jax.types import TrainState


def state_of(step):
    return TrainState(step=jnp.int32(step), params={"a": jnp.arange(70_000.0) + step}, opt_state=())


@pytest.fixture
def opened(tmp_path):
    """Checkpoints of a directory, with `keep` of them; closed at the end."""
    with contextlib.ExitStack() as stack:
        yield lambda keep: stack.enter_context(
            contextlib.closing(Checkpoints(tmp_path / "checkpoints", {"seed": 0}, keep))
        )


@pytest.fixture
def slow(monkeypatch):
    """The manifest is not written before this event is set."""
    event, write_part = threading.Event(), manifest.write_part

    def wait(directory):
        assert event.wait(timeout=20)
        write_part(directory)

    monkeypatch.setattr(manifest, "write_part", wait)
    yield event
    event.set()


def steps(directory):
    return sorted(int(path.name) for path in directory.iterdir() if path.name.isdigit())


def test_save_returns_before_the_checkpoint_is_finished(opened, slow, tmp_path):
    checkpoints = opened(keep=2)
    checkpoints.save(1, state_of(1))
    checkpoints.check()
    assert checkpoints.latest() is None
    slow.set()
    checkpoints.wait()
    assert checkpoints.latest() == 1 and not checkpoint.problem(tmp_path / "checkpoints", 1)


def test_what_becomes_of_the_state_after_save_does_not_change_what_is_saved(opened, slow):
    checkpoints = opened(keep=2)
    state = state_of(1)
    update = jax.jit(lambda tree: jax.tree.map(lambda x: x * -3, tree), donate_argnums=0)
    update(state_of(0))  # compiled before: the first donation follows at once
    checkpoints.save(1, state)
    for _ in range(3):
        state = update(state)
    jax.block_until_ready(state)
    slow.set()
    checkpoints.wait()
    everywhere = jax.tree.map(lambda x: x.sharding, state)
    saved = checkpoints.restore(1, state, everywhere)
    np.testing.assert_array_equal(saved.params["a"], np.arange(70_000) + 1)
    np.testing.assert_array_equal(state.params["a"], (np.arange(70_000) + 1) * -27)


def test_one_save_is_in_flight_at_a_time(opened, slow, tmp_path, monkeypatch):
    begun, save = {}, checkpoint.ocp.AsyncCheckpointer.save

    def note(self, path, **kwargs):
        begun[int(path.name)] = checkpoint.finished(tmp_path / "checkpoints")
        save(self, path, **kwargs)

    monkeypatch.setattr(checkpoint.ocp.AsyncCheckpointer, "save", note)
    checkpoints = opened(keep=3)
    checkpoints.save(1, state_of(1))
    threading.Timer(0.3, slow.set).start()
    checkpoints.save(2, state_of(2))
    assert begun == {1: [], 2: [1]}


def test_an_error_in_the_background_is_told_once_and_the_one_before_stays(
    opened, tmp_path, monkeypatch
):
    directory = tmp_path / "checkpoints"
    checkpoints = opened(keep=1)
    checkpoints.save(1, state_of(1))
    checkpoints.wait()

    def full(*_):
        raise OSError("No space left on device")

    monkeypatch.setattr(manifest, "write", full)
    checkpoints.save(2, state_of(2))
    with pytest.raises(SaveError, match=r"step 2 .*No space left .* that of step 1 is whole"):
        for _ in range(1000):
            checkpoints.check()
            time.sleep(0.01)
    checkpoints.check()
    checkpoints.wait()
    assert checkpoint.finished(directory) == [1] and not checkpoint.problem(directory, 1)
    monkeypatch.undo()
    checkpoint.recover(directory, tmp_path / "damaged", lambda _: None)
    checkpoints.save(2, state_of(2))
    checkpoints.wait()
    assert steps(directory) == [2]


def test_the_older_go_when_the_new_one_stands_and_is_as_noted(opened, tmp_path, monkeypatch):
    directory = tmp_path / "checkpoints"
    checkpoints = opened(keep=2)
    for step in (1, 2):
        checkpoints.save(step, state_of(step))
    checkpoints.wait()
    seen, rename, write = [], pathlib.Path.rename, manifest.write

    def note(path, target):
        seen.append((path.name, checkpoint.problem(directory, 3)))
        return rename(path, target)

    def late(*arguments):
        assert steps(directory) == [1, 2, 3]
        write(*arguments)
        assert steps(directory) == [1, 2, 3]

    monkeypatch.setattr(pathlib.Path, "rename", note)
    monkeypatch.setattr(manifest, "write", late)
    checkpoints.save(3, state_of(3))
    checkpoints.wait()
    assert [x for x in seen if x[0].isdigit()] == [("1", "")]
    assert sorted(path.name for path in directory.iterdir()) == ["2", "3"]


def test_a_file_that_changed_while_it_was_saved_keeps_the_older_ones(opened, tmp_path, monkeypatch):
    directory, write = tmp_path / "checkpoints", manifest.write

    def cut(where, *arguments):
        file = max(where.rglob("*"), key=lambda path: path.stat().st_size)
        file.write_bytes(file.read_bytes()[:-1])
        write(where, *arguments)

    checkpoints = opened(keep=1)
    checkpoints.save(1, state_of(1))
    checkpoints.wait()
    monkeypatch.setattr(manifest, "write", cut)
    checkpoints.save(2, state_of(2))
    with pytest.raises(SaveError, match="bytes"):
        checkpoints.wait()
    assert checkpoint.finished(directory) == [1]


CHANGES = [(manifest, "_write"), (pathlib.Path, "replace"), (pathlib.Path, "unlink"),
           (pathlib.Path, "rename"), (os, "unlink"), (os, "rmdir")]  # fmt: skip


def test_a_kill_at_any_moment_leaves_a_good_checkpoint(opened, tmp_path, monkeypatch):
    """With keep=1: copies of the directory before each change to it are what kills would leave."""
    directory, moments = tmp_path / "checkpoints", []
    checkpoints = opened(keep=1)
    checkpoints.save(1, state_of(1))
    checkpoints.wait()

    def copying(name, function):
        def change(*arguments, **kwargs):
            copy = tmp_path / f"{len(moments)}.{name}" / "checkpoints"
            moments.append(copy)
            # what orbax writes meanwhile may come and go
            shutil.copytree(directory, copy, ignore=shutil.ignore_patterns("*-tmp*"))
            return function(*arguments, **kwargs)

        return change

    with monkeypatch.context() as patch:
        for owner, name in CHANGES:
            patch.setattr(owner, name, copying(name, getattr(owner, name)))
        checkpoints.save(2, state_of(2))
        checkpoints.wait()
    assert {path.parent.suffix for path in moments} >= {"._write", ".replace", ".rename", ".rmdir"}
    newest = []
    for copy in moments:
        checkpoint.recover(copy, copy.parent / "damaged", lambda _: None)
        finished = checkpoint.finished(copy)
        assert not checkpoint.problem(copy, max(finished))
        assert steps(copy) == finished and len(list(copy.iterdir())) == len(finished)
        newest.append(max(finished))
    assert newest == sorted(newest) and set(newest) == {1, 2}


def test_what_a_killed_run_left_half_removed_is_no_checkpoint(opened, tmp_path):
    directory = tmp_path / "checkpoints"
    checkpoints = opened(keep=1)
    checkpoints.save(5, state_of(5))
    checkpoints.wait()
    for name in ("4.removed", "6.orbax-checkpoint-tmp"):
        shutil.copytree(directory / "5", directory / name)
    assert checkpoints.latest() == 5
    checkpoint.recover(directory, tmp_path / "damaged", lambda _: None)
    assert [path.name for path in directory.iterdir()] == ["5"]
    assert not (tmp_path / "damaged").exists()


TOGETHER = """
import sys, time
from pathlib import Path
from dars_jax import distributed
distributed.join((f"localhost:{sys.argv[1]}", 2, int(sys.argv[2])))
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from dars_jax.records import checkpoint, manifest
from dars_jax.types import TrainState

mesh = jax.make_mesh((2,), ("x",), axis_types=(jax.sharding.AxisType.Auto,))
shardings = [NamedSharding(mesh, PartitionSpec(*axes)) for axes in ((), ("x",))]
make = jax.jit(lambda: (jnp.int32(0), jnp.arange(70_000.0)), out_shardings=tuple(shardings))
add = jax.jit(lambda x: jax.tree.map(lambda a: a + 1, x), donate_argnums=0)
write_part = manifest.write_part

def note(where):
    time.sleep(0.3)  # time for the programs of the main threads
    if distributed.is_first() or where.name != "3":
        return write_part(where)
    raise OSError("no space here")

manifest.write_part = note
with distributed.leaving():
    checkpoints = checkpoint.Checkpoints(Path(sys.argv[3]), {"seed": 0}, keep=1)
    now = make()
    for step in (1, 2, 3):
        now = add(now)
        checkpoints.save(step, TrainState(step=now[0], params={"a": now[1]}, opt_state=()))
        begin = time.monotonic()
        while time.monotonic() - begin < 60:
            distributed.gather(np.int32(0))  # programs of all devices, beside the saving
            newest = checkpoints.latest()
            try:
                checkpoints.check()
            except checkpoint.SaveError as error:
                print(error, flush=True)
                raise SystemExit(4)
            if newest == step:
                break
"""


def test_two_processes_save_beside_their_programs_and_both_hear_of_one_failure(tmp_path):
    directory, port = tmp_path / "checkpoints", processes.free_port()
    commands = [["-c", TOGETHER, port, i, directory] for i in range(2)]
    with processes.group(commands) as group:
        said = [process.communicate(timeout=120) for process in group]
    assert [process.returncode for process in group] == [4, 4], said
    for out, _ in said:
        assert "step 3 " in out and "no space here" in out and "that of step 2 is whole" in out
    assert checkpoint.finished(directory) == [2] and not checkpoint.problem(directory, 2)
    like = state_of(0)
    with contextlib.closing(Checkpoints(directory, {"seed": 0}, keep=1)) as checkpoints:
        saved = checkpoints.restore(2, like, jax.tree.map(lambda x: x.sharding, like))
    np.testing.assert_array_equal(saved.params["a"], np.arange(70_000) + 2)
