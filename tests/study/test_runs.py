"""A working directory read as arrays."""

import made_up_runs
import numpy as np
import pytest

from dars_jax.study import runs


@pytest.fixture
def workdir(tmp_path):
    correct = {0: [0, 4, 8], 2: [2, 4, 8], 4: [8, 8, 8]}
    return made_up_runs.write(tmp_path / "run", correct)


def test_what_was_spent_and_reached_at_each_evaluation(workdir):
    run = runs.read(workdir)
    assert run.spent("prompts").tolist() == [0, 20, 40]
    assert run.spent("rollouts").tolist() == [0, 160, 320]
    assert run.spent("tokens").tolist() == [0, 480, 960]
    want = [[0, 0.5, 1], [0.25, 0.5, 1], [1, 1, 1]]
    np.testing.assert_allclose(run.pass_at(1), want)
    # one of two answers right, two of eight being so: 1 - 6/8 * 5/7
    assert run.pass_at(2)[1, 0] == pytest.approx(1 - 30 / 56)


def test_between_two_evaluations_the_line_is_straight(workdir):
    run = runs.read(workdir)
    for axis, amount, want in (
        ("rollouts", 160, [0.25, 0.5, 1]),
        ("rollouts", 200, [0.4375, 0.625, 1]),
        ("prompts", 0, [0, 0.5, 1]),
    ):
        np.testing.assert_allclose(run.at(axis, amount, 1), want)
    assert run.reached("rollouts", 320) and not run.reached("rollouts", 321)


def test_the_step_that_spends_an_amount(workdir):
    run = runs.read(workdir)
    assert [run.step_at("prompts", n) for n in (1, 10, 11, 40, 99)] == [1, 1, 2, 4, 4]


def test_a_metric_that_a_step_lacks_is_not_a_number(tmp_path):
    run = runs.read(made_up_runs.write(tmp_path / "run", {0: [1], 2: [2]}, entropy=None))
    assert np.isnan(run.column("entropy")).all()


def test_a_compacted_run_says_the_same_and_keeps_first_and_last_answers(workdir):
    before = runs.read(workdir)
    runs.compact(workdir)
    kept = sorted(p.name for p in (workdir / "eval").glob("*.jsonl"))
    assert kept == ["step_000000.jsonl", "step_000004.jsonl"]
    runs.compact(workdir)  # twice is once
    after = runs.read(workdir)
    assert after.correct.tolist() == before.correct.tolist()
    assert after.num_samples == before.num_samples


def test_an_evaluation_of_a_step_that_was_undone_does_not_count(tmp_path):
    # stopped and continued from an earlier checkpoint: metrics end at step 3
    run = runs.read(made_up_runs.write(tmp_path / "r", {0: [1], 2: [2], 4: [3]}, steps=3))
    assert run.evaluated.tolist() == [0, 2]


@pytest.mark.parametrize(
    ("correct", "message"),
    [({0: [1]}, "1 evaluations so far"), ({0: [1, 2], 1: [1]}, "differ in size")],
)
def test_what_is_not_a_run_to_look_at_is_said_in_one_line(tmp_path, correct, message):
    made_up_runs.write(tmp_path / "run", correct, steps=1)
    with pytest.raises(ValueError, match=message):
        runs.read(tmp_path / "run")


def test_a_directory_without_a_run_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"holds no run of the trainer: config\.json is missing"):
        runs.read(tmp_path)
