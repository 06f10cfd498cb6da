"""tunix's own GRPOLearner with our allocator, if it is installed: two steps of the example."""

import runpy
from pathlib import Path

import jax
import numpy as np
import pytest

from dars_jax.allocator import top_up

pytest.importorskip("tunix", reason="pip install google-tunix==0.1.7")
nnx = pytest.importorskip("flax.nnx", reason="a part of flax")

EXAMPLE = Path(__file__).resolve().parents[2] / "docs" / "embedding" / "tunix_dars.py"
PRE_ROLLOUTS, LONGEST = 32, 3


@pytest.fixture(scope="module")
def run():
    """(learner after two steps, parameters before them)."""
    example = runpy.run_path(str(EXAMPLE))
    learner = example["make_learner"](2)
    before = parameters(learner)
    learner.train([{"prompts": example["PROMPTS"]}] * 2)
    return learner, before


def parameters(learner):
    model = learner.rl_cluster.actor_trainer.model
    return [np.array(leaf) for leaf in jax.tree.leaves(nnx.state(model, nnx.Param))]


def test_hard_prompts_get_what_the_allocator_says(run):
    for _, correct, more, prompt, _, _ in run[0].steps:
        assert more.tolist() == top_up(correct, 8, schedule="hw", n_max=32).tolist()
        assert np.bincount(prompt[prompt >= 0]).tolist() == (8 + more).tolist()
        assert more[np.argmin(correct)] == more.max()
    assert run[0].steps[0][2].max() > 0


def test_advantages_sum_to_nothing_over_every_ragged_group(run):
    for _, _, _, prompt, advantages, _ in run[0].steps:
        assert np.abs(advantages).max() > 0.1
        assert not advantages[prompt < 0].any()
        real = prompt >= 0
        np.testing.assert_allclose(np.bincount(prompt[real], advantages[real]), 0, atol=1e-5)


def test_the_loss_is_a_sum_over_rollouts(run):
    learner, _ = run
    history = learner.rl_cluster.actor_trainer.metrics_logger
    losses = history.get_metric_history("actor", "loss", "train")
    wanted = [
        -np.sum(advantages * lengths) / (PRE_ROLLOUTS * LONGEST)
        for _, _, _, _, advantages, lengths in learner.steps
    ]
    assert np.abs(wanted).max() > 1e-3
    np.testing.assert_allclose(losses, wanted, atol=1e-6)


def test_every_sampling_draws_noise_of_its_own(run):
    # by default tunix draws the same for each call, and a prompt's accuracy never changes
    (_, first, *_), (_, second, *_) = run[0].steps
    assert first.tolist() != second.tolist()


def test_the_policy_moves(run):
    learner, before = run
    pairs = zip(before, parameters(learner), strict=True)
    assert any(not np.array_equal(old, new) for old, new in pairs)
