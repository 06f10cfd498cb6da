"""Whole runs of the embedded policy, shrunk: the same every time, stopped or not."""

import contextlib
import dataclasses
import json
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import threading
import time

import jax
import ml_collections
import numpy as np
import pytest
from small_runs import SMALL, STEPS, but, make_config

from dars_jax.commands import cli, train
from dars_jax.config import flatten
from dars_jax.records import checkpoint, manifest, metrics
from dars_jax.records.checkpoint import Checkpoints
from dars_jax.rewards import FunctionGrader, GradingError
from dars_jax.setup import build
from dars_jax.tasks import countdown
from dars_jax.training import loop

pytestmark = pytest.mark.usefixtures("base_policy")

REPO = pathlib.Path(__file__).resolve().parents[2]
TIMES = ("seconds", "_per_s")
CONFIGS = ["grpo", "depth_naive", "breadth_naive", "dars_et", "dars_hw", "dars_b", "dars_b_half"]
KEYS = {
    "step", "reward_mean", "pass_at_1", "solved_none", "solved_some", "solved_all",
    "correct_histogram", "rescued_prompts", "rollouts_per_prompt", "top_up_histogram",
    "advantage_share", "entropy",
    "clip_fraction", "grad_norm", "response_length", "truncated_share", "tokens", "groups_kept",
    "logprob_gap", "seconds_prefill", "seconds_decode", "seconds_grade", "seconds_allocate",
    "seconds_update", "seconds_publish", "seconds_checkpoint", "tokens_per_s",
}  # fmt: skip


@pytest.fixture(scope="module")
def parts(prompt_files):
    return build.make_parts(build.make_plan(make_config(prompt_files)), print)


def run(parts, workdir, **changes):
    """Trains with the settings of `parts` but for `changes` that need no other program."""
    parts = but(parts, **changes)
    workdir.mkdir(exist_ok=True)
    console = metrics.Console(parts.plan.config.train.num_steps)
    with build.make_grader(parts.plan) as grader:
        return loop.Trainer(parts, grader, workdir, console).run()


def lines(workdir):
    return [json.loads(x) for x in (workdir / "metrics.jsonl").read_text().splitlines()]


def without_times(rows):
    return [{k: v for k, v in row.items() if not (k.startswith(TIMES[0]) or k.endswith(TIMES[1]))}
            for row in rows]  # fmt: skip


def without_work(rows, recovered):
    """Of the steps in `recovered` without what depends on how much there was to sample at once."""
    return [{k: v for k, v in row.items() if not (row["step"] in recovered and k in metrics.WORK)}
            for row in without_times(rows)]  # fmt: skip


def final_state(parts, workdir, step=STEPS):
    checkpoints = Checkpoints(workdir / "checkpoints", flatten(parts.plan.config), 2)
    assert checkpoints.latest() == step
    state = checkpoints.restore(step, build.initial_state(parts), parts.shardings)
    checkpoints.close()
    return state


def assert_same_run(parts, one, other):
    rows = lines(one), lines(other)
    recovered = {row["step"] for row in (*rows[0], *rows[1]) if "rollouts_recovered" in row}
    mine, theirs = (without_work(x, recovered) for x in rows)
    assert mine == theirs
    for key in ("logprob_gap", "logprob_gap_max"):  # rounding
        for x, y in zip(*rows, strict=True):
            assert x[key] == pytest.approx(y[key], abs=4e-6)
    for x, y in zip(*(jax.tree.leaves(final_state(parts, w)) for w in (one, other)), strict=True):
        np.testing.assert_array_equal(x, y)
    for name in ("step_000000.jsonl", f"step_{STEPS:06d}.jsonl"):
        assert (one / "eval" / name).read_bytes() == (other / "eval" / name).read_bytes()


