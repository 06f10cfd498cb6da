"""Top-up counts: the paper's numbers, exact rationals for every group size, one compiled call."""

import functools
import math
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dars_jax.allocator import MAX_GROUP, ada_kept, ada_mask, allocate, dapo_draw, dapo_keep, top_up

PAPER = ("et", "hw")
UNCAPPED = 2**30
# For k = 0, 1, 2, … correct of N; beyond the list everything is 0.
PUBLISHED = {
    (8, "et", False): [27, 11, 3, 1, 0],
    (8, "hw", False): [56, 24, 8, 3, 0],
    (16, "et", False): [117, 53, 21, 11, 6, 3, 2, 1, 0],
    (16, "hw", False): [240, 112, 48, 27, 16, 10, 6, 3, 0],
    (8, "et", True): [9, 5, 2, 1, 0],
    (8, "hw", True): [23, 14, 6, 3, 0],
}


def exact(k, n, schedule, n_max, use_std):
    """The definition, by rational arithmetic: n S(a) of the target over S(a), rounded up."""
    if 2 * k >= n:
        return 0
    k = Fraction(k) or Fraction(1, 2)
    a = k / n
    goal = n * Fraction(1, 2) if schedule == "et" else n * (1 - a)  # 2 (1-a) times N/2
    if not use_std:
        total = math.ceil(goal / (2 * a * (1 - a)))
    else:  # S = 2 sqrt(a (1-a)), and the peak is N instead of N/2: compare squares
        square = (2 * goal) ** 2 / (4 * a * (1 - a))
        total = math.isqrt(math.ceil(square))
        total += total * total < square
    return max(min(total, n_max) - n, 0)


@pytest.mark.parametrize(("n", "schedule", "use_std"), PUBLISHED)
def test_the_published_counts(n, schedule, use_std):
    want = PUBLISHED[n, schedule, use_std]
    want = want + [0] * (n + 1 - len(want))
    got = top_up(jnp.arange(n + 1), n, schedule=schedule, n_max=UNCAPPED, use_std=use_std)
    assert got.tolist() == want
    assert got.dtype == jnp.int32


@pytest.mark.parametrize("use_std", [False, True])
@pytest.mark.parametrize("schedule", PAPER)
def test_every_group_size_is_exact(schedule, use_std):
    sizes = [*range(1, 131), 191, 255, 256, 257, 500, 512, 513, 777, 1000, 1021, 1022, 1023, 1024]
    n = np.concatenate([np.full(s + 1, s) for s in sizes])
    k = np.concatenate([np.arange(s + 1) for s in sizes])
    run = jax.jit(functools.partial(top_up, schedule=schedule, n_max=UNCAPPED, use_std=use_std))
    got = run(jnp.asarray(k), jnp.asarray(n)).tolist()
    want = [
        exact(*pair, schedule, UNCAPPED, use_std)
        for pair in zip(k.tolist(), n.tolist(), strict=True)
    ]
    wrong = [x for x in zip(n, k, got, want, strict=True) if x[2] != x[3]]
    assert not wrong, wrong[:5]


