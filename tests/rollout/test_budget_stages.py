"""A budget in the stage loop: shared out over all prompts, whenever and wherever they finish."""

import dataclasses

import numpy as np
import pytest
from rollouts import CONFIG, COUNT, make_prompts

from dars_jax.allocator import allocate
from dars_jax.rollout.scheduler import Scheduler

SKILL = np.random.default_rng(3).choice([0.0, 0.1, 0.4, 0.9], COUNT)
OUTCOME = np.random.default_rng(4).random((COUNT, 24)) < SKILL[:, None]


def settle(schedule, budget, *, seed=0, replicas=2, prefixes=3, num_stages=2):
    """Rollouts of each prompt in the end, graded in an order of the seed."""
    config = dataclasses.replace(
        CONFIG, n_pre=4, n_max=24, schedule=schedule, budget=budget, barrier=True,
        num_stages=num_stages,
    )  # fmt: skip
    scheduler = Scheduler(make_prompts(), config, replicas, prefixes, 24 * COUNT)
    rng, running = np.random.default_rng(seed), []
    for _ in range(10_000):
        scheduler.admit()
        for request in scheduler.requests(seed=0, step=0):
            running.append(scheduler.locate(request.replica, request.row))
        rng.shuffle(running)
        for _ in range(min(len(running), rng.integers(0, 9))):
            p, sample = running.pop()
            counts = np.zeros((COUNT, 2), np.int32)
            counts[p] = 1, OUTCOME[p, sample]
            scheduler.graded(counts)
        scheduler.allocate()
        if scheduler.done and not running:
            return scheduler.sampled
    raise AssertionError("it does not end")


def right(sampled):
    return np.array([OUTCOME[p, :n].sum() for p, n in enumerate(sampled)])


@pytest.mark.parametrize("schedule", ["hora", "knapsack", "gvm", "uniform", "hw", "ada_balanced"])
def test_what_is_sampled_is_what_the_allocator_gives_to_all_prompts_together(schedule):
    first = np.full(COUNT, 4)
    more = np.asarray(allocate(schedule, right(first), first, n_max=24, budget=3 * COUNT))
    assert more.sum() == 3 * COUNT and len(set(more.tolist())) > (schedule != "uniform")
    for seed, replicas, prefixes in ((0, 1, 1), (1, 2, 3), (2, 3, 9)):
        got = settle(schedule, 3.0, seed=seed, replicas=replicas, prefixes=prefixes)
        assert got.tolist() == (first + more).tolist()


def test_later_stages_share_their_part_among_those_who_go_on():
    n = np.full(COUNT, 4)
    ready = np.ones(COUNT, bool)
    for _ in range(2):
        more = np.asarray(
            allocate("gvm", right(n), np.where(ready, n, 0), n_max=24, budget=2 * COUNT)
        )
        ready, n = more > 0, n + more
    assert settle("gvm", 4.0, num_stages=3).tolist() == n.tolist()


def test_without_a_budget_prompts_get_what_they_ask_for():
    first = np.full(COUNT, 4)
    more = np.asarray(allocate("hw", right(first), first, n_max=24))
    assert settle("hw", 0.0).tolist() == (first + more).tolist()
