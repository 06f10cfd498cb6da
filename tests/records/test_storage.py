"""A full disk: one line that names the file, exit code 4, and what was there before is whole.

/dev/full refuses every write as a full disk does.
"""

import contextlib
import errno
import json
import pathlib
import resource

import ml_collections
import pytest
from small_runs import but

from dars_jax.commands import cli, startup, train
from dars_jax.records import metrics, storage
from dars_jax.setup import base_policy

FULL = pathlib.Path("/dev/full")


@contextlib.contextmanager
def files_of_at_most(size):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_file_is_the_old_one_or_the_new_one(tmp_path):
    file = tmp_path / "a.json"
    storage.replace(file, "old")
    (tmp_path / "a.json.partial").symlink_to(FULL)
    with pytest.raises(storage.StorageError, match=r"a\.json could not be written \(No space left"):
        storage.replace(file, "new")
    assert file.read_text() == "old"
    (tmp_path / "a.json.partial").unlink()
    storage.replace(file, b"new")
    assert file.read_text() == "new" and len(list(tmp_path.iterdir())) == 1


def test_what_has_another_reason_is_not_blamed_on_the_disk(tmp_path):
    for error in (ValueError("no"), OSError(errno.EAGAIN, "no more processes"), KeyError("x")):
        with pytest.raises(type(error)) as caught, storage.writing(tmp_path):
            raise error
        assert caught.value is error
    with (
        pytest.raises(storage.StorageError, match="OpError"),
        storage.writing(tmp_path, any_error=True),
    ):
        raise type("OpError", (Exception,), {})


def test_a_line_of_metrics_that_does_not_fit_is_dropped_when_the_run_goes_on(tmp_path):
    log = metrics.MetricsLog(tmp_path, 0)
    log.write(1, {"loss": 1.0})
    whole = (tmp_path / "metrics.jsonl").read_bytes()
    with (
        files_of_at_most(len(whole) + 5),
        pytest.raises(
            storage.StorageError, match=r"metrics\.jsonl could not be written \(File too"
        ),
    ):
        log.write(2, {"loss": 2.0})
    assert (tmp_path / "metrics.jsonl").read_bytes() == whole + b'{"ste'
    metrics.MetricsLog(tmp_path, 1).close()
    assert (tmp_path / "metrics.jsonl").read_bytes() == whole


def test_a_cache_that_is_full_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(base_policy, "_train", lambda *_: None)
    model = base_policy.decoder.ARCHITECTURES["countdown"]
    with (
        files_of_at_most(100),
        pytest.raises(storage.StorageError, match=r"tokenizer\.model could"),
    ):
        base_policy.base_policy(tmp_path, model, print, 100)
    assert not list((tmp_path / "base").iterdir())  # nothing half made is left


@pytest.mark.parametrize("function", [cli.one_line_errors, cli.storage_errors])
def test_the_command_ends_with_code_4(function, capsys):
    with pytest.raises(SystemExit) as ended, function():
        raise storage.StorageError("x could not be written (No space left on device)")
    assert ended.value.code == cli.EXIT_NOT_SAVED == 4
    assert capsys.readouterr().err == "error: x could not be written (No space left on device)\n"


# In a run ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def parts(even_parts):
    return but(even_parts, train__num_steps=1)


# what cannot be written, and the file that is taken for it
PLACES = {
    "config.json": "config.json.partial",
    "tensorboard": "tensorboard",
    "eval/step_000000.jsonl": "eval/step_000000.partial",
    "eval/step_000000.json": "eval/step_000000.json.partial",
    "pass_at_k.png": "pass_at_k.png.partial",
}


@pytest.mark.parametrize("named", PLACES)
def test_whatever_file_of_a_run_finds_the_disk_full_is_named(
    named, parts, tmp_path, monkeypatch, capsys
):
    monkeypatch.setenv("ANSWERS", str(tmp_path))
    monkeypatch.setattr(startup, "prepare", lambda config: (parts, metrics.Console(1)))
    config = ml_collections.ConfigDict(parts.plan.config.to_dict())
    workdir, blocked = tmp_path / "run", tmp_path / "run" / PLACES[named]
    blocked.parent.mkdir(parents=True)
    blocked.symlink_to(FULL)
    with pytest.raises(SystemExit) as ended:
        train.train(config, workdir)
    *_, last = capsys.readouterr().err.splitlines()
    assert ended.value.code == cli.EXIT_NOT_SAVED
    assert last.startswith(f"error: {workdir / named} could not be written (") and "room" in last
    if named == "eval/step_000000.json":  # the same command goes on
        blocked.unlink()
        assert train.train(config, workdir) == 0
        assert json.loads((workdir / named).read_text())["num_problems"] == 5
