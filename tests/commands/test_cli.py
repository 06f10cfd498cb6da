"""What a user sees who mistypes: one line that says what is wrong, and a non-zero exit code."""

import json
import runpy

import policies
import pytest
from small_runs import CONFIGS

from dars_jax.commands import train
from dars_jax.config import defaults
from dars_jax.setup import plan


@pytest.fixture(scope="module")
def launch(fresh_python, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("workdir")

    def run(*arguments, script="tpu_run", config="configs/dars_b.py", **settings):
        if "--workdir" not in arguments:
            arguments = ("--workdir", workdir, *arguments)
        if config:
            arguments = ("--config", config, *arguments)
        return fresh_python(f"launch/{script}.py", *arguments, **settings)

    return run


def complaint(done, *, alone=True):
    """The one line on standard error."""
    lines = done.stderr.strip().splitlines()
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert not alone or len(lines) == 1, done.stderr
    assert lines[-1].startswith("error: ")
    return lines[-1]


# Known before jax is imported -------------------------------------------------------------------


@pytest.mark.parametrize("script", ["tpu_run", "evaluate"])
def test_a_configuration_file_that_is_not_there(launch, script):
    line = complaint(launch(config="configs/dars_c.py", script=script, timeout=10))
    assert "configs/dars_c.py" in line and "no such file" in line


def test_no_configuration_at_all(launch):
    assert "--config" in complaint(launch(config=None, timeout=10))


def test_a_misspelt_key_is_told_the_nearest_one(launch):
    line = complaint(launch("--config.rollout.n_maxx=3", timeout=10))
    assert "n_maxx" in line and "n_max" in line.replace("n_maxx", "")
    line = complaint(launch("--config.rolout.n_max=3", timeout=10))
    assert "rolout" in line and "rollout" in line


def test_a_value_of_the_wrong_type(launch):
    assert "n_max" in complaint(launch("--config.rollout.n_max=many", timeout=10))


def test_a_preset_that_is_not_there(launch):
    line = complaint(launch(config="configs/dars_b.py:qwen3", timeout=10))
    assert "qwen3" in line and "qwen2.5-math-7b" in line


def test_a_baseline_takes_no_schedule(launch):
    assert "'et'" in complaint(launch(config="configs/grpo.py:et", timeout=10))


def test_a_stray_word(launch):
    assert "stray" in complaint(launch("stray", timeout=10))


def test_a_misspelt_flag(launch):
    line = complaint(launch("--wrokdir=x", timeout=10))
    assert "wrokdir" in line and "workdir" in line


def test_a_workdir_that_cannot_be_written(launch, tmp_path):
    file = tmp_path / "file"
    file.write_text("")
    line = complaint(launch("--workdir", file / "run", timeout=10))
    assert str(file / "run") in line and "not writable" in line


def test_help_shows_the_command_and_the_flags(launch):
    done = launch("--help", timeout=20)
    text = done.stdout + done.stderr
    assert "launch/tpu_run.py --config configs/dars_b.py" in text
    assert "--workdir" in text and "--config" in text
    assert "Traceback" not in text


# Known once the configuration is checked ---------------------------------------------------------


def test_a_cap_below_the_pre_rollouts(launch):
    line = complaint(launch("--config.rollout.n_max=4"), alone=False)
    assert "rollout.n_max = 4" in line and "rollout.n_pre = 8" in line


def test_rows_that_do_not_divide_over_eight_devices(launch):
    line = complaint(launch("--config.learner.micro_batch_rows=30", devices=8), alone=False)
    assert "micro_batch_rows = 30" in line and "8" in line


@pytest.fixture
def refused(tmp_path, capsys):
    """What the command prints last, run in this process, with exit code 2."""

    def run(argument="", **settings):
        config = runpy.run_path(str(CONFIGS / "dars_b.py"))["get_config"](argument)
        config.update_from_flattened_dict({k.replace("__", "."): v for k, v in settings.items()})
        with pytest.raises(SystemExit) as left:
            train.train(config, tmp_path)
        assert left.value.code == 2
        line = capsys.readouterr().err.splitlines()[-1]
        assert line.startswith("error: ")
        return line

    return run


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"mesh.tensor": 8}, ("heads", "mesh.tensor = 8")),
        ({"mesh.data": 3}, ("8 devices", "3")),
    ],
    ids=["heads over devices", "devices over axes"],
)
def test_what_does_not_divide_over_the_mesh(settings, words):
    config = defaults().unlock()
    config.update_from_flattened_dict(settings)
    with pytest.raises(ValueError) as error:
        plan.validate(config, 8)
    assert all(word in str(error.value) for word in words)


def test_rows_too_short_for_the_longest_rollout(refused):
    line = refused(learner__row_tokens=17)
    assert "learner.row_tokens = 17" in line and "18" in line


def test_a_policy_directory_without_weights(refused, tmp_path):
    line = refused(policy__path=str(tmp_path))
    assert str(tmp_path) in line and "config.json" in line


def test_a_preset_without_its_policy(refused):
    assert "policy.path" in refused("qwen2.5-math-1.5b")


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    return str(policies.random(tmp_path_factory.mktemp("policy")))


def test_a_prompt_file_with_a_broken_row_is_named_with_its_line(refused, policy, tmp_path):
    rows = [json.dumps({"problem": "1 2 3 = 6", "answer": "x"})] * 2
    file = tmp_path / "prompts.jsonl"
    file.write_text("\n".join([*rows, '{"problem": "1 2 3 =']))
    assert f"{file}:3" in refused(policy__path=policy, data__train=str(file))


def test_a_prompt_file_that_is_not_there(refused, policy):
    assert "nowhere.jsonl" in refused(policy__path=policy, data__train="nowhere.jsonl")


def test_a_reward_that_cannot_be_loaded(refused, policy):
    assert "chek" in refused(policy__path=policy, reward__name="dars_jax.tasks.countdown:chek")
