"""Which differences between a stored configuration and the present one matter."""

from dars_jax.config import defaults, differences, flatten


def settings(**changes):
    return flatten(defaults()) | {k.replace("__", "."): v for k, v in changes.items()}


def test_a_free_setting_may_change_and_another_is_named():
    assert differences(settings(), settings(train__num_steps=7)) == []
    (said,) = differences(settings(seed=1), settings(seed=2))
    assert said == "seed: 1 before, 2 now"


def test_a_run_from_before_a_setting_had_the_value_that_it_has_for_old_runs():
    old = settings()
    del old["policy.warmup_steps"]
    (said,) = differences(old, settings())
    assert said == "policy.warmup_steps: 300 before, 100 now"
    assert differences(old, settings(policy__warmup_steps=300)) == []


def test_a_run_goes_on_with_the_moments_that_it_has():
    old = settings()
    del old["optimizer.moments"]
    assert differences(old, settings()) == []
    (said,) = differences(old, settings(optimizer__moments="factored"))
    assert said == "optimizer.moments: 'float32' before, 'factored' now"


def test_how_the_embedded_policy_was_made_is_nothing_to_another_one():
    mine = {"policy__path": "/models/mine"}
    old = settings(**mine)
    del old["policy.warmup_steps"]
    assert differences(old, settings(**mine)) == []
    assert differences(old, settings(**mine, policy__warmup_steps=7)) == []


def test_contents_decide_and_not_the_names_of_files():
    old = settings(data__train="/a/x.jsonl") | {"data.train.content": "1"}
    assert differences(old, settings(data__train="/b/x.jsonl") | {"data.train.content": "1"}) == []
    (said,) = differences(old, settings(data__train="/a/x.jsonl") | {"data.train.content": "2"})
    assert said == "data.train: the contents of '/a/x.jsonl' have changed"
    (said,) = differences(old, settings(data__train="/b/x.jsonl") | {"data.train.content": "2"})
    assert said == "data.train: '/b/x.jsonl' holds other contents than '/a/x.jsonl' did"


def test_where_contents_were_not_noted_names_decide():
    old = settings(data__train="/a/x.jsonl")
    new = {"data.train.content": "1"}
    assert differences(old, settings(data__train="/a/x.jsonl") | new) == []
    (said,) = differences(old, settings(data__train="/b/x.jsonl") | new)
    assert said == "data.train: '/a/x.jsonl' before, '/b/x.jsonl' now"


def test_a_reward_is_known_by_its_old_name():
    old = settings(reward__name="dars_jax.countdown:check")
    assert differences(old, settings()) == []
    assert differences(old, settings(reward__name="dars_jax.tasks.word_problems:check"))


def test_division_by_the_standard_deviation_is_known_by_its_old_name():
    old = settings()
    del old["objective.advantage"]
    assert differences(old | {"learner.use_std": False}, settings()) == []
    assert differences(old | {"learner.use_std": True}, settings(objective__advantage="std")) == []
    (said,) = differences(old | {"learner.use_std": True}, settings())
    assert said == "objective.advantage: 'std' before, 'mean' now"


def test_a_run_from_before_k_and_beta_goes_on():
    old = settings()
    del old["objective.k"], old["objective.beta"]
    assert differences(old, settings()) == []
