"""The simulated engine counts right, and streaming keeps its promise."""

import pytest

from dars_jax.rollout import simulation
from dars_jax.rollout.simulation import dars_hw


def test_a_replica_refills_freed_slots_in_the_order_of_the_queue():
    replica = simulation._Replica(slots=2)
    replica.queue.extend([(0, 5), (1, 2), (2, 3), (3, 1)])
    # slot 0: 0 for 5 steps, then 3 for one; slot 1: 1 for 2 steps, 2 for 3
    assert replica.run(4) == (4, 8, [1])
    assert replica.run(100) == (2, 3, [0, 2, 3])
    assert replica.run(100) == (0, 0, [])


def run(barrier, prompts=128, **changes):
    config = dars_hw(max_tokens=3072, steps_per_dispatch=64, barrier=barrier)
    arguments = {"slots": 512, "replicas": 1, "prefixes": prompts, **changes}
    return simulation.simulate(num_prompts=prompts, config=config, **arguments)


def test_both_ways_do_the_same_work():
    streaming, barrier = run(False), run(True)
    assert (streaming.tokens, streaming.rollouts) == (barrier.tokens, barrier.rollouts)
    assert streaming.rollouts > 128 * 8
    assert streaming.ideal_steps == pytest.approx(streaming.tokens / 512, abs=0.1)


def test_a_small_streaming_step_stays_within_1_6_of_the_ideal():
    streaming, barrier = run(False), run(True)
    assert 1 <= streaming.ratio <= 1.6
    assert streaming.decode_steps < 0.9 * barrier.decode_steps


def test_more_waves_of_work_come_closer_to_the_ideal():
    assert run(False, slots=128).ratio <= 1.1


def test_many_small_replicas_come_close_to_one_large_one():
    whole = run(False, prompts=1024, slots=4096)
    split = run(False, prompts=1024, slots=128, replicas=32, prefixes=40)
    assert whole.tokens == split.tokens
    assert whole.decode_steps <= split.decode_steps < 1.08 * whole.decode_steps
    # 32 prompts each in calls of 4; what moves is prefilled again, about one call a dispatch
    assert whole.prefills == 1024 / 4
    assert 8 < split.prefills < 8 + split.decode_steps / 64


@pytest.mark.parametrize(("seed", "ring", "rings"), [(0, 2, 0), (1, 2, 0), (2, 1, 0.5)])
def test_a_prompt_alone_takes_its_longest_chain_and_not_a_step_more(seed, ring, rings):
    outcome = run(False, prompts=1, replicas=2, ring=ring, seed=seed)
    assert outcome.decode_steps == outcome.chain_steps
    assert (outcome.bound_ratio, outcome.dry) == (1, 0.5)  # the other replica has nothing to do
    assert outcome.dry_rings == outcome.spare_rings == rings


def test_a_chain_has_a_link_for_every_stage():
    config = dars_hw(max_tokens=50, steps_per_dispatch=64, barrier=False)
    long = simulation.simulate(
        num_prompts=32, slots=2048, replicas=1, config=config, prefixes=32, mean_tokens=5000
    )  # every answer is cut at 50 tokens, the first of which comes with the prefill
    assert long.chain_steps == 2 * 49 == long.decode_steps
    assert long.ideal_steps < 98 and long.bound_ratio == 1


@pytest.mark.parametrize("barrier", [False, True])
@pytest.mark.parametrize("slots", [64, 512])
def test_no_schedule_is_done_before_the_bound(slots, barrier):
    outcome = run(barrier, prompts=64, slots=slots, replicas=2, prefixes=32, ring=2)
    assert outcome.bound_ratio >= 1 and outcome.ratio >= outcome.bound_ratio
    assert outcome.dry_rings == 0 <= outcome.dry <= 1 - outcome.occupancy


def test_answers_moved_together_leave_more_rings_free():
    outcome = run(False, prompts=48, slots=24, replicas=4, prefixes=12, ring=2)
    assert 0 < outcome.dry_rings < outcome.dry < outcome.spare_rings < 1 - outcome.occupancy
