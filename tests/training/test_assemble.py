"""From graded rollouts to advantages: what the settings of the objective change."""

import types

import numpy as np
import pytest

from dars_jax import objective
from dars_jax.config import defaults
from dars_jax.setup import plan
from dars_jax.training.assemble import assemble
from dars_jax.types import Prompts, Rollouts

SIZES = [8, 8, 8, 5]
RIGHT = [0, 2, 7, 1]


def advantages(**settings):
    """Of four groups, one of which has no right rollout and one fewer rollouts."""
    config = defaults().unlock()
    config.rollout.num_prompts = 4
    config.update_from_flattened_dict({f"objective.{k}": v for k, v in settings.items()})
    prompts = Prompts(
        tokens=tuple(np.array([i + 1], np.int32) for i in range(4)), uid=np.arange(4),
        answer=(("1",),) * 4,
    )  # fmt: skip
    n, width = sum(SIZES), config.rollout.max_tokens
    sample = np.concatenate([np.arange(s) for s in SIZES]).astype(np.int32)
    prompt = np.repeat(np.arange(4), SIZES).astype(np.int32)
    rollouts = Rollouts(
        prompt=prompt, sample=sample, stage=np.zeros(n, np.int32),
        tokens=np.ones((n, width), np.int32), logprob=np.zeros((n, width), np.float32),
        length=np.full(n, 3, np.int32), truncated=np.zeros(n, bool),
        reward=(sample < np.array(RIGHT)[prompt]).astype(np.float32), verdict=np.zeros(n, np.int8),
    )  # fmt: skip
    parts = types.SimpleNamespace(plan=plan.validate(config, 1))
    batch, advantage, _ = assemble(parts, prompts, rollouts)
    trained = np.unique(batch.advantage[batch.weight > 0])
    kept = advantage[np.isin(prompt, [1, 2, 3])]
    np.testing.assert_allclose(trained, np.unique(kept), rtol=1e-6)
    return advantage


def test_every_advantage_and_its_setting_is_another_update():
    settings = [{"advantage": name} for name in objective.ADVANTAGES]
    settings += [{"advantage": name, "k": 2} for name in objective.OF_K]
    settings += [{"advantage": name, "beta": 8.0} for name in objective.OF_BETA]
    found = np.stack([advantages(**s) for s in settings])
    for i in range(len(found)):
        for j in range(i):
            assert not np.allclose(found[i], found[j]), (settings[i], settings[j])


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"advantage": "pkpo", "k": 9}, "objective.k = 9 must lie between 2 and rollout.n_pre = 8"),
        ({"advantage": "passk", "k": 1}, "objective.k = 1"),
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
