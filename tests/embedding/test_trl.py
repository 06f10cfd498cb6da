"""TRL's own GRPOTrainer with our allocator, if it is installed: two steps of the example."""

import runpy
from pathlib import Path

import numpy as np
import pytest

from dars_jax.allocator import top_up

pytest.importorskip("trl", reason="pip install trl==1.16.0")
torch = pytest.importorskip("torch", reason="pip install torch")

EXAMPLE = Path(__file__).resolve().parents[2] / "docs" / "embedding" / "trl_dars.py"
PRE_ROLLOUTS, LONGEST = 32, 3


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """(trainer after two steps, parameters before them)."""
    example = runpy.run_path(str(EXAMPLE))
    trainer = example["make_trainer"](2, str(tmp_path_factory.mktemp("trl")))
    before = [p.detach().clone() for p in trainer.model.parameters()]
    trainer.train()
    return trainer, before


def test_hard_prompts_get_what_the_allocator_says(run):
    for _, correct, more, prompt, _, _ in run[0].steps:
        assert more.tolist() == top_up(correct, 8, schedule="hw", n_max=32).tolist()
        assert np.bincount(prompt).tolist() == (8 + more).tolist()
        assert more[np.argmin(correct)] == more.max()
    assert run[0].steps[0][2].max() > 0


def test_advantages_sum_to_nothing_over_every_ragged_group(run):
    for _, _, _, prompt, advantages, _ in run[0].steps:
        assert np.abs(advantages).max() > 0.1
        np.testing.assert_allclose(np.bincount(prompt, advantages), 0, atol=1e-5)


def test_the_loss_is_a_sum_over_rollouts(run):
    trainer, _ = run
    losses = [log["loss"] for log in trainer.state.log_history if "loss" in log]
    wanted = [
        -np.sum(advantages * lengths) / (PRE_ROLLOUTS * LONGEST)
        for _, _, _, _, advantages, lengths in trainer.steps
    ]
    assert np.abs(wanted).max() > 1e-3
    np.testing.assert_allclose(losses, wanted, atol=1e-6)


def test_the_policy_moves(run):
    trainer, before = run
    after = list(trainer.model.parameters())
    assert any(not torch.equal(old, new) for old, new in zip(before, after, strict=True))
