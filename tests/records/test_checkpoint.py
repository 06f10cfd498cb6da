"""A checkpoint that changed on disk, or was never finished, is not used; the one before it is."""

import contextlib
import dataclasses
import json
import resource
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dars_jax.commands import cli
from dars_jax.records import checkpoint, manifest
from dars_jax.records.checkpoint import Checkpoints, SaveError
from dars_jax.types import TrainState


def state_of(step):
    params = {"a": jnp.arange(600.0) + step, "b": jnp.full((3, 5), step, jnp.float32)}
    return TrainState(step=jnp.int32(step), params=params, opt_state=())


def restore(directory, step):
    like = state_of(0)
    everywhere = jax.tree.map(lambda x: x.sharding, like)
    with contextlib.closing(Checkpoints(directory, {"seed": 0}, keep=5)) as checkpoints:
        return checkpoints.restore(step, like, everywhere)


@pytest.fixture
def saved(tmp_path):
    """Steps 1, 2 and 3."""
    directory = tmp_path / "checkpoints"
    with contextlib.closing(Checkpoints(directory, {"seed": 0}, keep=5)) as checkpoints:
        for step in (1, 2, 3):
            checkpoints.save(step, state_of(step))
    return directory


def recover(directory):
    """(Newest step that is left, what was logged)."""
    logged = []
    checkpoint.recover(directory, directory.parent / "damaged", logged.append)
    return max(checkpoint.finished(directory), default=None), logged


def files(directory):
    return sorted(p for p in directory.rglob("*") if p.is_file() and p.stat().st_size)


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)


def test_good_checkpoints_stay_where_they_are(saved):
    assert recover(saved) == (3, [])
    assert not (saved.parent / "damaged").exists()
    np.testing.assert_array_equal(restore(saved, 3).params["a"], state_of(3).params["a"])


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class StateOfBefore:
    """TrainState as it was written until it had an entropy coefficient."""

    step: jax.Array
    params: dict
    opt_state: tuple


def test_a_checkpoint_from_before_a_field_was_added_is_read(saved, monkeypatch):
    new = state_of(4)
    old = StateOfBefore(new.step, new.params, new.opt_state)
    monkeypatch.setattr(checkpoint, "_present", lambda state: state)  # as it was written then
    with contextlib.closing(Checkpoints(saved, {"seed": 0}, keep=5)) as checkpoints:
        checkpoints.save(4, old)
    monkeypatch.undo()
    restored = restore(saved, 4)
    assert restored.entropy is None and int(restored.step) == 4
    np.testing.assert_array_equal(restored.params["a"], new.params["a"])


def test_a_field_that_is_there_is_kept(saved):
    new = dataclasses.replace(state_of(4), entropy=jnp.array([0.25, 0.5]))
    everywhere = jax.tree.map(lambda x: x.sharding, new)
    with contextlib.closing(Checkpoints(saved, {"seed": 0}, keep=5)) as checkpoints:
        checkpoints.save(4, new)
        restored = checkpoints.restore(4, new, everywhere)
    assert restored.entropy.tolist() == [0.25, 0.5]


def test_a_flipped_bit_in_any_file_is_noticed_and_the_file_named(saved):
    every = files(saved / "3")
    assert len(every) >= 5
    for path in every:
        whole = path.read_bytes()
        flip(path)
        found = checkpoint.problem(saved, 3)
        assert found and (str(path) in found or path.name == manifest.NAME), path
        path.write_bytes(whole)
    assert not checkpoint.problem(saved, 3)


