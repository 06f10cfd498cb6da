"""Budgets: shared out in proportion or bought rollout by rollout, against exact rationals."""

import functools
import itertools
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dars_jax import allocator
from dars_jax.allocator import (
    ALLOCATORS,
    Asks,
    Gains,
    Shares,
    allocate,
    apportion,
    gaining,
    sharing,
)

GAINS = [name for name, a in ALLOCATORS.items() if isinstance(a, Gains)]
SHARES = [name for name, a in ALLOCATORS.items() if isinstance(a, Shares)]
SOURCES = """
import jax, numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec as P
from dars_jax.allocator import ALLOCATORS, allocate
rng = np.random.default_rng(0)
n = rng.integers(0, 13, 4096).astype(np.int32)
k = (rng.random(4096) * (n + 1)).astype(np.int32)
run = jax.jit(lambda k, n: {a: allocate(a, k, n, n_max=24, budget=9001) for a in ALLOCATORS})
alone = run(k, n)
mesh = Mesh(np.array(jax.devices()), "prompts")
spread = NamedSharding(mesh, P("prompts"))
together = run(*jax.device_put((k, n), spread))
for name in ALLOCATORS:
    assert (np.asarray(alone[name]) == np.asarray(together[name])).all(), name
print(len(jax.devices()), len(alone), int(together["hora"].sum()))
"""


# Shares


def exact_quotas(shares, low, high, total):
    """clip(c * share, low, high) with the one c for which they sum to the total, in Fractions."""
    at = lambda c: [min(max(c * s, lo), hi) for s, lo, hi in zip(shares, low, high, strict=True)]  # noqa: E731
    corners = sorted(
        {Fraction(b, s) for s, *bs in zip(shares, low, high, strict=True) if s for b in bs}
    )
    if not corners or sum(at(corners[-1])) <= total:
        return at(corners[-1] if corners else Fraction(0))
    if sum(at(Fraction(0))) >= total:
        return at(Fraction(0))
    before = Fraction(0)
    for corner in corners:
        if sum(at(corner)) >= total:
            rise = sum(at(corner)) - sum(at(before))  # linear in between
            return at(before + (corner - before) * (total - sum(at(before))) / rise)
        before = corner
    raise AssertionError


@given(st.data())
def test_whole_numbers_in_proportion_within_bounds(data):
    draw = lambda values: data.draw(st.lists(values, min_size=6, max_size=6))  # noqa: E731
    shares, low = draw(st.integers(0, 9)), draw(st.integers(0, 4))
    high = [lo + more for lo, more in zip(low, draw(st.integers(0, 20)), strict=True)]
    total = data.draw(st.integers(0, 80))
    got = _apportion(
        jnp.array(shares, jnp.float32), jnp.array(low), jnp.array(high), total
    ).tolist()
    quotas = exact_quotas(shares, low, high, total)
    room = sum(hi if s else lo for s, lo, hi in zip(shares, low, high, strict=True))
    assert sum(got) == min(max(total, sum(low)), room)
    for n, quota, lo, hi in zip(got, quotas, low, high, strict=True):
        assert lo <= n <= hi and abs(n - quota) < 1
    # who got one more had the larger remainder, but for what 1/1024 does to a quota
    up = [q % 1 for n, q in zip(got, quotas, strict=True) if n > q]
    down = [q % 1 for n, q in zip(got, quotas, strict=True) if n < q]
    assert not up or not down or min(up) > max(down) - Fraction(1, 100)


_apportion = jax.jit(apportion)


def test_equal_shares_differ_by_one_and_the_first_get_it():
    assert apportion(jnp.ones(5), 0, 100, 13).tolist() == [3, 3, 3, 2, 2]
    many = apportion(jnp.ones(10**6), 0, 64, 8 * 10**6 + 3)
    assert many[:4].tolist() == [9, 9, 9, 8] and int(many.sum()) == 8 * 10**6 + 3


