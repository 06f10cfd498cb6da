"""Advantages of ragged groups and the weights of their tokens, against numpy in float64."""

from fractions import Fraction
from math import comb

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dars_jax import allocator, objective


def advantages(rewards, ids, num_groups, **settings):
    got = objective.group_advantages(
        jnp.asarray(rewards, jnp.float32), jnp.asarray(ids, jnp.int32), num_groups, **settings
    )
    assert got.dtype == jnp.float32
    return np.asarray(got)


WEIGHTS = {
    "mean": lambda r: 1.0,
    "std": lambda r: 1 / (r.std(ddof=1) + 1e-6),
    "rloo": lambda r: len(r) / (len(r) - 1),
    "maxrl": lambda r: 1 / r.mean() if r.any() else 0.0,
    "ada_est": lambda r: r.mean() ** -0.5 if r.any() else 0.0,
}
K, BETA = 4, 2.0  # the defaults


def pkpo(r):
    n, c = len(r), (r >= 0.5).sum()
    return np.where(r >= 0.5, comb(n - c, K - 1) / comb(n, K) if n >= K else 0, 0.0)


def passk(r):
    n, c = len(r), (r >= 0.5).sum()
    if n < K:
        return np.zeros(n)
    rho = 1 - comb(n - c, K) / comb(n, K)
    sigma = np.sqrt(rho * (1 - rho)) + 1e-6
    others = comb(n - c - 1, K - 1) / comb(n - 1, K - 1) if c < n else 0
    return np.where(r >= 0.5, (1 - rho) / sigma, (1 - rho - others) / sigma)


def rs_grpo(r):
    s = np.log(np.exp(BETA * r).mean()) / BETA
    return (np.exp(BETA * (r - s)) - 1) / BETA


def one_group(r, advantage):
    """Advantages of one group, by the published formula in float64."""
    if advantage in WEIGHTS:
        return (r - r.mean()) * WEIGHTS[advantage](r)
    return {"pkpo": pkpo, "passk": passk, "rs_grpo": rs_grpo}[advantage](r)


def numpy_advantages(rewards, ids, mask, advantage):
    out = np.zeros(len(rewards))
    for g in set(ids):
        mine = [i for i in range(len(ids)) if ids[i] == g and mask[i]]
        r = np.array([rewards[i] for i in mine], np.float64)
        if len(r) > 1:
            out[mine] = one_group(r, advantage)
    return out


def test_three_right_of_eight():
    rewards = [1, 0, 0, 1, 0, 1, 0, 0]
    want = [0.625 if r else -0.375 for r in rewards]
    np.testing.assert_allclose(advantages(rewards, [0] * 8, 1), want, atol=1e-7)
    # sample std sqrt(15/56) = 0.51755; the population one, 0.48412, would give 1.29099
    want = [1.2076123955 if r else -0.7245674374 for r in rewards]
    np.testing.assert_allclose(advantages(rewards, [0] * 8, 1, advantage="std"), want, rtol=2e-6)


def test_one_right_of_four():
    got = advantages([1, 0, 0, 0], [0] * 4, 1, advantage="std")
    np.testing.assert_allclose(got, [1.499997, -0.499999, -0.499999, -0.499999], rtol=1e-6)


def test_the_gradient_of_log_p_has_advantages_of_one_minus_a_over_a_and_minus_one():
    got = advantages([1, 0, 0, 0], [0] * 4, 1, advantage="maxrl")
    assert got.tolist() == [3, -1, -1, -1]
    got = advantages([1, 0, 0, 0], [0] * 4, 1, advantage="ada_est")
    assert got.tolist() == [1.5, -0.5, -0.5, -0.5]


def gradient(p, n, advantage, **settings):
    """Exact mean over all 2^n outcomes of sum A (r - p), p the accuracy, r - p the score.

    With p the logistic of the policy's one parameter, r - p is the gradient of a rollout's log
    probability, and p (1-p) that of p.
    """
    total = Fraction(0)
    for c in range(n + 1):
        rewards = [1] * c + [0] * (n - c)
        floats = advantages(rewards, [0] * n, 1, advantage=advantage, **settings)
        values = [Fraction(float(a)).limit_denominator(3000) for a in floats]
        chance = comb(n, c) * p**c * (1 - p) ** (n - c)
        total += chance * sum(a * (r - p) for a, r in zip(values, rewards, strict=True))
    return total / (p * (1 - p))


P = Fraction(2, 7)


