"""The queue of runs behind a reproduction: nothing is done twice, nothing lost, failures are named.

The runs are stand-ins here; what real ones leave is read in test_train.py.
"""

import json
import os
import pathlib
import runpy
import shutil
import signal
import subprocess
import sys
import time

import pytest

from dars_jax.commands import reproduce
from dars_jax.setup import plan
from dars_jax.study import arms

TESTS = pathlib.Path(__file__).resolve().parent.parent
REPO = TESTS.parent


@pytest.fixture
def root(tmp_path, monkeypatch):
    """A checkout whose trainer is a stand-in."""
    root = tmp_path / "checkout"
    (root / "launch").mkdir(parents=True)
    (root / "configs").symlink_to(REPO / "configs")
    shutil.copy(TESTS / "commands" / "stand_in_run.py", root / "launch" / "tpu_run.py")
    shutil.copy(REPO / "launch" / "reproduce.py", root / "launch")
    monkeypatch.setenv("PYTHONPATH", f"{TESTS}:{REPO}")
    monkeypatch.delenv("FAIL", raising=False)
    return root


def options(workdir, **changes):
    settings = {"seeds": 2, "arms": ("grpo", "dars_b"), "prompts": arms.SHORT, "also": {},
                "axis": "prompts", "jobs": 2, "command": "x"}  # fmt: skip
    return reproduce.Options(workdir=workdir, **settings | changes)


def begun(workdir):
    """{directory of a run: how often it was begun}."""
    files = workdir.glob("*/*/began.txt")
    return {str(f.parent.relative_to(workdir)): len(f.read_text().splitlines()) for f in files}


def test_runs_are_done_once_and_more_can_be_added(root, tmp_path, capfd):
    workdir = tmp_path / "work"
    assert reproduce.reproduce(root, options(workdir, seeds=1)) == 0
    assert begun(workdir) == {"grpo/seed_0": 1, "dars_b/seed_0": 1}
    assert reproduce.reproduce(root, options(workdir)) == 0
    names = [f"{arm}/seed_{seed}" for arm in ("grpo", "dars_b") for seed in (0, 1)]
    assert begun(workdir) == dict.fromkeys(names, 1)
    out, err = capfd.readouterr()
    assert "[2/2] dars_b seed 1: Pass@1 0." in err or "[1/2] dars_b seed 1: Pass@1 0." in err
    assert str(workdir / "report" / "report.html") in out
    report = json.loads((workdir / "report" / "report.json").read_text())
    assert report["seeds"] == {"grpo": [0, 1], "dars_b": [0, 1]}
    assert len(list((workdir / "grpo" / "seed_0" / "eval").glob("*.jsonl"))) == 2  # compacted

    # one thread on the CPU, and a cache of its own
    said = json.loads((workdir / "grpo" / "seed_0" / "began.txt").read_text())
    assert said == {"NPROC": "1", "JAX_PLATFORMS": "cpu", "XLA_FLAGS": None,
                    "DARS_JAX_CACHE": str(workdir / "cache")}  # fmt: skip


def test_a_run_that_fails_is_named_and_tried_again_alone(root, tmp_path, monkeypatch, capsys):
    workdir = tmp_path / "work"
    monkeypatch.setenv("FAIL", "dars_b")
    with pytest.raises(SystemExit) as ended:
        reproduce.reproduce(root, options(workdir, seeds=1))
    assert ended.value.code == 1
    (line,) = [x for x in capsys.readouterr().err.splitlines() if x.startswith("error:")]
    assert "1 of 2 runs failed" in line
    assert "dars_b seed 0: exit code 3, error: no such luck" in line
    monkeypatch.delenv("FAIL")
    assert reproduce.reproduce(root, options(workdir, seeds=1)) == 0
    assert begun(workdir) == {"grpo/seed_0": 1, "dars_b/seed_0": 2}