def test_what_is_no_share_gets_its_floor():
    got = apportion(jnp.array([np.nan, -1.0, 0.0, 2.0]), 1, 50, 20)
    assert got.tolist() == [1, 1, 1, 17]


def test_more_prompts_than_integers_can_sum_are_refused():
    with pytest.raises(ValueError, match="1048577 prompts"):
        apportion(jnp.ones(2**20 + 1), 0, 1, 5)


def test_the_published_shares():
    k, n = np.arange(9), 8
    a = k / n
    with np.errstate(divide="ignore"):
        gvm = np.where(k > 0, 1 / np.sqrt(a + 1e-3 / a), 0)
    np.testing.assert_allclose(sharing.gvm(k, n), gvm, rtol=1e-6)
    np.testing.assert_allclose(sharing.cures(k, n), np.sqrt(a * (1 - a)), rtol=1e-6)
    np.testing.assert_allclose(sharing.ada_est(k[1:], n), a[1:] ** -0.5, rtol=1e-6)
    assert sharing.ada_est(0, n) == 4  # k = 0 is read as 1/2
    np.testing.assert_allclose(sharing.uniform(k, n), 1)


def test_gradient_norms_and_a_prior_enter_the_shares():
    k = np.array([0, 2, 4])
    norms = np.array([5.0, 1.0, 2.0])
    assert sharing.cures(k, 8, gradient_norms=norms)[2] == pytest.approx(1.0)
    assert sharing.gvm(k, 8, prior=(1, 1))[0] > 0 == sharing.gvm(k, 8)[0]  # a = 1/10
    assert sharing.gvm(k, 8, gradient_norms=norms)[2] == 2 * sharing.gvm(k, 8)[2]


# Gains


def value(name, k, sampled, n, held):
    """What a group of n is worth, by each method's own objective."""
    p = Fraction(k, sampled)
    if name == "knapsack":
        return (1 - p**n - (1 - p) ** n) * p * (1 - p) ** 2
    if name == "hora":  # Beta integrals
        miss = Fraction(1)
        for j in range(n - held):
            miss *= Fraction(sampled - k + 1 + j, sampled + 2 + j)
        return -miss
    return -4 * p * (1 - p) * (Fraction(1, n - 1) if name == "vip_rloo" else Fraction(n - 1, n * n))


@pytest.mark.parametrize("name", GAINS)
@pytest.mark.parametrize("fresh", [False, True])
def test_no_allocation_within_the_budget_is_worth_more(name, fresh):
    """All of them, by exact rationals."""
    correct, n_max = [0, 1, 2, 4, 1], 9
    sampled = [4, 4, 4, 4, 3]
    held = [0 if fresh else n for n in sampled]
    low = [max(h, ALLOCATORS[name].minimum) for h in held]
    for budget in (0, 1, 5, 12, 20):
        got = allocate(name, correct, np.array(sampled), n_max=n_max, budget=budget, fresh=fresh)
        total = [h + m for h, m in zip(held, got.tolist(), strict=True)]
        floors = sum(low) - sum(held)
        assert sum(got.tolist()) <= max(budget, floors)
        worth = lambda p, n: value(name, correct[p], sampled[p], n, held[p])  # noqa: E731
        best = {0: Fraction(0)}  # rollouts spent above the floors: the most that can be had
        for p in range(5):
            sums = [(spent + n - low[p], v + worth(p, n)) for spent, v in best.items()
                    for n in range(low[p], n_max + 1)]  # fmt: skip
            best = {
                s: max(v for t, v in sums if t == s)
                for s, _ in sums
                if s <= max(budget - floors, 0)
            }
        assert sum(worth(p, total[p]) for p in range(5)) == max(best.values())


