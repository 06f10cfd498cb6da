"""The embedded base policy: as many supervised steps as the configuration says, then kept."""

import pytest

from dars_jax.config import defaults
from dars_jax.policy.weights import read_config
from dars_jax.setup import build, plan


def policy_of(steps):
    """(directory, what was logged)."""
    config = defaults().unlock()
    config.policy.warmup_steps = steps
    logged = []
    return build.policy_directory(build.make_plan(config), logged.append), logged


@pytest.fixture(scope="module")
def taught(tmp_path_factory):
    """The policy of 51 steps, in a cache of its own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DARS_JAX_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield policy_of(51)


def test_a_policy_that_is_there_is_not_trained_again(taught):
    path, logged = taught
    assert len(logged) == 1 and "step 50 of 51" in logged[0]
    assert policy_of(51) == (path, [])


def test_the_number_of_steps_decides_which_policy_it_is(taught):
    (one, _), (two, _) = taught, policy_of(52)
    assert one != two and read_config(one) == read_config(two)
    first, second = ((path / "model.safetensors").read_bytes() for path in (one, two))
    assert len(first) == len(second) and first != second


def test_too_few_steps_are_refused_in_one_line():
    config = defaults().unlock()
    config.policy.warmup_steps = 50
    with pytest.raises(ValueError, match=r"policy\.warmup_steps must be above 50, .* got 50"):
        plan.validate(config, 1)
