"""Rollouts without a reward: in no accuracy, in no group, and never a zero."""

import jax.numpy as jnp
import numpy as np
import pytest
from rollouts import CONFIG, COUNT, EOS, make_prompts

from dars_jax.allocator import top_up
from dars_jax.engine.programs import Programs
from dars_jax.engine.session import Session
from dars_jax.engine.state import DecodeConfig
from dars_jax.policy import sharding
from dars_jax.records.metrics import rollout_metrics
from dars_jax.rewards import FunctionGrader, GradingError, SumGrader, Verdict
from dars_jax.rollout import stages


@pytest.fixture(scope="module")
def session(tiny):
    config = DecodeConfig(slots=32, prefixes=16, requests=COUNT * 12, prompt_tokens=10,
                          response_tokens=12, eos_ids=EOS, filters=False,
                          dtype=jnp.dtype("float32"))  # fmt: skip
    programs = Programs(config, tiny.config, sharding.make_mesh(1, 1, 1))
    params = programs.publish(tiny.params)
    return lambda: Session(programs, params, 4)


def collect(session, reward):
    text_of = lambda ids: " ".join(map(str, ids))  # noqa: E731
    grader = reward if isinstance(reward, SumGrader) else FunctionGrader(reward)
    return stages.collect(make_prompts(), session(), grader, text_of, EOS, CONFIG, seed=0, step=3)[
        0
    ]


def total(response):
    return sum(map(int, response.split()))


def test_top_ups_follow_the_accuracy_of_those_that_were_judged(session):
    got = collect(session, lambda r, a: None if total(r) % 3 == 0 else total(r) % 2)
    outside = got.verdict == Verdict.LEFT_OUT
    first = got.stage == 0
    assert outside[first].any()
    per_prompt = lambda mask: np.bincount(got.prompt[mask], minlength=COUNT)  # noqa: E731
    n, k = per_prompt(first & ~outside), per_prompt(first & (got.verdict == Verdict.CORRECT))
    asked = np.zeros(COUNT, int)
    asked[n > 0] = top_up(k[n > 0], n[n > 0], schedule="hw", n_max=12, round_size=4)
    np.testing.assert_array_equal(per_prompt(~first), np.minimum(asked, 12 - 4))


def test_what_goes_on_to_the_update_has_rewards_only(session):
    got = collect(session, lambda r, a: None if total(r) % 3 == 0 else 0.25)
    kept = stages.judged(got)
    assert 0 < len(kept) < len(got)
    assert set(kept.reward) == {np.float32(0.25)}
    assert len(kept) == np.sum(got.verdict != Verdict.LEFT_OUT)


def test_the_rewards_of_a_sum_are_kept_apart_and_logged_apart(session):
    odd, short = (lambda r, a: total(r) % 2), (lambda r, a: len(r) < 20)
    reward = SumGrader([1, 0.5], ["odd", "short"], [FunctionGrader(odd), FunctionGrader(short)])
    got = collect(session, reward)
    np.testing.assert_array_equal(got.reward, got.parts @ np.array([1, 0.5], np.float32))
    np.testing.assert_array_equal(got.verdict == Verdict.CORRECT, got.parts[:, 0] == 1)
    kept = np.ones(COUNT, bool)
    values = rollout_metrics(got, kept, np.zeros(len(got)), got.verdict, reward.parts)
    assert (values["reward/odd"], values["reward/short"]) == tuple(got.parts.mean(0))
    assert 0 < values["reward/short"] < 1


def test_a_step_without_any_reward_is_an_error(session):
    with pytest.raises(GradingError, match="left out all"):
        stages.judged(collect(session, lambda r, a: None))


def test_a_failure_ends_the_collection(session):
    with pytest.raises(GradingError, match=r"it raised ZeroDivisionError: .*row \d+, response"):
        collect(session, lambda r, a: 1 / 0)