@pytest.mark.parametrize("name", GAINS)
@given(st.data())
def test_the_next_rollout_goes_where_it_gains_most(name, data):
    """One purchase after the other; equal gains by correct, then by sampled, then in order."""
    size, n_max = 7, 14
    sampled = data.draw(st.lists(st.integers(3, 8), min_size=size, max_size=size))
    correct = [data.draw(st.integers(0, n)) for n in sampled]
    budget = data.draw(st.integers(0, 60))
    have = list(sampled)
    for _ in range(budget):
        offers = [
            (-Fraction(*ALLOCATORS[name].rule(k, n, h, h - n)), k, n, h, i)
            for i, (k, n, h) in enumerate(zip(correct, sampled, have, strict=True))
            if h < n_max
        ]
        if not offers or min(offers)[0] == 0:
            break
        have[min(offers)[-1]] += 1
    got = _buy(name)(jnp.array(correct), jnp.array(sampled), budget)
    assert [n + m for n, m in zip(sampled, got.tolist(), strict=True)] == have


@functools.cache
def _buy(name):
    return jax.jit(lambda k, n, budget: allocate(name, k, n, n_max=14, budget=budget))


def test_vip_is_within_one_rollout_of_its_solution_in_real_numbers():
    k, n_max = np.arange(9).repeat(5), 64
    w = 4 * (k / 8) * (1 - k / 8)
    got = np.asarray(allocate("vip_rloo", k, 8, n_max=n_max, budget=400, fresh=True))
    low, high = 0.0, 1e6
    for _ in range(200):
        root = (low + high) / 2
        real = np.clip(1 + root * np.sqrt(w), 2, n_max)  # root is 1 / sqrt(lambda)
        low, high = (root, high) if real.sum() < 400 else (low, root)
    assert got.sum() == 400
    assert (np.abs(got - real) < 1).all()


@pytest.mark.parametrize("rule", [gaining.knapsack, gaining.vip_rloo, gaining.vip_dr_grpo])
def test_under_a_prior_no_prompt_is_given_up(rule):
    k = np.array([0, 0, 3, 8])
    plain, hopeful = Gains(rule), Gains(functools.partial(rule, prior=(1, 1)))
    assert allocate(plain, k, 8, n_max=32, budget=40).tolist()[::3] == [0, 0]
    assert min(allocate(hopeful, k, 8, n_max=32, budget=70).tolist()) > 0
    # of the posterior mean (0 + 1) / (8 + 2)
    assert Fraction(*hopeful.rule(0, 8, 9, 1)) == Fraction(*plain.rule(1, 10, 9, 1))


def test_a_cap_beyond_exact_integers_is_refused():
    with pytest.raises(ValueError, match="n_max is 2000"):
        allocate("hora", np.array([1]), 8, n_max=2000, budget=1)


def test_gains_that_rise_are_refused():
    rising = Gains(lambda correct, sampled, have, bought: (have, 1))
    with pytest.raises(ValueError, match="gain of rollout 10 of a group with 0 of 8 right"):
        allocate(rising, np.array([0]), 8, n_max=12, budget=3)


def test_a_price_list_for_every_size_has_a_limit():
    run = jax.jit(lambda n: allocate("hora", jnp.zeros(3, int), n, n_max=200, budget=3))
    with pytest.raises(ValueError, match="n_max = 200 cannot be sorted for every size"):
        run(jnp.full(3, 8))
    assert allocate("hora", jnp.zeros(3, int), 8, n_max=200, budget=3).tolist() == [1, 1, 1]


# Any allocator


@pytest.mark.parametrize("name", ALLOCATORS)
def test_a_budget_is_kept_and_spent_as_far_as_anybody_wants_it(name):
    rng = np.random.default_rng(1)
    n = rng.integers(0, 13, 500)
    k = (rng.random(500) * (n + 1)).astype(int)
    for budget in (0, 1, 777, 100_000):
        more = np.asarray(allocate(name, k, n, n_max=24, budget=budget))
        assert more.dtype == np.int32 and (more >= 0).all() and (n + more <= 24).all()
        assert (more[n == 0] == 0).all()
        floor = np.maximum(getattr(ALLOCATORS[name], "minimum", 0) - n, 0)[n > 0].sum()
        assert more.sum() <= max(budget, floor)
        if name not in ("dapo",) and budget == 777:
            assert more.sum() == 777
    assert (more[n > 0] + n[n > 0] == 24).any() or name == "dapo"


