"""Caches and slots of a session change size with the work, and no answer changes with them."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from dars_jax.engine import kv_cache
from dars_jax.engine.programs import Programs
from dars_jax.engine.session import Request, SamplingConfig, Session
from dars_jax.engine.state import DecodeConfig
from dars_jax.policy import sharding

CONFIG = DecodeConfig(slots=8, prefixes=3, requests=64, prompt_tokens=10, response_tokens=70,
                      eos_ids=(-1,), filters=False, dtype=jnp.dtype("float32"))  # fmt: skip


@pytest.fixture(scope="module")
def begin(tiny):
    """Begins a session of these sizes, with three prompts in it."""
    mesh = sharding.make_mesh(1, 1, 1)

    def made(config):
        programs = Programs(config, tiny.config, mesh)
        session = Session(programs, programs.publish(tiny.params), 3)
        session.prefill([(0, i, np.arange(8, 16 + i, dtype=np.int32)) for i in range(3)])
        return session

    return made


def answers(session, limits):
    """{(replica, row): (tokens, log-probs)}; (slots, steps, positions) after each dispatch."""
    requests = [Request(0, i, i % 3, (0, 1, 0, i % 3, i), n) for i, n in enumerate(limits)]
    session.enqueue(requests, SamplingConfig(temperature=1.0, max_tokens=max(limits)))
    done, seen = [], []
    while len(done) < len(limits):
        session.start(16)
        progress = session.finish()
        done += progress.finished
        size = progress.capacity // progress.steps
        seen.append((size, progress.steps, kv_cache.capacity(session._slots.caches)))
    return session.drain(done), seen


def assert_same(got, want):
    """The same tokens, and the same log-probs but for rounding."""
    assert got.keys() == want.keys()
    for key, (ids, logprob) in want.items():
        np.testing.assert_array_equal(got[key][0], ids)
        np.testing.assert_allclose(got[key][1], logprob, atol=1e-5)


def test_caches_grow_with_the_longest_answer_and_change_none(begin):
    assert CONFIG.capacities == (64, 96)  # of 42, 74 and 80, in whole blocks of keys
    limits = [7 * (i % 10) + 7 for i in range(20)]
    got, seen = answers(begin(CONFIG), limits)
    assert {positions for _, _, positions in seen} == {64, 96}
    whole = begin(CONFIG)
    whole._resize(8, 96)
    want, seen = answers(whole, limits)
    assert {positions for _, _, positions in seen} == {96}
    assert_same(got, want)


def test_slots_get_fewer_as_answers_end_and_change_none(begin):
    many = dataclasses.replace(CONFIG, slots=64, response_tokens=16)
    assert many.sizes == (8, 16, 32, 48, 64)
    assert dataclasses.replace(many, page_size=128).sizes == (8, 16, 32, 64)
    assert dataclasses.replace(many, slots=5).sizes == (5,)
    limits = [1 + i // 4 for i in range(64)]
    got, seen = answers(begin(many), limits)
    # four answers end with every step, the first four before any
    assert [(slots, steps) for slots, steps, _ in seen] == [
        (64, 3),
        (48, 4),
        (32, 4),
        (16, 2),
        (8, 2),
    ]
    want, seen = answers(begin(dataclasses.replace(many, slots=5)), limits)
    assert {slots for slots, _, _ in seen} == {5}
    assert_same(got, want)


@pytest.mark.parametrize(
    ("platform", "tokens", "block"), [("cpu", 4096, 32), ("tpu", 4096, 128), ("tpu", 18, 18)]
)
def test_a_block_of_keys_is_no_longer_than_a_sequence(platform, tokens, block):
    assert kv_cache.key_block(platform, tokens) == block