@pytest.fixture(scope="module")
def uninterrupted(parts, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("run") / "a"
    return workdir, run(parts, workdir)


def test_a_run_leaves_metrics_answers_and_a_checkpoint(parts, uninterrupted):
    workdir, (before, after) = uninterrupted
    rows = lines(workdir)
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    learned = [row for row in rows if row["groups_kept"]]
    assert learned and all(row.keys() >= KEYS for row in learned)
    for row in rows:
        histogram = {int(k): v for k, v in row["top_up_histogram"].items()}
        assert sum(histogram.values()) == row["num_prompts"]
        top_ups = sum(k * v for k, v in histogram.items())
        assert row["num_rollouts"] == 8 * row["num_prompts"] + top_ups
        assert row["rollouts_per_prompt"] == row["num_rollouts"] / row["num_prompts"]
    assert max(row["logprob_gap_max"] for row in learned) < 1e-4
    assert before.num_problems == after.num_problems == 5
    answers = [json.loads(x) for x in (workdir / "eval/step_000004.jsonl").read_text().splitlines()]
    assert len(answers) == 5 * 4
    assert np.mean([x["reward"] for x in answers]) == pytest.approx(after.avg)
    for x in answers:
        assert x["reward"] == countdown.check(x["response"], x["answer"][0])
    assert int(final_state(parts, workdir).step) == STEPS


def test_two_runs_are_identical(parts, uninterrupted, tmp_path):
    run(parts, tmp_path / "b")
    assert_same_run(parts, uninterrupted[0], tmp_path / "b")


def test_a_run_in_two_parts_is_identical(parts, uninterrupted, tmp_path):
    run(parts, tmp_path, train__num_steps=2)
    run(parts, tmp_path, checkpoint__every=3)  # which may change
    (tmp_path / "eval" / "step_000002.jsonl").unlink()
    assert_same_run(parts, uninterrupted[0], tmp_path)


def test_a_changed_configuration_is_refused_with_the_difference(parts, uninterrupted):
    workdir, _ = uninterrupted
    with pytest.raises(ValueError, match=r"optimizer\.learning_rate: 0.0002 before, 0.1 now"):
        run(parts, workdir, optimizer__learning_rate=0.1)


def test_files_with_the_same_contents_go_on_under_other_names(
    prompt_files, uninterrupted, tmp_path
):
    files = {key: shutil.copy(path, tmp_path) for key, path in prompt_files.items()}
    parts = build.make_parts(build.make_plan(make_config(files)), print)
    shutil.copytree(uninterrupted[0], tmp_path / "run")
    assert run(parts, tmp_path / "run")[1] == uninterrupted[1][1]


@pytest.mark.parametrize("key", ["data.train", "data.test"])
def test_files_that_have_changed_are_refused(parts, uninterrupted, key):
    name = parts.plan.config.data[key.removeprefix("data.")]
    parts = dataclasses.replace(parts, contents=parts.contents | {f"{key}.content": "others"})
    with pytest.raises(ValueError, match=f"{key}: the contents of '{name}' have changed"):
        run(parts, uninterrupted[0])


def test_the_command_refuses_it_in_one_line(prompt_files, uninterrupted, fresh_python):
    settings = SMALL | prompt_files | {"optimizer.learning_rate": 0.1}
    done = fresh_python(
        "launch/tpu_run.py", "--config", "configs/dars_hw.py", "--workdir", uninterrupted[0],
        *(f"--config.{k}={v}" for k, v in settings.items()),
    )  # fmt: skip
    assert done.returncode == 2
    assert "optimizer.learning_rate" in done.stderr and "Traceback" not in done.stderr


def test_nothing_kept_is_a_normal_step(parts, tmp_path, monkeypatch):
    monkeypatch.setattr(countdown, "check", lambda response, answer: False)
    run(parts, tmp_path, train__num_steps=1)
    (row,) = lines(tmp_path)
    assert row["groups_kept"] == 0 and row["update_skipped"] == 1
    assert row["top_up_histogram"] == {"24": 6}  # all wrong: all get the cap of 32
    assert row["correct_histogram"] == {"0": 6}
    start = build.initial_state(parts)
    end = final_state(parts, tmp_path, 1)
    for x, y in zip(*(jax.tree.leaves(s.params) for s in (start, end)), strict=True):
        np.testing.assert_array_equal(x, y)


def test_nothing_to_top_up_is_a_normal_step(parts, tmp_path, monkeypatch):
    monkeypatch.setattr(countdown, "check", lambda response, answer: True)
    run(parts, tmp_path, train__num_steps=1)
    (row,) = lines(tmp_path)
    assert row["solved_all"] == 1 and row["top_up_histogram"] == {"0": 6}
    assert row["correct_histogram"] == {"8": 6}


def test_a_mini_batch_without_signal_is_normal(prompt_files, tmp_path, monkeypatch):
    first, second = (countdown.answer_of(p) for p in countdown.train_problems()[:2])
    assert first != second
    monkeypatch.setattr(
        countdown,
        "check",
        lambda response, answer: answer == first and sum(map(ord, response)) % 2 == 0,
    )
    rows = [json.dumps({"problem": p, "answer": countdown.answer_of(p)})
            for p in countdown.train_problems()[:2]]  # fmt: skip
    (tmp_path / "two.jsonl").write_text("\n".join(rows))
    files = prompt_files | {"data.train": str(tmp_path / "two.jsonl")}
    config = make_config(files, "grpo", rollout__num_prompts=2, learner__micro_batch_rows=2)
    run(build.make_parts(build.make_plan(config), print), tmp_path / "w")
    applied = [row.get("updates_applied", 0) for row in lines(tmp_path / "w")]
    assert len(applied) == STEPS and set(applied) <= {0, 1} and sum(applied) > 2


class Killed(BaseException):
    """Nothing in the run is prepared for it."""


def kill_at(monkeypatch, number):
    """Ends the run at so many answers that training grades -> a list of all that are graded."""
    submit, seen = FunctionGrader.submit, []

    def counting(self, *answer):
        if len(seen) == number + 5 * 4:  # so many belong to the evaluation before
            seen.append(None)
            raise Killed
        seen.append(answer)
        submit(self, *answer)

    monkeypatch.setattr(FunctionGrader, "submit", counting)
    return seen


def test_no_rollout_is_sampled_or_graded_twice(parts, uninterrupted, tmp_path, monkeypatch):
    rows = lines(uninterrupted[0])
    counts = [row["num_rollouts"] for row in rows]
    with monkeypatch.context() as patch:
        seen = kill_at(patch, sum(counts[:2]) + 50)
        with pytest.raises(Killed):
            run(parts, tmp_path, checkpoint__every=STEPS)
        assert len(list((tmp_path / "journal").iterdir())) == 3
        run(parts, tmp_path, checkpoint__every=STEPS)
    recovered = [row.get("rollouts_recovered") for row in lines(tmp_path)]
    assert recovered[:2] == counts[:2] and 48 <= recovered[2] < counts[2] and recovered[3] is None
    # Each run evaluates before its first step, and the second one after its last.  The first one
    # has graded up to 50 in vain: those that were handed in together with the last one.
    graded = len(seen) - 1 - 3 * 20
    assert sum(counts) <= graded <= sum(counts) + 50
    assert_same_run(parts, uninterrupted[0], tmp_path)
    gaps = [row["logprob_gap"] for row in lines(tmp_path)]
    assert gaps[:2] == [row["logprob_gap"] for row in rows[:2]]  # all of it was in there
    assert not list((tmp_path / "journal").iterdir())


def test_without_a_journal_a_step_is_taken_again_from_its_start(
    parts, uninterrupted, tmp_path, monkeypatch
):
    with monkeypatch.context() as patch:
        kill_at(patch, lines(uninterrupted[0])[0]["num_rollouts"] + 50)
        with pytest.raises(Killed):
            run(parts, tmp_path, checkpoint__journal=False)
    assert not (tmp_path / "journal").exists()
    run(parts, tmp_path, checkpoint__journal=False)
    assert without_times(lines(tmp_path)) == without_times(lines(uninterrupted[0]))


@pytest.mark.parametrize("arm", CONFIGS)
def test_every_arm_runs(arm, prompt_files, tmp_path):
    config = make_config(prompt_files, arm, train__num_steps=2)
    parts = build.make_parts(build.make_plan(config), print)
    run(parts, tmp_path)
    rows = lines(tmp_path)
    assert [row["step"] for row in rows] == [1, 2]
    n_pre = 32 if arm == "depth_naive" else 8
    if arm.startswith("dars"):
        assert max(row["rollouts_per_prompt"] for row in rows) > n_pre
    else:
        assert {row["rollouts_per_prompt"] for row in rows} == {n_pre}


def test_a_budget_is_spent_in_every_step(parts, tmp_path):
    run(parts, tmp_path, rollout__schedule="hora", rollout__budget=5.0, train__num_steps=2)
    assert {row["rollouts_per_prompt"] for row in lines(tmp_path)} == {13}


def test_interrupted_at_any_moment_it_ends_with_the_same_weights(
    parts, prompt_files, uninterrupted, tmp_path
):
    overrides = SMALL | prompt_files | {"train.num_steps": STEPS}
    command = [sys.executable, "launch/tpu_run.py", "--config", "configs/dars_hw.py",
               "--workdir", str(tmp_path / "w")]  # fmt: skip
    command += [f"--config.{k}={v}" for k, v in overrides.items()]
    rng = random.Random(0)
    codes = []
    for attempt in range(6):
        process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE,
                                   text=True, cwd=REPO)  # fmt: skip
        if attempt < 2:  # once in the first steps, once in those after
            seen = 0
            for line in process.stderr:
                seen += line.startswith("step ") or "held-out" in line
                if seen > attempt:
                    delay = rng.random() * 0.5
                    threading.Timer(delay, process.send_signal, [signal.SIGINT]).start()
                    break
        _, rest = process.communicate(timeout=300)
        codes.append(process.returncode)
        assert process.returncode in (0, 130), rest
        if process.returncode == 0:
            break
    assert codes[-1] == 0 and 130 in codes, codes
    assert_same_run(parts, uninterrupted[0], tmp_path / "w")