def test_a_run_of_other_settings_is_not_taken_for_ours(root, tmp_path, capsys):
    workdir = tmp_path / "work"
    reproduce.reproduce(root, options(workdir, seeds=1))
    stored = workdir / "grpo" / "seed_0" / "config.json"
    settings = json.loads(stored.read_text())
    stored.write_text(json.dumps(settings | {"optimizer.learning_rate": 0.1}))
    with pytest.raises(SystemExit) as ended:
        reproduce.reproduce(root, options(workdir, seeds=1))
    assert ended.value.code == 2
    assert "optimizer.learning_rate: 0.1 before, 0.0002 now" in capsys.readouterr().err


def test_other_bases_are_runs_of_their_own(tmp_path):
    trials = options(tmp_path, also={"bases": 2}, prompts=arms.LONG).trials()
    directories = [trial.directory for trial in trials]
    assert len(set(directories)) == len(directories) == 2 * 2 + 2 * 4 * 2
    assert "dars_b-base_300/seed_1" in directories
    assert "dars_b_half-base_300/seed_0" not in directories  # not one of the arms asked for
    (base,) = [t for t in trials if t.directory == "grpo-base_60/seed_0"]
    config = runpy.run_path(str(REPO / "configs" / "grpo.py"))["get_config"]()
    assert base.overrides(config) == {
        "seed": 0, "policy.architecture": "countdown", "policy.warmup_steps": 60,
        "optimizer.learning_rate": 2e-4, "train.num_steps": 200, "eval.every": 40,
        "checkpoint.every": 200,
    }  # fmt: skip


def test_a_run_that_two_parts_want_is_done_once_and_as_long_as_the_longer(tmp_path):
    trials = options(tmp_path, also={"bases": 1, "strong": 2}).trials()
    runs = {t.directory: t.prompts for t in trials}
    assert len(runs) == len(trials)
    assert runs["dars_b-base_150/seed_0"] == runs["dars_b-base_150/seed_1"] == arms.LONG
    assert runs["grpo-base_150/seed_0"] == runs["dars_b-base_120/seed_0"] == arms.SHORT
    assert "dars_b-base_120/seed_1" not in runs


def test_every_arm_exists_and_its_settings_are_known(tmp_path):
    for trial in options(
        tmp_path, arms=tuple(arms.ARMS), also=dict.fromkeys(arms.ALSO, 1)
    ).trials():
        job = reproduce._job(REPO, tmp_path, trial)
        plan.validate(job.config, 1)


def command(root, workdir, *arguments):
    return subprocess.Popen(
        [sys.executable, str(root / "launch" / "reproduce.py"), "--workdir", str(workdir),
         *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def test_when_it_is_stopped_its_runs_are_asked_to_save(root, tmp_path, monkeypatch):
    workdir = tmp_path / "work"
    monkeypatch.setenv("HANG", "grpo,dars_b")
    process = command(root, workdir, "--arms", "grpo,dars_b", "--seeds", "1", "--also", "")
    while len(list(workdir.glob("*/*/hangs"))) < 2 and process.poll() is None:
        time.sleep(0.1)
    second = command(root, workdir)
    assert (
        second.communicate(timeout=60)[1].count("another reproduction is at work in --workdir") == 1
    )
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 143
    assert err.rstrip().endswith("stopped, every run saved; the same command continues")
    assert not subprocess.run(["pgrep", "-f", str(root)], capture_output=True, check=False).stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--arms", "grpo,gpro"], "unknown arm 'gpro': expected some of grpo, depth_naive"),
        (["--seeds", "0"], "'0' is not a number of at least 1"),
        (["--also", "bases,lagre:2"], "unknown part 'lagre': expected some of bases, rates"),
        (["--also", "bases:no"], "'no' is not a number of at least 1"),
        (["--budget", "money"], "invalid choice: 'money'"),
    ],
)
def test_a_mistake_on_the_command_line_is_named(root, tmp_path, arguments, message):
    process = command(root, tmp_path / "work", *arguments)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 2 and message in err
    assert not os.path.exists(tmp_path / "work")
