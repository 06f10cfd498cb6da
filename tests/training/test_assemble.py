"""From graded rollouts to advantages: what the settings of the objective change."""

import types

import numpy as np
import pytest

from dars_jax import objective
from dars_jax.config import defaults
from dars_jax.policy.sharding import make_mesh
from dars_jax.rewards import Verdict
from dars_jax.setup import plan
from dars_jax.training.assemble import assemble
from dars_jax.types import Prompts, Ragged, Rollouts

SIZES = [8, 8, 8, 5]
RIGHT = [0, 2, 7, 1]


def assembled(count=4, rewards=(0.0, 1.0), correct_at=0.5, **settings):
    """(batch, advantage) of four groups, one without a right rollout and one with fewer rollouts.

    Every third answer is as long as can be and truncated, every other has three tokens.

    Args:
      count: rollout.num_prompts.
      rewards: of a wrong and of a right answer.
      correct_at: from which reward on the grader calls an answer correct.
    """
    config = defaults().unlock()
    config.rollout.num_prompts = count
    config.update_from_flattened_dict({f"objective.{k}": v for k, v in settings.items()})
    prompts = Prompts(
        tokens=tuple(np.array([i + 1], np.int32) for i in range(4)), uid=np.arange(4),
        answer=(("1",),) * 4,
    )  # fmt: skip
    n, width = sum(SIZES), config.rollout.max_tokens
    sample = np.concatenate([np.arange(s) for s in SIZES]).astype(np.int32)
    prompt = np.repeat(np.arange(4), SIZES).astype(np.int32)
    reward = np.where(sample < np.array(RIGHT)[prompt], *rewards[::-1]).astype(np.float32)
    length = np.where(sample % 3 == 2, width, 3).astype(np.int32)
    rollouts = Rollouts(
        prompt=prompt, sample=sample, stage=np.zeros(n, np.int32),
        tokens=Ragged.of_rows(np.ones((n, width), np.int32), length),
        logprob=Ragged.of_rows(np.zeros((n, width), np.float32), length),
        length=length, truncated=sample % 3 == 2,
        reward=reward,
        verdict=np.where(reward >= correct_at, Verdict.CORRECT, Verdict.WRONG).astype(np.int8),
    )  # fmt: skip
    parts = types.SimpleNamespace(plan=plan.validate(config, 1), mesh=make_mesh(1, 1, 1))
    batch, advantage, _ = assemble(parts, prompts, rollouts)
    trained = np.unique(batch.advantage[batch.weight > 0])
    kept = np.isin(prompt, [1, 2, 3])
    if settings.get("overlong") == "mask":
        kept &= ~rollouts.truncated
    np.testing.assert_allclose(trained, np.unique(advantage[kept]), rtol=1e-6)
    assert batch.token_count.sum() == rollouts.length[kept].sum() == (batch.weight > 0).sum()
    return batch, advantage


def advantages(**settings):
    return assembled(**settings)[1]


def test_every_advantage_and_its_setting_is_another_update():
    settings = [{"advantage": name} for name in objective.ADVANTAGES]
    settings += [{"advantage": name, "k": 2} for name in objective.OF_K]
    settings += [{"advantage": name, "beta": 8.0} for name in objective.OF_BETA]
    found = np.stack([advantages(**s) for s in settings])
    for i in range(len(found)):
        for j in range(i):
            assert not np.allclose(found[i], found[j]), (settings[i], settings[j])


def test_a_masked_answer_is_in_its_group_and_not_in_the_loss():
    (batch, advantage), (as_is, same) = assembled(overlong="mask"), assembled()
    np.testing.assert_array_equal(advantage, same)
    assert batch.token_count < as_is.token_count
    assert batch.weight.max() > as_is.weight.max()  # as if the others were all


@pytest.mark.parametrize("advantage", objective.OF_K)
def test_what_pass_at_k_counts_is_what_the_grader_calls_correct(advantage):
    rewards, plain = (0.55, 0.75), advantages(advantage=advantage, k=2)
    fractional = advantages(rewards=rewards, correct_at=0.7, advantage=advantage, k=2)
    np.testing.assert_array_equal(fractional, plain)
    assert plain.any()


def test_more_prompts_than_a_step_has_are_refused():
    with pytest.raises(ValueError, match=r"4 prompts, but rollout.num_prompts = 3: raise it"):
        assembled(count=3)


def test_a_soft_penalty_lowers_long_answers_and_makes_no_signal():
    soft, plain = advantages(overlong="soft", overlong_buffer=4), advantages()
    lower = np.where(np.arange(8) % 3 == 2, -1.0, 0.0)
    np.testing.assert_allclose(soft[8:16], plain[8:16] + lower - lower.mean(), atol=1e-6)
    got = objective.overlong_penalty([1, 6, 7, 8, 9, 10], max_length=10, buffer=4)
    np.testing.assert_array_equal(got, [0, 0, -0.25, -0.5, -0.75, -1])


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"advantage": "pkpo", "k": 9}, "objective.k = 9 must lie between 2 and rollout.n_pre = 8"),
        ({"advantage": "passk", "k": 1}, "objective.k = 1"),
        (
            {"overlong": "soft", "overlong_buffer": 9},
            "objective.overlong_buffer = 9 must lie between 1 and rollout.max_tokens = 8",
        ),
        (
            {"overlong": "soft", "overlong_buffer": 2, "advantage": "maxrl"},
            "makes rewards negative, which objective.advantage = 'maxrl' cannot take",
        ),
        ({"overlong": "drop"}, "objective.overlong is 'drop': expected one of keep, mask, soft"),
        ({"surrogate": "ppo"}, "objective.surrogate is 'ppo': expected one of clip, gspo, cispo"),
        ({"correction": "tis"}, "objective.correction is 'tis': expected one of none, truncate"),
        ({"correction_cap": 0.5}, "objective.correction_cap must be at least 1"),
        ({"correction_low": 1.0}, "objective.correction_low must lie in"),
        ({"entropy_target": -1.0}, "objective.entropy_target must be 0 or more, got -1.0"),
        ({"beta": 0.0}, "objective.beta must be above 0, got 0.0"),
        (
            {"advantage": "median"},
            "objective.advantage is 'median': expected one of",
        ),
    ],
)
def test_what_the_objective_cannot_be_is_refused(settings, words):
    with pytest.raises(ValueError, match=words):
        advantages(**settings)