# Saving, with steps that do nothing ---------------------------------------------------------------


@pytest.fixture
def idle(parts, tmp_path, monkeypatch):
    """A run whose steps are a function of their number, called with the state."""
    monkeypatch.setattr(loop.Trainer, "_first_evaluation", lambda *_: None)

    def trainer(step, **changes):
        def instead(self, number, state, params, log, stop):
            step(number, state)
            return state, params

        monkeypatch.setattr(loop.Trainer, "_step", instead)
        config = ml_collections.ConfigDict(parts.plan.config.to_dict())
        config.update_from_flattened_dict(changes)
        mine = dataclasses.replace(parts, plan=build.make_plan(config))
        monkeypatch.setattr(train.startup, "prepare", lambda _: (mine, metrics.Console(1)))
        return train.train(config, tmp_path)

    return trainer


ENDS = [
    pytest.param(lambda state: loop.Stopped(15, 4), 3, id="a signal"),
    pytest.param(lambda state: GradingError("no grade"), 3, id="a reward that fails"),
    pytest.param(lambda state: loop.StrangeWeightsError(4, 1, 0, state), 3, id="strange weights"),
    pytest.param(lambda state: FloatingPointError("NaN"), 2, id="gradients that are not finite"),
    pytest.param(lambda state: RuntimeError("a bug"), 2, id="a failure that nobody foresaw"),
]


