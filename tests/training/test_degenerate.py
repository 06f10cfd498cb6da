"""Steps without anything to learn, and numbers that are none: how a run goes on or ends."""

import dataclasses

import jax
import ml_collections
import numpy as np
import processes
import pytest
from small_runs import but

from dars_jax.commands import cli, train
from dars_jax.config import flatten
from dars_jax.records import metrics
from dars_jax.records.checkpoint import Checkpoints
from dars_jax.setup import build
from dars_jax.training import loop


@pytest.fixture(scope="module")
def parts(even_parts):
    return but(even_parts, train__num_steps=3)


@pytest.fixture(autouse=True)
def notes(tmp_path, monkeypatch):
    monkeypatch.setenv("ANSWERS", str(tmp_path))


def run(parts, workdir):
    workdir.mkdir(exist_ok=True)
    with build.make_grader(parts.plan) as grader:
        loop.Trainer(parts, grader, workdir, metrics.Console(3)).run()
    return processes.rows(workdir)


def weights_after(parts, workdir, step):
    checkpoints = Checkpoints(workdir / "checkpoints", flatten(parts.plan.config), 9)
    assert checkpoints.latest() == step
    state = checkpoints.restore(step, build.initial_state(parts), parts.shardings)
    checkpoints.close()
    return jax.tree.leaves(state.params)


def assert_weights(parts, workdir, step, *, moved):
    pairs = zip(jax.tree.leaves(build.initial_state(parts).params),
                weights_after(parts, workdir, step), strict=True)  # fmt: skip
    assert any(np.abs(x - y).max() > 0 for x, y in pairs) == moved


@pytest.mark.parametrize("right", [True, False])
def test_steps_in_which_all_groups_are_equal_change_nothing(parts, tmp_path, monkeypatch, right):
    monkeypatch.setattr(processes, "even", lambda response, answer: right)
    rows = run(parts, tmp_path / "run")
    assert [row["update_skipped"] for row in rows] == [1, 1, 1]
    assert all(row["groups_kept"] == 0 and not any(row["advantage_share"]) for row in rows)
    assert "null" not in (tmp_path / "run" / "metrics.jsonl").read_text()  # all are numbers
    assert_weights(parts, tmp_path / "run", 3, moved=False)


def test_a_step_may_have_one_prompt(parts, tmp_path):
    rows = dataclasses.replace(parts.train, rows=parts.train.rows[:1])
    rows = run(dataclasses.replace(parts, train=rows), tmp_path / "run")
    assert [row["num_prompts"] for row in rows] == [1, 1, 1]
    assert "null" not in (tmp_path / "run" / "metrics.jsonl").read_text()
    assert_weights(parts, tmp_path / "run", 3, moved=any(row["groups_kept"] for row in rows))


def broken_in(monkeypatch, *steps):
    """An infinite advantage in some of the steps, counted from 1."""
    whole, count = loop.assemble, iter(range(1, 99))

    def assemble(*args):
        packed, advantage, kept = whole(*args)
        assert packed.token_count.any()  # there is an update to break
        if next(count) in steps:
            packed = dataclasses.replace(packed, advantage=np.full_like(packed.advantage, np.inf))
        return packed, advantage, kept

    monkeypatch.setattr(loop, "assemble", assemble)


def test_after_three_steps_without_a_finite_gradient_the_command_ends_with_its_code(
    parts, tmp_path, monkeypatch, capsys
):
    broken_in(monkeypatch, 1, 2, 3)
    monkeypatch.setattr(train.startup, "prepare", lambda config: (parts, metrics.Console(3)))
    with pytest.raises(SystemExit) as ended:
        train.train(ml_collections.ConfigDict(parts.plan.config.to_dict()), tmp_path / "run")
    assert ended.value.code == cli.EXIT_DIVERGED == 3
    *_, last = capsys.readouterr().err.splitlines()
    assert last.startswith("error: 3 steps in a row had a gradient, or moments of the optimizer")
    rows = processes.rows(tmp_path / "run")
    assert [row["updates_skipped"] for row in rows] == [2, 2]  # of two epochs; the third ended it
    assert [row["grad_norm"] for row in rows] == [None, None]
    assert_weights(parts, tmp_path / "run", 2, moved=False)


def test_two_such_steps_and_a_good_one_are_no_reason_to_end(parts, tmp_path, monkeypatch):
    broken_in(monkeypatch, 1, 2)
    rows = run(parts, tmp_path / "run")
    assert [row["updates_applied"] for row in rows] == [0, 0, 2]
    assert_weights(parts, tmp_path / "run", 3, moved=True)
