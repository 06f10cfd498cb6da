"""Who gets how many rollouts, and on which replica of the engine."""

import collections
import dataclasses
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rollouts import CONFIG, COUNT, expected_counts, make_prompts

from dars_jax.engine.session import SamplingConfig
from dars_jax.rollout import scheduler as scheduler_module
from dars_jax.rollout.scheduler import RolloutConfig, Scheduler


@settings(max_examples=60)
@given(st.data())
def test_every_prompt_gets_its_pre_rollouts_and_its_top_ups(data):
    draw = data.draw
    schedule, n_max = draw(st.sampled_from([("none", 4), ("et", 16), ("hw", 16), ("hw", 4)]))
    config = RolloutConfig(
        n_pre=4, n_max=n_max, schedule=schedule, num_stages=draw(st.integers(1, 3)), use_std=False,
        sampling=SamplingConfig(), steps_per_dispatch=1, barrier=draw(st.booleans()),
    )  # fmt: skip
    replicas, prefixes = draw(st.integers(1, 3)), draw(st.integers(1, 5))
    skill = np.array([draw(st.sampled_from([0.0, 0.2, 0.6, 1.0])) for _ in range(COUNT)])
    outcome = (
        np.random.default_rng(draw(st.integers(0, 99))).random((COUNT, n_max)) < skill[:, None]
    )
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    prompts = make_prompts()
    requests = -(-COUNT // replicas) * n_max + draw(st.integers(0, 20))
    scheduler = Scheduler(prompts, config, replicas, prefixes, requests)
    asked, open_requests, stage_of, rows = collections.Counter(), [], {}, set()
    filled = {}  # prefix rows, by what was prefilled last
    for _ in range(10_000):
        held = collections.Counter()
        for p in scheduler.admit():
            replica, row, tokens = scheduler.prefix(p)
            assert 0 <= row < prefixes and tokens is prompts.tokens[p]
            filled[replica, row] = p
        for request in scheduler.requests(seed=5, step=9):
            p, sample = scheduler.locate(request.replica, request.row)
            seed, step, stage, uid, index = request.stream
            assert (seed, step, uid, index) == (5, 9, prompts.uid[p], sample)
            assert request.row < requests and (request.replica, request.row) not in rows
            rows.add((request.replica, request.row))
            assert filled[request.replica, request.prefix] == p
            asked[p, sample] += 1
            stage_of[p, sample] = stage
            open_requests.append((p, sample, request.replica, request.prefix))
        for p, _, replica, prefix in open_requests:  # a prefix in use belongs to one prompt
            held[replica, prefix, p] += 1
        assert len({(e, row) for e, row, _ in held}) == len(held)
        rng.shuffle(open_requests)
        for _ in range(min(len(open_requests), rng.integers(0, 9))):
            p, sample, *_ = open_requests.pop()
            counts = np.zeros((COUNT, 2), np.int32)
            counts[p] = 1, outcome[p, sample]
            scheduler.graded(counts)
        scheduler.allocate()
        if scheduler.done and not open_requests:
            break
    assert scheduler.done, "it does not end"
    assert set(asked.values()) == {1}
    for p in range(COUNT):
        stages = expected_counts(4, n_max, schedule, config.num_stages,
                                 lambda i, p=p: outcome[p, i])  # fmt: skip
        got = collections.Counter(stage_of[p, i] for i in range(scheduler.sampled[p]))
        assert [got[s] for s in range(len(stages))] == stages
        assert scheduler.sampled[p] == sum(stages) <= n_max
        assert scheduler.correct[p] == outcome[p, : sum(stages)].sum()
    assert scheduler.planned == len(asked)


class Graded(Scheduler):
    """With everything admitted and asked for, and a short way to grade."""

    def __init__(self, count, **sizes):
        config = dataclasses.replace(CONFIG, n_pre=4, n_max=12)
        super().__init__(make_prompts(count), config, 2, **sizes)
        self.go_on()

    def go_on(self):
        self.admit()
        return self.requests(0, 0)

    def grade(self, p, count, right):
        counts = np.zeros((len(self.home), 2), np.int32)
        counts[p] = count, right
        self.graded(counts)
        self.allocate()


def test_top_ups_go_where_they_are_done_earlier():
    scheduler = Graded(8, num_prefixes=4, num_requests=48)
    scheduler.grade(0, 4, 0)  # 8 more; 12 requests are open here, 16 there
    assert scheduler.admit() == [] and scheduler.home[0] == 0
    for p in (1, 3, 5, 7):
        scheduler.grade(p, 4, 4)  # nothing is left to do on replica 1
    scheduler.requests(0, 0)
    scheduler.grade(2, 4, 0)  # 8 more; 16 are open here: they would be done earlier there
    assert scheduler.admit() == [2] and scheduler.prefix(2)[0] == 1
    scheduler.grade(4, 4, 0)  # 12 here, 8 there: staying is no worse than following those 8
    assert scheduler.admit() == [] and scheduler.home[4] == 0 and scheduler.moves == 1
    asked = scheduler.requests(0, 0)
    uid = make_prompts(8).uid[2]
    assert [(r.replica, r.row) for r in asked if r.stream[3] == uid] == [
        (1, row) for row in range(16, 24)
    ]
    assert {scheduler.locate(r.replica, r.row) for r in asked} == {
        (p, i) for p in (2, 4) for i in range(4, 12)
    }


@pytest.mark.parametrize("spare", [0, 8])
def test_a_replica_takes_no_more_top_ups_than_it_has_rows_for(spare):
    scheduler = Graded(10, num_prefixes=5, num_requests=60 + spare)
    for p in (1, 3, 5, 7):  # take all rows that are theirs
        scheduler.grade(p, 4, 0)
        scheduler.go_on()
        scheduler.grade(p, 8, 0)
    scheduler.grade(9, 4, 4)  # leaves 8 rows
    scheduler.grade(0, 4, 0)
    scheduler.go_on()
    assert scheduler.home[0] == 1
    scheduler.grade(0, 8, 0)
    scheduler.grade(2, 4, 0)  # nothing to do there either, 12 requests are open here
    assert scheduler.home[2] == (1 if spare else 0)


def lines_run(file, call):
    """How many lines of a file a call runs: work that no clock and no other program changes."""
    count = 0

    def trace(frame, event, _):
        nonlocal count
        count += event == "line" and frame.f_code.co_filename == file
        return trace

    sys.settrace(trace)
    try:
        call()
    finally:
        sys.settrace(None)
    return count


@pytest.mark.parametrize("barrier", [False, True])
def test_prompts_that_must_wait_are_not_looked_at_one_by_one(barrier):
    config = dataclasses.replace(CONFIG, barrier=barrier)
    costs = []
    for count in (50, 500):
        scheduler = Scheduler(make_prompts(count), config, 2, 4, 12 * count)
        assert len(scheduler.admit()) == 8
        scheduler.requests(0, 0)
        costs.append(lines_run(scheduler_module.__file__, scheduler.admit))
    assert costs[0] == costs[1] > 0