@pytest.mark.parametrize(("error", "newest"), ENDS)
def test_a_run_that_ends_early_leaves_no_save_unfinished(
    idle, tmp_path, monkeypatch, error, newest
):
    write_part = manifest.write_part
    monkeypatch.setattr(manifest, "write_part", lambda where: (time.sleep(0.3), write_part(where)))

    def step(number, state):
        if number == 3:
            raise error(state)

    with contextlib.suppress(SystemExit, RuntimeError):
        idle(step, **{"checkpoint.every": 2})
    assert max(checkpoint.finished(tmp_path / "checkpoints")) == newest


def test_a_save_that_fails_beside_the_run_ends_it_long_before_the_next(
    idle, tmp_path, monkeypatch, capsys
):
    write, taken = manifest.write, []

    def full(directory, step, version):
        if step > 2:
            raise OSError("No space left on device")
        write(directory, step, version)

    def step(number, _):
        taken.append(number)
        if number >= 4:
            time.sleep(0.05)

    monkeypatch.setattr(manifest, "write", full)
    monkeypatch.setattr(loop.Trainer, "_evaluate", lambda *_: None)

    with pytest.raises(SystemExit) as ended:
        idle(step, **{"checkpoint.every": 2, "train.num_steps": 3})
    assert ended.value.code == cli.EXIT_NOT_SAVED == 4 and len(taken) == 3
    with pytest.raises(SystemExit) as ended:
        idle(step, **{"checkpoint.every": 4, "train.num_steps": 1000})
    assert ended.value.code == 4 and 5 <= len(taken) < 500
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("error: the checkpoint of step 4 was not written to ")
    assert "No space left on device" in last and "that of step 2 is whole" in last