def test_where_float64_rounds_up_once_too_often_the_integers_do_not():
    def by_floats(k, n):
        a = k / n
        return math.ceil(n * (1 - a) / (2 * a * (1 - a))) - n

    pairs = [(k, n) for n in range(1, 129) for k in range(1, (n + 1) // 2)]
    wrong = [x for x in pairs if by_floats(*x) != exact(*x, "hw", UNCAPPED, False)]
    assert wrong, "float64 is exact here: this test compares nothing"
    k, n = map(jnp.array, zip(*wrong, strict=True))
    got = top_up(k, n, schedule="hw", n_max=UNCAPPED).tolist()
    assert got == [exact(*x, "hw", UNCAPPED, False) for x in wrong]


def test_half_of_hw_is_the_geometric_mean_of_no_top_up_and_hw():
    n = np.concatenate([np.full(s + 1, s) for s in range(1, 131)])
    k = np.concatenate([np.arange(s + 1) for s in range(1, 131)])
    got = top_up(k, n, schedule="hw_half", n_max=UNCAPPED) + n
    for k, n, total in zip(k.tolist(), n.tolist(), got.tolist(), strict=True):  # noqa: B020
        if 2 * k >= n:
            assert total == n
            continue
        square = n * Fraction(n * n, max(2 * k, 1))  # of sqrt(n * hw's total before rounding)
        assert (total - 1) ** 2 < square <= total**2


def test_reinforce_ada_samples_another_round_until_the_first_success():
    correct, sampled = jnp.array([0, 1, 8, 0, 0, 0]), jnp.array([8, 8, 8, 16, 28, 32])
    got = top_up(correct, sampled, schedule="ada_positive", n_max=32, round_size=8)
    assert got.tolist() == [8, 0, 0, 8, 4, 0]


def test_balanced_reinforce_ada_goes_on_until_there_are_two_of_each():
    correct, sampled = jnp.array([0, 1, 2, 6, 7, 8, 1, 32, 0]), jnp.array([8] * 6 + [30, 32, 0])
    got = top_up(correct, sampled, schedule="ada_balanced", n_max=32, round_size=8)
    assert got.tolist() == [8, 8, 0, 0, 8, 8, 2, 0, 0]


@pytest.mark.parametrize(
    ("right", "wrong", "kept"),
    [
        (9, 9, (2, 2)),
        (1, 9, (1, 3)),
        (0, 9, (0, 4)),
        (9, 1, (3, 1)),
        (9, 0, (4, 0)),
        (1, 1, (1, 1)),
    ],
)
def test_reinforce_ada_keeps_four_as_even_as_it_can(right, wrong, kept):
    got = ada_kept(np.array([right]), np.array([right + wrong]))
    assert tuple(int(x[0]) for x in got) == kept


def test_reinforce_ada_keeps_those_that_came_first():
    rng = np.random.default_rng(0)
    ids, rewards = rng.integers(0, 5, 60), (rng.random(60) < 0.3).astype(float)
    mask = rng.random(60) < 0.8
    got = ada_mask(jnp.asarray(rewards), jnp.asarray(ids), 6, mask=jnp.asarray(mask))
    want = np.zeros(60, bool)
    for g in range(6):
        mine = [i for i in range(60) if ids[i] == g and mask[i]]
        right, wrong = ([i for i in mine if rewards[i] == r] for r in (1, 0))
        few = min(2, len(right))
        wrong = wrong[: 4 - few]
        want[right[: 4 - len(wrong)] + wrong] = True
    assert got.tolist() == want.tolist()


def test_dynamic_sampling_keeps_groups_with_right_and_wrong():
    assert dapo_keep(np.array([0, 1, 7, 8, 0]), np.array([8, 8, 8, 8, 0])).tolist() == [
        False, True, True, False, False,
    ]  # fmt: skip


def test_dynamic_sampling_ends_full_or_at_its_bound_and_does_not_overshoot_for_long():
    rng = np.random.default_rng(0)
    for useful in (1.0, 0.5, 0.1, 0.0):
        kept = drawn = 0
        while more := dapo_draw(kept, drawn, num_wanted=128, num_max=1000):
            drawn += more
            kept += rng.binomial(more, useful)
        assert (kept >= 128) or drawn == 1000
        if useful > 0.4:
            assert drawn <= 1.5 * 128 / useful
        assert drawn <= 1000


def test_all_wrong_group_gets_the_cap():
    got = top_up(jnp.array([0, 0]), 8, schedule="hw", n_max=32)
    assert got.tolist() == [24, 24]  # 32 in all; 32 more would make 40


def test_the_cap_counts_what_the_prompt_has_already():
    sampled = jnp.array([8, 30, 32, 64])
    got = top_up(jnp.zeros(4, jnp.int32), sampled, schedule="et", n_max=64)
    assert got.tolist() == [27, 34, 32, 0]


@pytest.mark.parametrize("schedule", PAPER)
def test_half_correct_or_better_gets_nothing(schedule):
    for n in (1, 2, 7, 8, 1024):
        k = jnp.arange((n + 1) // 2, n + 1)
        assert not top_up(k, n, schedule=schedule, n_max=UNCAPPED).any()


def test_padding_gets_nothing():
    assert top_up(jnp.array([0]), jnp.array([0]), schedule="hw", n_max=32).tolist() == [0]


@pytest.mark.parametrize("use_std", [False, True])
@pytest.mark.parametrize("schedule", PAPER)
def test_mixed_group_sizes_equal_each_alone(schedule, use_std):
    rng = np.random.default_rng(0)
    n = rng.integers(1, MAX_GROUP + 1, 200)
    k = (rng.random(200) * (n + 1)).astype(int)
    call = functools.partial(top_up, schedule=schedule, use_std=use_std)
    want = [
        exact(*pair, schedule, 2000, use_std) for pair in zip(k.tolist(), n.tolist(), strict=True)
    ]
    assert call(jnp.asarray(k), jnp.asarray(n), n_max=2000).tolist() == want
    under_vmap = jax.vmap(lambda k, n, cap: call(k, n, n_max=cap))
    caps = jnp.full(200, 2000)
    assert under_vmap(jnp.asarray(k), jnp.asarray(n), caps).tolist() == want
    assert min(want) == 0 < max(want)


def test_a_traced_cap_below_the_group_never_gives_a_negative_count():
    run = jax.jit(lambda k, n, cap: top_up(k, n, schedule="hw", n_max=cap))
    assert run(jnp.array([0, 1]), jnp.array([16, 8]), 4).tolist() == [0, 0]


def test_one_program_serves_3072_prompts_whatever_their_counts():
    run = jax.jit(functools.partial(top_up, schedule="hw", n_max=64))
    rng = np.random.default_rng(0)
    for _ in range(3):
        k = jnp.asarray(rng.integers(0, 9, 3072))
        assert run(k, jnp.full(3072, 8)).shape == (3072,)
    assert run._cache_size() == 1
    jaxpr = str(jax.make_jaxpr(run)(jnp.zeros(3072, jnp.int32), jnp.full(3072, 8)))
    assert "callback" not in jaxpr
    assert "f64" not in jaxpr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"schedule": "hard"}, "hard"),
        ({"n_max": 7}, "n_max is 7, below the 8"),
        ({"num_sampled": np.array([8, 40])}, "below the 40"),
        ({"n_max": 20.5}, "n_max is 20.5: give a whole number"),
        ({"n_max": float("nan")}, "n_max is nan: give a whole number"),
        ({"num_sampled": 1025, "n_max": 5000}, "1024"),
        ({"num_correct": jnp.array([0.125, 0.5])}, "num_correct is float32: give counts"),
        ({"num_correct": [2.0, 3.0]}, "num_correct is float64"),
        ({"num_correct": np.array([True, False])}, "num_correct is bool"),
        ({"num_sampled": 8.0}, "num_sampled is float64"),
        ({"num_correct": [-1, 3]}, "num_correct is -1: counts are not negative"),
        ({"num_sampled": [-8, 8], "num_correct": [-9, 3]}, "not negative"),
        ({"num_correct": [3, 9]}, "num_correct is 9 where num_sampled is 8"),
        ({"num_correct": np.array([2**32, 1])}, "num_correct is 4294967296"),
    ],
)
def test_what_cannot_be_is_refused(arguments, message):
    settings = {"num_correct": jnp.array([0, 1]), "num_sampled": 8, "n_max": 32} | arguments
    schedule = settings.pop("schedule", "et")
    with pytest.raises(ValueError, match=message):
        top_up(**settings, schedule=schedule)
    if schedule == "et":  # any other allocator asks the same
        with pytest.raises(ValueError, match=message):
            allocate("hora", **settings, budget=10)


def test_shares_are_refused_where_they_are_traced_too():
    with pytest.raises(ValueError, match="num_correct is float32"):
        jax.jit(lambda k: top_up(k, 8, schedule="et", n_max=32))(jnp.array([0.5]))


def test_a_round_of_no_whole_size_is_refused():
    with pytest.raises(ValueError, match=r"round_size is 2\.5: give a whole number"):
        top_up([0], 8, schedule="ada_positive", n_max=32, round_size=2.5)


def test_every_prompt_has_a_cap_of_its_own():
    got = top_up(jnp.array([0, 0]), jnp.array([8, 32]), schedule="hw", n_max=jnp.array([16, 64]))
    assert got.tolist() == [8, 32]


def test_importing_it_costs_no_training_library(fresh_python):
    heavy = "{'flax', 'tensorflow', 'jetstream', 'optax', 'orbax', 'ml_collections', 'absl'}"
    code = "import sys, dars_jax.allocator, dars_jax.objective, dars_jax.passk;"
    code += f"print(sorted({heavy} & {{m.partition('.')[0] for m in sys.modules}}))"
    done = fresh_python("-c", code)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"
