"""Training on a reward of the user's own: what happens when it fails, hangs or does not judge."""

import json
import os

import pytest
from small_runs import make_config

from dars_jax.commands import cli
from dars_jax.commands.train import train
from dars_jax.records import checkpoint

pytestmark = pytest.mark.usefixtures("base_policy")

# In the third step it does what BAD says; before, it judges by length, and leaves some out.
REWARD = """
import os, signal, time
from pathlib import Path

def check(response, answer, prompt, row, tokens, finished):
    log = Path({workdir!r}) / "metrics.jsonl"
    if log.exists() and log.read_text().count(chr(10)) >= 2 and {bad!r} != "nothing":
        if {bad!r} == "raise":
            raise KeyError("no such thing")
        os.kill(os.getppid(), signal.SIGTERM)
        time.sleep(3600)
    assert prompt and tokens and isinstance(row, dict) and isinstance(finished, bool)
    return None if tokens[0] % 3 == 0 else len(tokens) % 2
"""


def command(prompt_files, tmp_path, bad):
    workdir = tmp_path / "run"
    workdir.mkdir(exist_ok=True)
    (tmp_path / "mine.py").write_text(REWARD.format(workdir=str(workdir), bad=bad))
    config = make_config(prompt_files)
    config.reward.name = f"{tmp_path}/mine.py:check"
    config.reward.num_workers = 1
    config.checkpoint.every = 50
    return config, workdir


def steps(workdir):
    return [json.loads(x) for x in (workdir / "metrics.jsonl").read_text().splitlines()]


def newest(workdir):
    return checkpoint.Checkpoints(workdir / "checkpoints", {}, 2).latest()


def test_a_reward_that_fails_ends_the_run_with_its_steps_saved(prompt_files, tmp_path, capsys):
    config, workdir = command(prompt_files, tmp_path, "raise")
    with pytest.raises(SystemExit) as ended:
        train(config, workdir)
    assert ended.value.code == cli.EXIT_REWARD
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("error: reward ") and "KeyError: 'no such thing'; row " in last
    assert newest(workdir) == len(steps(workdir)) == 2
    config, _ = command(prompt_files, tmp_path, "nothing")  # mended, it goes on from there
    assert train(config, workdir) == 0
    rows = steps(workdir)
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    assert all(row["verdicts"]["left_out"] for row in rows)
    judged = [sum(row["verdicts"].values()) - row["verdicts"]["left_out"] for row in rows]
    assert [row["num_rollouts"] for row in rows] == judged


def test_a_reward_that_hangs_does_not_hold_up_a_stop(prompt_files, tmp_path):
    config, workdir = command(prompt_files, tmp_path, "hang")
    assert train(config, workdir) == 143
    assert newest(workdir) == 2
    assert not os.path.exists(workdir / "eval" / "step_000004.json")
