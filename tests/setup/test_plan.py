"""Settings of a budget that cannot be are refused in one line."""

import pytest

from dars_jax.config import defaults
from dars_jax.setup import build, plan
from dars_jax.tpu import cost


def validate(**changes):
    config = defaults().unlock()
    config.update_from_flattened_dict({f"rollout.{k}": v for k, v in changes.items()})
    return plan.validate(config, 1)


def test_a_budget_brings_the_barrier_to_training_and_not_to_evaluation():
    made = validate(schedule="hora", budget=4.0, n_max=32)
    assert made.rollout.barrier and made.rollout.budget == 4.0
    assert not made.evaluation.barrier and made.evaluation.budget == 0
    assert not validate(schedule="hw", n_max=32).rollout.barrier


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"schedule": "hora"}, "rollout.schedule = 'hora' shares a budget out: set rollout.budget"),
        ({"budget": 4.0}, "rollout.budget = 4.0 needs a rollout.schedule"),
        ({"schedule": "hw", "budget": 4.0, "num_stages": 1}, "rollout.num_stages above 1"),
        ({"schedule": "hw", "budget": -1.0}, "rollout.budget must be 0 or more, got -1.0"),
        ({"schedule": "gvm", "budget": 4.0, "n_max": 200}, "groups of at most 128"),
        ({"schedule": "greedy"}, "rollout.schedule is 'greedy': expected one of none, et, hw"),
    ],
)
def test_a_budget_that_cannot_be_is_refused(changes, words):
    with pytest.raises(ValueError, match=words):
        validate(**changes)


def test_the_cost_of_a_step_counts_the_budget():
    made = validate(schedule="gvm", budget=5.0, n_max=32)
    assert cost.expected_rollouts(made) == 13
    assert cost.expected_rollouts(validate(schedule="gvm", budget=99.0, n_max=32)) == 32


@pytest.mark.parametrize(("key", "value"), [("top_p", 0.9), ("top_k", 20)])
def test_filters_are_refused_in_training_and_taken_in_evaluation(key, value):
    config = defaults().unlock()
    config.eval[key] = value
    made = plan.validate(config, 1)
    assert getattr(made.evaluation.sampling, key) == value
    assert getattr(made.rollout.sampling, key) in (0, 1)
    assert plan.decode_config(made, (0,)).filters
    config.rollout[key] = value
    with pytest.raises(ValueError, match=rf"rollout\.{key} = {value} .*evaluation has eval\.{key}"):
        plan.validate(config, 1)


def test_the_loss_takes_the_temperature_of_the_rollouts():
    config = defaults().unlock()
    config.rollout.temperature, config.eval.temperature = 0.7, 0.2
    made = plan.validate(config, 1)
    assert made.update.loss.temperature == made.rollout.sampling.temperature == 0.7


def test_caps_and_limits_are_the_published_and_measured_ones_unless_set():
    config = defaults().unlock()
    for kind, cap in (("truncate", 2), ("token_mask", 5), ("sequence_mask", 3)):
        config.objective.correction = kind
        assert plan.validate(config, 1).update.loss.correction_cap == cap
    config.objective.correction_cap, config.learner.gap_limit = 1.5, 0.2
    made = plan.validate(config, 1).update
    assert (made.loss.correction_cap, made.gap_limit) == (1.5, 0.2)
    config.learner.gap_limit, config.policy.dtype = 0.0, "bfloat16"
    assert plan.validate(config, 1).update.gap_limit == 0.02
    config.policy.architecture = "qwen2.5-math-1.5b"
    assert plan.validate(config, 1).update.gap_limit == 0.2


@pytest.mark.parametrize("value", [float("inf"), float("nan")])
def test_a_learning_rate_that_is_no_number_is_refused(value):
    config = defaults().unlock()
    config.optimizer.learning_rate = value
    with pytest.raises(ValueError, match=f"optimizer.learning_rate must be .*, got {value}"):
        plan.validate(config, 1)


def test_advantages_that_are_of_an_accuracy_refuse_a_sum_of_rewards():
    config = defaults().unlock()
    config.reward.name = "math + 0.2 * dars_jax.tasks.word_problems:check"
    for advantage in ("mean", "std"):
        config.objective.advantage = advantage
        with build.make_grader(plan.validate(config, 1)) as grader:
            assert grader.parts == ("math", "dars_jax.tasks.word_problems:check")
    config.objective.advantage = "maxrl"
    with pytest.raises(ValueError, match=r"is a sum, of which objective\.advantage = 'maxrl'"):
        build.make_grader(plan.validate(config, 1))


def test_moments_reach_the_optimizer_and_others_are_refused():
    config = defaults().unlock()
    config.optimizer.moments = "factored"
    assert plan.validate(config, 1).optimizer.moments == "factored"
    config.optimizer.moments = "int8"
    with pytest.raises(ValueError, match=r"moments is 'int8': expected one of float32, b"):
        plan.validate(config, 1)