@pytest.mark.parametrize("name", ALLOCATORS)
def test_floors_come_first(name):
    k, n = np.array([0, 1, 4, 7, 8, 0]), np.array([8, 8, 8, 8, 8, 0])
    more = allocate(name, k, n, n_max=20, n_min=12, budget=0)
    assert more.tolist() == [4, 4, 4, 4, 4, 0]


@pytest.mark.parametrize("name", [n for n, a in ALLOCATORS.items() if isinstance(a, Asks)])
def test_without_a_budget_everybody_gets_what_they_ask_for(name):
    k = np.arange(9)
    got = allocate(name, k, 8, n_max=32).tolist()
    base, _, _ = name.partition("_std")
    if name == "dapo":
        assert got == [0] * 9
    else:
        call = functools.partial(allocator.top_up, schedule=base, n_max=32)
        assert got == call(k, 8, use_std=name.endswith("_std")).tolist()


@pytest.mark.parametrize("name", GAINS + SHARES)
def test_who_shares_a_budget_needs_one(name):
    with pytest.raises(ValueError, match="give budget="):
        allocate(name, np.array([1]), 8, n_max=32)


def test_an_unknown_allocator_is_refused():
    with pytest.raises(ValueError, match="unknown allocator 'greedy': expected one of uniform, et"):
        allocate("greedy", np.array([1]), 8, n_max=32)


@pytest.mark.parametrize("name", ALLOCATORS)
def test_a_fresh_group_starts_empty(name):
    """The counts are last epoch's; the whole group is drawn anew."""
    k, n = np.array([0, 1, 4, 7]), 100
    more = np.asarray(allocate(name, k, n, n_max=32, n_min=2, budget=64, fresh=True))
    assert (more >= 2).all() and (more <= 32).all() and more.sum() == 64


def test_stages_go_on_from_the_counts_so_far():
    k, n = np.array([0, 2, 6]), np.array([8, 8, 8])
    first = np.asarray(allocate("hora", k, n, n_max=64, budget=10))
    both = first + np.asarray(allocate("hora", k, n + first, n_max=64, budget=10))
    assert both.sum() == 20 and (n + first <= 64).all()


def test_one_program_serves_every_budget_and_any_counts():
    run = jax.jit(lambda k, n, b: allocate("hora", k, n, n_max=24, budget=b))
    rng = np.random.default_rng(0)
    for budget in (10, 999):
        n = rng.integers(0, 13, 64)
        k = (rng.random(64) * (n + 1)).astype(int)
        got = run(jnp.asarray(k), jnp.asarray(n), budget)
        assert got.tolist() == allocate("hora", k, n, n_max=24, budget=budget).tolist()
    assert run._cache_size() == 1


@pytest.mark.parametrize("name", ["gvm", "knapsack", "hw"])
def test_under_vmap_every_batch_has_its_own_budget(name):
    rng = np.random.default_rng(0)
    k, budgets = jnp.asarray(rng.integers(0, 9, (3, 50))), jnp.array([40, 400, 0])
    got = jax.vmap(lambda k, b: allocate(name, k, 8, n_max=32, budget=b))(k, budgets)
    for row, counts, budget in zip(got, k, budgets, strict=True):
        assert row.tolist() == allocate(name, counts, 8, n_max=32, budget=budget).tolist()


def test_prompts_spread_over_devices_get_the_same(fresh_python):
    done = fresh_python("-c", SOURCES, devices=4)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.split() == ["4", str(len(ALLOCATORS)), "9001"]