def test_no_bit_of_the_manifest_itself_can_mislead(saved):
    path = saved / "3" / manifest.NAME
    whole = path.read_bytes()
    believed = []
    for bit in range(0, 8 * len(whole), 5):
        content = bytearray(whole)
        content[bit // 8] ^= 1 << bit % 8
        path.write_bytes(content)
        if not checkpoint.problem(saved, 3):
            believed.append(content.decode(errors="replace"))
    for content in believed:  # spaces, and names of entries that nobody reads
        for key in ("step", "files"):
            assert json.loads(content)[key] == json.loads(whole)[key]
    assert len(believed) < 0.1 * len(whole) * 8 / 5


@pytest.mark.filterwarnings("ignore")  # what orbax says when it gives up
def test_orbax_alone_would_have_restored_a_flipped_bit(saved):
    """Why the manifest is there; if this fails, orbax has learned it."""
    changed = 0
    for path in files(saved / "3" / "state"):
        whole = path.read_bytes()
        flip(path)
        try:
            changed += bool((restore(saved, 3).params["a"] != state_of(3).params["a"]).any())
        except Exception:
            continue
        finally:
            path.write_bytes(whole)
    assert changed


def swap(path):
    """With the largest of the other files."""
    others = [p for p in files(path.parents[1]) if p.read_bytes() != path.read_bytes()]
    other = max(others, key=lambda p: p.stat().st_size)
    mine = path.read_bytes()
    path.write_bytes(other.read_bytes())
    other.write_bytes(mine)


DAMAGE = {
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:-1]),
    "deleted": lambda path: path.unlink(),
    "a bit flipped": flip,
    "emptied": lambda path: path.write_bytes(b""),
    "longer": lambda path: path.write_bytes(path.read_bytes() + b"0"),
    "swapped": swap,
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_the_one_before_is_used_and_the_damaged_one_kept_aside(saved, damage):
    path = max(files(saved / "3" / "state"), key=lambda p: p.stat().st_size)
    DAMAGE[damage](path)
    newest, logged = recover(saved)
    assert newest == 2 and len(logged) == 1 and str(saved / "3") in logged[0]
    assert (str(path) in logged[0] or damage == "swapped") and "step 3" in logged[0]
    assert int(restore(saved, 2).step) == 2
    assert (saved.parent / "damaged" / "3.0").is_dir() and not (saved / "3").exists()
    with contextlib.closing(Checkpoints(saved, {"seed": 0}, keep=5)) as checkpoints:
        checkpoints.save(3, state_of(3))  # its place is free
    assert recover(saved) == (3, [])


def test_what_was_not_finished_is_no_checkpoint(saved):
    (saved / "3" / manifest.NAME).unlink()
    (saved / "31").mkdir()
    assert checkpoint.finished(saved) == [1, 2]
    newest, logged = recover(saved)
    assert newest == 2 and len(logged) == 2


def test_a_first_checkpoint_that_was_not_finished_lets_the_run_start_anew(saved):
    for step in (1, 2):
        shutil.rmtree(saved / str(step))
    (saved / "3" / manifest.NAME).unlink()
    assert recover(saved)[0] is None


def test_a_renamed_checkpoint_is_not_believed(saved):
    shutil.copytree(saved / "2", saved / "99")
    newest, logged = recover(saved)
    assert newest == 3 and "holds step 2" in logged[0]


def test_two_that_were_swapped_are_both_refused(saved):
    shutil.rmtree(saved / "1")
    (saved / "3").rename(saved / "between")
    (saved / "2").rename(saved / "3")
    (saved / "between").rename(saved / "2")
    with pytest.raises(ValueError, match=r"holds step 2: was it renamed\?, and no checkpoint"):
        recover(saved)


def test_without_a_good_one_the_run_does_not_start_from_nothing(saved):
    for step in (1, 2, 3):
        flip(max(files(saved / str(step)), key=lambda p: p.stat().st_size))
    with pytest.raises(ValueError, match=r"no checkpoint in .* is good"):
        recover(saved)
    assert checkpoint.finished(saved) == [1, 2, 3]  # nothing was moved


def test_checkpoints_without_a_manifest_from_before_there_was_one_are_read(saved):
    (saved / "3" / manifest.NAME).unlink()
    about = saved / "3" / "about" / "metadata"
    about.write_text(json.dumps(json.loads(about.read_text()) | {"format": 1}))
    assert recover(saved) == (3, [])
    assert int(restore(saved, 3).step) == 3


def test_a_newer_format_is_refused(saved):
    about = saved / "3" / "about" / "metadata"
    about.write_text(json.dumps(json.loads(about.read_text()) | {"format": 9}))
    with pytest.raises(ValueError, match=r"format 9; .* up to 2: go on with a newer"):
        restore(saved, 3)


@pytest.mark.filterwarnings("ignore")  # what orbax says when it gives up
def test_a_full_disk_leaves_the_last_checkpoint_whole(saved):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    with contextlib.closing(Checkpoints(saved, {"seed": 0}, keep=5)) as checkpoints:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
        try:
            checkpoints.save(4, state_of(4))  # orbax itself says nothing yet
            with pytest.raises(SaveError, match=r"step 4 .* that of step 3 is whole"):
                checkpoints.wait()
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert recover(saved)[0] == 3
    assert int(restore(saved, 3).step) == 3


def test_a_second_trainer_is_refused_until_the_first_has_gone(tmp_path):
    with (
        cli.alone(tmp_path, "trainer"),
        pytest.raises(ValueError, match="another trainer"),
        cli.alone(tmp_path, "trainer"),
    ):
        pass
    with cli.alone(tmp_path, "trainer"):
        pass
