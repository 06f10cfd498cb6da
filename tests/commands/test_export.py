"""Export: a checkpoint becomes a directory that loads to the same parameters, bit for bit."""

import json

import hf_directory
import jax
import jax.numpy as jnp
import policies
import pytest

from dars_jax.commands import export
from dars_jax.config import defaults
from dars_jax.setup import base_policy


@pytest.fixture
def policy(tmp_path):
    """A tiny Qwen2 directory with a tokenizer file, its configuration, and a working directory."""
    directory = hf_directory.write(
        tmp_path / "policy", hf_directory.config_json(), hf_directory.tensors()
    )
    (directory / "tokenizer.json").write_text('{"a": 1}')
    config = defaults()
    config.policy.path = str(directory)
    return directory, config, tmp_path / "work"


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", None])
def test_an_export_loads_to_the_checkpoints_parameters(policy, tmp_path, dtype, capsys):
    directory, config, workdir = policy
    params = policies.checkpoint(config, workdir, [1, 3])
    out = tmp_path / "out"
    assert export.export(config, workdir, out, step=None, dtype=dtype) == 0
    written = jnp.dtype(dtype or "bfloat16")
    expected = jax.tree.map(lambda x: x.astype(written).astype(jnp.float32), params)
    hf_directory.assert_same(hf_directory.load(out), expected)
    assert json.loads((out / "config.json").read_text())["torch_dtype"] == str(written)
    assert (out / "tokenizer.json").read_bytes() == (directory / "tokenizer.json").read_bytes()
    assert "step 3" in capsys.readouterr().out


def test_step_names_the_checkpoint(policy, tmp_path):
    _, config, workdir = policy
    policies.checkpoint(config, workdir, [1, 3])
    export.export(config, workdir, tmp_path / "out", step=1, dtype="float32")
    original = hf_directory.load(config.policy.path)
    hf_directory.assert_same(
        hf_directory.load(tmp_path / "out"), jax.tree.map(lambda x: 2 * x, original)
    )


@pytest.mark.parametrize("what", ["no checkpoint", "step", "full", "file", "configuration"])
def test_what_cannot_be_exported_is_one_line_and_writes_nothing(policy, tmp_path, capsys, what):
    _, config, workdir = policy
    out, step, expected = tmp_path / "out", None, what
    if what != "no checkpoint":
        policies.checkpoint(config, workdir, [2])
    if what == "step":
        step, expected = 7, "no checkpoint of step 7: there are 2"
    if what == "full":
        out.mkdir()
        (out / "mine.txt").write_text("keep")
        expected = "is not an empty directory"
    if what == "file":
        out.write_text("keep")
        expected = "is not an empty directory"
    if what == "configuration":
        config.learner.clip_high, expected = 0.3, "learner.clip_high: 0.2 before, 0.3 now"
    before = sorted(out.rglob("*")) if out.exists() else None
    with pytest.raises(SystemExit) as error:
        export.export(config, workdir, out, step=step, dtype=None)
    assert error.value.code == 2
    message = capsys.readouterr().err
    assert expected in message and len(message.splitlines()) == 1
    assert (sorted(out.rglob("*")) if out.exists() else None) == before


def test_the_embedded_policy_takes_its_tokenizer_along(tmp_path, monkeypatch):
    directory = policies.random(tmp_path / "policy")
    monkeypatch.setattr(base_policy, "base_policy", lambda *_: directory)
    config, workdir, out = defaults(), tmp_path / "work", tmp_path / "out"
    params = policies.checkpoint(config, workdir, [4], directory)
    export.export(config, workdir, out, step=None, dtype=None)
    hf_directory.assert_same(hf_directory.load(out), params)
    assert json.loads((out / "config.json").read_text())["torch_dtype"] == "float32"
    name = "tokenizer.model"
    assert (out / name).read_bytes() == (directory / name).read_bytes()