def test_equal_gains_are_found_equal_whatever_their_denominators():
    """1/2 of 4 and 1/2 of 8: VIP's gains are equal fractions, written differently."""
    got = allocate("vip_rloo", np.array([4, 2]), np.array([8, 4]), n_max=9, budget=2, fresh=True)
    assert got.tolist() == [2, 2]  # the minimum
    got = allocate("vip_rloo", np.array([4, 2]), np.array([8, 4]), n_max=9, budget=5, fresh=True)
    assert got.tolist() == [2, 3]  # fewer correct come first


def test_the_price_list_is_sorted_by_exact_fractions():
    prices = gaining.price_list(gaining.hora, tuple(range(1, 13)), 0, 24, False)
    cells = [(n, k) for n in range(1, 13) for k in range(n + 1)]
    have, gains = {c: c[0] for c in cells}, []
    for entry in prices.cell:
        n, k = cells[entry]
        gains.append(Fraction(*gaining.hora(k, n, have[n, k], have[n, k] - n)))
        have[n, k] += 1
    assert all(a >= b for a, b in itertools.pairwise(gains))
    assert set(have.values()) == {24}


@pytest.mark.parametrize("name", ["hw", "gvm", "hora"])
@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"budget": 2.5}, "budget is 2.5: give a whole number"),
        ({"budget": float("nan")}, "budget is nan: give a whole number"),
        ({"budget": "8"}, "budget is '8': give a whole number"),
        ({"budget": True}, "budget is True: give a whole number"),
        ({"budget": jnp.float32(40)}, "budget is 40.0: give a whole number"),
        ({"budget": -3}, "budget is -3: give at least 0"),
        ({"budget": 2**31}, "budget is 2147483648: numbers of rollouts stay below"),
        ({"budget": [40]}, r"budget has shape \(1,\): give one number"),
        ({"n_max": "64"}, "n_max is '64': give a whole number"),
        ({"n_max": [16, 16]}, r"n_max has shape \(2,\): give one for all groups"),
        ({"n_min": 9.5}, "n_min is 9.5: give a whole number"),
        ({"n_min": -1}, "n_min is -1: give at least 0"),
        ({"n_min": 20}, "n_min is 20, above the cap n_max = 16"),
        ({"num_correct": [[0, 1]]}, r"counts of shape \(1, 2\): give int\[prompts\]"),
        ({"num_sampled": [8] * 3}, r"num_correct has shape \(2,\), num_sampled \(3,\)"),
    ],
)
def test_what_is_no_budget_and_no_size_is_refused(name, arguments, message):
    given = {"num_correct": [0, 1], "num_sampled": 8, "n_max": 16, "budget": 8} | arguments
    with pytest.raises(ValueError, match=message):
        allocate(name, **given)


def test_a_traced_budget_is_known_by_its_dtype_only():
    run = jax.jit(lambda budget: allocate("hora", [0, 1], 8, n_max=16, budget=budget))
    with pytest.raises(ValueError, match="budget is float32: give a whole number"):
        run(2.5)
    assert run(-3).tolist() == run(0).tolist() == [0, 0]


@pytest.mark.parametrize("rule", [3, ["hw"], "hwx", None])
def test_what_is_no_allocator_is_refused(rule):
    with pytest.raises(ValueError, match=r"unknown allocator .*: expected one of uniform"):
        allocate(rule, [0, 1], 8, n_max=16, budget=8)


@pytest.mark.parametrize("name", ["hw", "gvm", "hora"])
def test_no_prompts_get_nothing(name):
    assert allocate(name, [], 8, n_max=16, budget=8).shape == (0,)


def test_a_total_and_bounds_are_whole_numbers():
    with pytest.raises(ValueError, match="total is -1: give at least 0"):
        apportion([1, 2], 0, 4, -1)
    with pytest.raises(ValueError, match=r"low is 0\.5: give a whole number"):
        apportion([1, 2], 0.5, 4, 2)