@pytest.mark.parametrize("n", [2, 5])
def test_the_others_mean_as_baseline_is_unbiased_and_the_own_shrinks_by_one_in_n(n):
    assert gradient(P, n, "rloo") == n
    assert gradient(P, n, "mean") == n - 1


@pytest.mark.parametrize(("n", "k"), [(4, 1), (4, 2), (6, 4), (5, 5)])
def test_pkpo_is_unbiased_for_the_gradient_of_pass_at_k(n, k):
    assert gradient(P, n, "pkpo", k=k) == k * (1 - P) ** (k - 1)  # of 1 - (1-p)^k by p


@pytest.mark.parametrize("n", [2, 5])
def test_maxrl_is_unbiased_for_log_p_cut_off_after_as_many_terms_as_there_are_others(n):
    """log p = -sum over k of (1-p)^k / k, whose terms have the gradients (1-p)^(k-1)."""
    assert gradient(P, n, "maxrl") == n * sum((1 - P) ** (k - 1) for k in range(1, n))


def test_pass_at_k_training_by_hand():
    # 1 of 4 right, k = 2: rho = 1/2, sigma = 1/2; the wrong ones: 1/2 - C(2,1)/C(3,1) = -1/6
    got = advantages([1, 0, 0, 0], [0] * 4, 1, advantage="passk", k=2)
    np.testing.assert_allclose(got, [1, -1 / 3, -1 / 3, -1 / 3], rtol=1e-5)


def test_the_tilted_reward_goes_from_the_mean_to_log_p_as_beta_grows():
    call = lambda beta: advantages([1, 0, 0, 0], [0] * 4, 1, advantage="rs_grpo", beta=beta)  # noqa: E731
    np.testing.assert_allclose(call(1e-3), advantages([1, 0, 0, 0], [0] * 4, 1), atol=1e-3)
    np.testing.assert_allclose(50 * call(50.0), [3, -1, -1, -1], rtol=1e-5)  # as "maxrl"
    assert np.isfinite(call(1000.0)).all()  # exp(1000) is not


@pytest.mark.parametrize(
    ("advantage", "setting"), [("pkpo", "k"), ("passk", "k"), ("rs_grpo", "beta")]
)
def test_k_and_beta_have_a_part_where_they_should(advantage, setting):
    one, other = (
        advantages([1, 0, 0, 0, 0, 0], [0] * 6, 1, advantage=advantage, **{setting: value})
        for value in (2, 3)
    )
    assert not np.allclose(one, other)


@pytest.mark.parametrize("advantage", ["pkpo", "passk"])
def test_fewer_rollouts_than_k_say_nothing_about_pass_at_k(advantage):
    assert not advantages([1, 0, 0], [0, 0, 0], 1, advantage=advantage, k=4).any()


def test_an_unknown_advantage_is_refused():
    with pytest.raises(ValueError, match="'median'"):
        advantages([1, 0], [0, 0], 1, advantage="median")


@pytest.mark.parametrize("advantage", objective.ADVANTAGES)
def test_a_group_of_one_and_a_group_of_equals_get_zero(advantage):
    got = advantages([1, 1, 1, 1, 0, 0], [0, 1, 1, 1, 2, 2], 4, advantage=advantage)
    assert got.tolist() == [0.0] * 6


@pytest.mark.parametrize("advantage", objective.ADVANTAGES)
def test_equal_fractional_rewards_have_no_advantage_at_all(advantage):
    # rounded, the mean of 8 times 0.3 is another number, and "std" divides the difference by 1e-6
    values = np.repeat([0.3, 0.1, 0.7, 1 / 3, 0.9, 0.55, 0.0], [8, 7, 32, 8, 3, 24, 5])
    ids = np.repeat(np.arange(7), [8, 7, 32, 8, 3, 24, 5])
    assert not advantages(values, ids, 7, advantage=advantage).any()


@given(st.data(), st.sampled_from(objective.ADVANTAGES))
def test_ragged_groups_in_any_order_equal_a_loop_over_groups(data, advantage):
    size, groups = 24, 7  # one shape, one program
    draw = lambda values: data.draw(st.lists(values, min_size=size, max_size=size))  # noqa: E731
    ids, mask = np.array(draw(st.integers(0, groups - 1))), np.array(draw(st.booleans()))
    rewards = np.array(draw(st.integers(0, 8))) / 8  # so that a spread is 0 or far above rounding
    got = advantages(rewards, ids, groups, advantage=advantage, mask=mask)
    want = numpy_advantages(rewards, ids, mask, advantage)
    close = 1e-6 if advantage == "mean" else 2e-5
    np.testing.assert_allclose(got, want, atol=close)
    order = np.random.default_rng(0).permutation(size)
    again = advantages(rewards[order], ids[order], groups, advantage=advantage, mask=mask[order])
    np.testing.assert_allclose(again, got[order], atol=min(close, 1e-5))


