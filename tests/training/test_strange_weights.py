"""An engine that serves other weights than those that learn ends the run before the update."""

import dataclasses
import json

import jax
import ml_collections
import numpy as np
import pytest
from small_runs import but, make_config

from dars_jax.commands import cli, train
from dars_jax.config import flatten
from dars_jax.records import checkpoint, metrics
from dars_jax.records.checkpoint import Checkpoints
from dars_jax.setup import build
from dars_jax.training import loop
from dars_jax.training.stop import UsualGap

pytestmark = pytest.mark.usefixtures("base_policy")


@pytest.fixture(scope="module")
def parts(prompt_files):
    config = make_config(prompt_files, checkpoint__every=100, eval__num_samples=1)
    return build.make_parts(build.make_plan(config), print)


class Published:
    """An engine that answers a publication, from the second on, with what `wrong` makes of it."""

    def __init__(self, engine, wrong):
        self._engine, self._wrong, self._before = engine, wrong, None
        self.open_session = engine.open_session

    def load_params(self, params):
        now = self._engine.load_params(params)
        before, self._before = self._before, now
        return now if before is None else self._wrong(before, now)


def stale(before, now):
    return before


def shuffled(before, now):
    return {**now, "layers": jax.tree.map(lambda x: x[::-1], now["layers"])}


def half_published(before, now):
    pairs = zip(*map(jax.tree.leaves, (before, now)), strict=True)
    return jax.tree.unflatten(jax.tree.structure(now), [x[i % 2] for i, x in enumerate(pairs)])


def run(parts, workdir, steps, **changes):
    parts = but(parts, train__num_steps=steps, **changes)
    workdir.mkdir(exist_ok=True)
    with build.make_grader(parts.plan) as grader:
        loop.Trainer(parts, grader, workdir, metrics.Console(steps)).run()


def state_of(parts, workdir, step):
    checkpoints = Checkpoints(workdir / "checkpoints", flatten(parts.plan.config), 2)
    assert checkpoints.latest() == step
    state = checkpoints.restore(step, build.initial_state(parts), parts.shardings)
    checkpoints.close()
    return jax.tree.leaves(state)


@pytest.fixture(scope="module")
def healthy(parts, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("healthy")
    run(parts, workdir, 1)
    return state_of(parts, workdir, 1)


@pytest.mark.parametrize("wrong", [stale, shuffled, half_published])
def test_the_step_that_meets_wrong_weights_is_not_taken(parts, healthy, wrong, tmp_path):
    with jax.transfer_guard("allow"), pytest.raises(loop.StrangeWeightsError) as caught:
        broken = dataclasses.replace(parts, engine=Published(parts.engine, wrong))
        run(broken, tmp_path, 4)
    assert "in step 2 " in str(caught.value) and "learner.gap_limit = 0.001" in str(caught.value)
    for got, want in zip(state_of(parts, tmp_path, 1), healthy, strict=True):
        np.testing.assert_array_equal(got, want)
    rows = [json.loads(x) for x in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    gaps = [row["logprob_gap"] for row in rows]
    assert gaps[0] < 1e-5 < 1e-3 < gaps[1]
    assert not (tmp_path / "journal" / "step_000001").exists()  # nor are its rollouts kept
    run(parts, tmp_path, 2)  # with an engine that is well again


class PublishedOnce(Published):
    """Wrong from the fourth publication on: three steps are as they should be."""

    count = 0

    def load_params(self, params):
        self.count += 1
        now = super().load_params(params)
        return now if self.count >= 4 else self._before


@pytest.mark.parametrize("wrong", [stale, shuffled, half_published])
def test_a_gap_far_above_the_usual_ends_the_run_where_the_limit_is_high(parts, wrong, tmp_path):
    def blind(state, batch, initial):
        state, outcome = parts.update(state, batch, initial)
        return state, outcome | {"strange": outcome["strange"] - outcome["strange"]}

    broken = dataclasses.replace(parts, engine=PublishedOnce(parts.engine, wrong), update=blind)
    with jax.transfer_guard("allow"), pytest.raises(loop.StrangeWeightsError) as caught:
        run(broken, tmp_path, 6, checkpoint__every=2)
    assert "in step 4 " in str(caught.value) and "5 times what was usual" in str(caught.value)
    assert checkpoint.finished(tmp_path / "checkpoints") == [2]
    assert not (tmp_path / "journal" / "step_000003").exists()
    assert (tmp_path / "journal" / "step_000002").exists()  # which was as it should be


def test_the_usual_gap_may_grow_slowly_and_is_of_the_last_steps():
    usual = UsualGap(1e-3)
    for step, gap in enumerate([0.03, 0.09, 0.004, *(0.01 * 1.1**i for i in range(60))]):
        usual.check(step, gap)
    with pytest.raises(loop.StrangeWeightsError):
        usual.check(99, 0.01 * 1.1**60 * 10)
    exact = UsualGap(1e-3)
    for step, gap in enumerate([2e-7, 1e-7, 3e-7, 9e-4, 0.0]):
        exact.check(step, gap)


def test_the_command_ends_with_a_code_of_its_own(parts, tmp_path, monkeypatch, capsys):
    def strange(self):
        raise loop.StrangeWeightsError(7, 0.25, 0.05, object())

    monkeypatch.setattr(loop.Trainer, "run", strange)
    monkeypatch.setattr(train.startup, "prepare", lambda config: (parts, metrics.Console(1)))
    with pytest.raises(SystemExit) as ended:
        train.train(ml_collections.ConfigDict(parts.plan.config.to_dict()), tmp_path)
    assert ended.value.code == cli.EXIT_STRANGE_WEIGHTS == 6
    error = capsys.readouterr().err
    assert "0.25 nats" in error and "above learner.gap_limit = 0.05" in error
