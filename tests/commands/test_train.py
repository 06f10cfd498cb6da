"""What training says at its end, and what it leaves for others to read."""

import json
import shutil

import numpy as np
import processes
import pytest
from safetensors.numpy import load_file, save_file
from small_runs import make_config

from dars_jax.commands import cli, plot, train
from dars_jax.learner import memory
from dars_jax.setup import arms
from dars_jax.study import runs


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    return processes.write_policy(tmp_path_factory.mktemp("policy"))


def test_a_run_that_has_more_steps_than_are_asked_for_ends_with_what_it_has(
    policy, prompt_files, tmp_path, capsys
):
    settings = {"policy__path": str(policy)}
    for steps in (2, 1):
        config = make_config(prompt_files, **settings, train__num_steps=steps)
        assert train.train(config, tmp_path) == 0
        *_, one, four, last = capsys.readouterr().out.splitlines()
        assert one.startswith("  Pass@1 ") and four.startswith("  Pass@4 ")
        assert last.startswith("Pass@1 before")
    assert (tmp_path / "pass_at_k.png").exists()
    assert sorted(p.name for p in (tmp_path / "eval").glob("*.jsonl")) == [
        "step_000000.jsonl", "step_000002.jsonl",
    ]  # fmt: skip


def test_what_a_run_leaves_is_read_as_its_own_summary_says_and_drawn(
    policy, prompt_files, tmp_path, capsys
):
    config = make_config(prompt_files, policy__path=str(policy), train__num_steps=2)
    (tmp_path / "run").mkdir()
    assert train.train(config, tmp_path / "run") == 0
    run = runs.read(tmp_path / "run")
    for i, step in enumerate(run.evaluated):
        stored = json.loads((tmp_path / "run" / "eval" / f"step_{step:06d}.json").read_text())
        for k, value in stored["pass_at"].items():
            assert run.pass_at(int(k))[i].mean() == pytest.approx(value)
    capsys.readouterr()
    assert plot.plot([tmp_path / "run"], tmp_path / "plots") == 0
    written = capsys.readouterr().out.splitlines()
    assert str(tmp_path / "plots" / "runs.html") in written
    page = (tmp_path / "plots" / "runs.html").read_text()
    assert page.count("<figure>") == 5 and "not recorded" not in page


@pytest.mark.parametrize(
    ("value", "code", "told"),
    [
        (np.nan, 2, "model.layers.0.input_layernorm.weight holds NaN or infinity"),
        (3e38, cli.EXIT_POLICY, "evaluation: the policy's log-probs for the prompt of row 1"),
    ],
)
def test_a_policy_that_computes_no_numbers_ends_the_run_with_a_code_of_its_own(
    policy, prompt_files, tmp_path, capsys, value, code, told
):
    broken = shutil.copytree(policy, tmp_path / "policy")
    arrays = load_file(broken / "model.safetensors")
    arrays["model.layers.0.input_layernorm.weight"][:] = value
    save_file(arrays, broken / "model.safetensors")
    config = make_config(prompt_files, policy__path=str(broken))
    with pytest.raises(SystemExit) as caught:
        train.train(config, tmp_path)
    *_, last = capsys.readouterr().err.splitlines()
    assert caught.value.code == code and last.startswith("error: ") and told in last


def test_a_step_that_no_device_here_can_hold_ends_the_command_before_anything_is_read(
    monkeypatch, tmp_path, capsys
):
    gpu = memory.Hardware("gpu", 4 * memory.GIB)
    monkeypatch.setattr(memory, "hardware", lambda devices: gpu)
    with pytest.raises(SystemExit) as caught:
        train.train(arms.dars_b_small(), tmp_path)
    (said,) = capsys.readouterr().err.splitlines()
    assert caught.value.code == 2 and said.startswith("error: too large for a device's 4.0 GiB")
    assert "weights and moments alone take 6.7 GiB" in said and "must be 2 or more" in said