def test_padding_counts_for_nothing_even_when_it_is_not_a_number():
    got = advantages([1, 0, np.nan, 9], [0, 0, 0, 0], 1, mask=jnp.array([True, True, False, False]))
    assert got.tolist() == [0.5, -0.5, 0, 0]


def test_only_groups_with_right_and_wrong_have_a_signal():
    rewards = jnp.array([0, 0, 0, 1, 1, 1, 0.5, 0.5, 0.2, 0.3, 1, 9])
    ids = jnp.array([0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5])
    mask = jnp.arange(12) < 11  # the 9 is padding; group 6 is empty
    got = objective.has_signal(rewards, ids, 7, mask)
    assert got.tolist() == [False, True, False, False, True, False, False]


@pytest.mark.parametrize("advantage", objective.ADVANTAGES)
def test_cumulative_advantage_is_the_sum_of_absolute_advantages(advantage):
    n, k = 8, np.arange(9)
    got = objective.cumulative_advantage(jnp.asarray(k), jnp.full(9, n), advantage=advantage)
    want = []
    for c in k:
        rewards = (np.arange(n) < c).astype(float)
        if advantage == "std":  # of the population, as in the paper
            want.append(np.abs(rewards - c / n).sum() / (rewards.std() or 1))
        else:
            want.append(np.abs(one_group(rewards, advantage)).sum())
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)


def test_hw_by_sampling_and_maxrl_by_weighting_ask_for_the_same_pull():
    k, n = jnp.arange(1, 4), 8  # below one half
    total = n + allocator.top_up(k, n, schedule="hw", n_max=1024)  # 32, 16, 11 of 10 2/3
    sampled = objective.cumulative_advantage(total * k / n, total)
    weighted = objective.cumulative_advantage(k, jnp.full(3, n), advantage="maxrl")
    np.testing.assert_allclose(2 * sampled[:2], weighted[:2], rtol=1e-6)
    total = n + allocator.top_up(k, n, schedule="hw_half", n_max=1024)
    half = objective.cumulative_advantage(total * k / n, total, advantage="ada_est")
    np.testing.assert_allclose(2**0.5 * half, weighted, rtol=0.09)  # rounded up


@pytest.mark.parametrize(
    ("aggregation", "want"),
    [
        ("dr_grpo", [1 / 30, 1 / 30, 0, 1 / 30]),  # 3 kept, 10 the longest possible
        ("token_mean", [1 / 12, 1 / 12, 0, 1 / 12]),  # 2 + 1 + 9 tokens
        ("sequence_mean", [1 / 6, 1 / 3, 0, 1 / 27]),
    ],
)
def test_token_weights(aggregation, want):
    lengths, kept = jnp.array([2, 1, 5, 9]), jnp.array([True, True, False, True])
    got = objective.token_weights(lengths, kept, aggregation=aggregation, max_length=10)
    np.testing.assert_allclose(got, want, rtol=1e-6)
    nothing = objective.token_weights(
        lengths, jnp.zeros(4, bool), aggregation=aggregation, max_length=10
    )
    assert nothing.tolist() == [0.0] * 4


def test_an_unknown_aggregation_is_refused():
    with pytest.raises(ValueError, match="mean_of_means"):
        objective.token_weights(
            jnp.ones(2), jnp.ones(2, bool), aggregation="mean_of_means", max_length=4
        )


# Padding and misuse


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("advantage", objective.ADVANTAGES)
def test_a_rollout_whose_id_is_no_group_is_padding(advantage, masked):
    rng = np.random.default_rng(0)
    rewards, ids = rng.integers(0, 2, 40).astype(float), rng.integers(0, 4, 40)
    want = advantages(rewards, ids, 4, advantage=advantage)
    strange = np.array([-1, 4, -3, 5, 2**30, -4])  # -4 … -1 would wrap around
    padded = np.concatenate([ids, strange])
    mask = [True] * 46 if masked else None
    got = advantages(
        np.concatenate([rewards, [1, 1, 0, 9, np.nan, 1]]), padded, 4,
        advantage=advantage, mask=mask,
    )  # fmt: skip
    np.testing.assert_array_equal(got, np.concatenate([want, np.zeros(6)]))


def test_padding_neither_gives_nor_has_a_signal():
    signal = objective.has_signal([1, 1, 0, 0, 1], [0, 0, -1, 2, 3], 3)
    assert signal.tolist() == [False, False, False]
    assert objective.group_sums([1, 1, 7, 0, 5], [0, 0, -1, 2, 3], 3).tolist() == [2, 0, 0]
    kept = allocator.ada_mask([1.0, 0.0, 1.0, 1.0], [0, 0, -1, 1], 1)
    assert kept.tolist() == [True, True, False, False]


def test_lists_and_masks_of_numbers_are_taken():
    got = objective.group_advantages([1, 0, 1], [0, 0, 0], 1, mask=[1, 1, 0])
    assert got.tolist() == [0.5, -0.5, 0]
    assert objective.has_signal([1, 0, 1], [0, 0, 0], 1, [1.0, 0.0, 1.0]).tolist() == [False]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"group_ids": [0.0, 0.0, 1.0]}, "group_ids are float32"),
        ({"group_ids": [True, False, True]}, "group_ids are bool"),
        ({"group_ids": [0, 0]}, r"\(3,\) rollouts with \(2,\) group_ids"),
        ({"rewards": np.zeros((3, 2)), "group_ids": [0, 0, 1]}, r"flattens \[prompts, samples\]"),
        ({"mask": [True]}, r"mask of \(1,\)"),
        ({"num_groups": 2.0}, "num_groups is 2.0: give an int"),
    ],
)
def test_what_cannot_be_groups_is_refused_in_a_line(arguments, message):
    settings = {"rewards": [1, 0, 1], "group_ids": [0, 0, 1], "num_groups": 2} | arguments
    for f in (objective.group_advantages, objective.has_signal, allocator.ada_mask):
        with pytest.raises(ValueError, match=message) as refused:
            f(**settings)
        assert "\n" not in str(refused.value)


def test_a_traced_number_of_groups_is_refused():
    with pytest.raises(ValueError, match="num_groups is traced: give an int"):
        jax.jit(objective.has_signal)(np.ones(2), np.zeros(2, int), 1)


def test_a_new_number_of_rollouts_costs_few_programs(compilations):
    for n in (100, 101):
        before, rewards, ids = len(compilations), np.ones(n, np.float32), np.zeros(n, np.int32)
        objective.group_advantages(rewards, ids, 3)
        objective.has_signal(rewards, ids, 3)
    assert len(compilations) - before <= 6  # those for a new size alone


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"num_groups": -1}, "num_groups is -1: give an int >= 0"),
        ({"num_groups": True}, "num_groups is True: give an int >= 0"),
        ({"advantage": "pkpo", "k": 0}, "k is 0: give a whole number of at least 1"),
        ({"advantage": "passk", "k": 2.5}, "k is 2.5: give a whole number of at least 1"),
        ({"advantage": "rs_grpo", "beta": 0.0}, "beta is 0.0: give a number above 0"),
    ],
)
def test_what_would_be_computed_without_meaning_is_refused(arguments, message):
    given = {"rewards": [1.0, 0.0], "group_ids": [0, 0], "num_groups": 1} | arguments
    with pytest.raises(ValueError, match=message):
        objective.group_advantages(**given)


def test_an_id_beyond_int32_is_padding_as_any_other_outside():
    for far in (2**32, -(2**32), 5):
        ids = np.array([0, 0, far])
        assert objective.group_advantages([1, 0, 1], ids, 1).tolist() == [0.5, -0.5, 0.0]


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int16, np.uint64])
def test_ids_of_a_narrow_type_count_as_far_as_any(dtype):
    ids = np.array([0, 0, 100], dtype)
    assert objective.group_advantages([1, 0, 1], ids, 300).tolist() == [0.5, -0.5, 0.0]


def test_no_rollouts_have_no_advantages():
    assert objective.group_advantages([], [], 2).shape == (0,)
    assert objective.has_signal([], [], 2).tolist() == [False, False]


def test_weights_are_of_as_many_rollouts_as_lengths():
    with pytest.raises(ValueError, match=r"lengths of shape \(2,\), kept \(1,\)"):
        objective.token_weights([3, 2], [True], aggregation="dr_grpo", max_length=4)
    with pytest.raises(ValueError, match="max_length is 0"):
        objective.token_weights([3], [True], aggregation="dr_grpo", max_length=0)
