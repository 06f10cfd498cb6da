"""Pages instead of dense caches: the same answers, from shared prompts."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.pallas import tpu as pltpu

from dars_jax.engine import kv_cache
from dars_jax.engine.jetstream_engine import PolicyEngine
from dars_jax.engine.programs import Programs
from dars_jax.engine.session import Request, SamplingConfig, Session
from dars_jax.engine.state import DecodeConfig
from dars_jax.policy import attention, page_kernels, sharding

PROMPT, RESPONSE = 12, 11
DENSE = DecodeConfig(slots=8, prefixes=5, requests=40, prompt_tokens=PROMPT,
                     response_tokens=RESPONSE, eos_ids=(0, 1, 2), filters=False,
                     dtype=jnp.dtype("float32"))  # fmt: skip
LENGTHS = (1, 4, 7, 8, 12)  # one token, whole pages, the longest there may be


def completions(programs, params, limit=RESPONSE, dispatch=5):
    """Tokens and log-probabilities of 40 requests on 5 prompts; two thirds come in late, and two
    of the prompts' rows are given to other prompts in between."""
    rng = np.random.default_rng(0)
    prompts = [rng.integers(3, 61, n).astype(np.int32) for n in (*LENGTHS, 9, 2)]
    session = Session(programs, params, prefill_batch=2)
    session.prefill([(0, i, prompts[i]) for i in range(5)])
    sampling = SamplingConfig(temperature=1.0, max_tokens=limit)

    def ask(first, last, of):
        session.enqueue(
            [Request(0, i, of(i) % 5, (0, 0, 0, of(i), i), limit) for i in range(first, last)],
            sampling,
        )

    def finish():
        while True:
            session.start(dispatch)
            progress = session.finish()
            out.update(session.drain(progress.finished))
            if progress.idle:
                return

    out = {}
    ask(0, 25, lambda i: i % 5)
    session.start(dispatch)
    out.update(session.drain(session.finish().finished))
    ask(25, 27, lambda i: i % 5)
    finish()
    session.prefill([(0, 0, prompts[5]), (0, 1, prompts[6])])
    ask(27, 40, lambda i: (5, 6, 2)[i % 3])
    finish()
    assert len(out) == 40
    return out


def assert_same(got, want):
    for key, (tokens, logprob) in want.items():
        np.testing.assert_array_equal(got[key][0], tokens, str(key))
        np.testing.assert_allclose(got[key][1], logprob, atol=2e-5)


@pytest.fixture(scope="module")
def dense(tiny):
    """(published params, completions) of an engine with dense caches."""
    programs = Programs(DENSE, tiny.config, sharding.make_mesh(1, 1, 1))
    params = programs.publish(tiny.params)
    want = completions(programs, params)
    assert len({len(tokens) for tokens, _ in want.values()}) > 4
    return params, want


@pytest.mark.parametrize(("size", "slots"), [(4, 20), (16, 3)])
def test_pages_give_the_same_completions(tiny, dense, size, slots):
    config = dataclasses.replace(DENSE, page_size=size, slots=slots)
    programs = Programs(config, tiny.config, sharding.make_mesh(1, 1, 1))
    assert_same(completions(programs, dense[0]), dense[1])


@pytest.mark.parametrize(
    ("response", "longest"), [(1, 1), (2, 1), (4, 2), (5, 2), (6, 2), (7, 3), (4096, 1025)]
)
def test_a_block_holds_the_longest_completion(response, longest):
    # after a page's worth less one of prompt; the last token is never fed
    layout = kv_cache.page_layout(4, 2, 8, 3, response)
    assert layout.per_slot == longest
    assert layout.count == 2 * 2 + 3 * longest
    assert layout.width % layout.step == 0


def slots_with(layout, active):
    """A paged cache whose slot i holds numbers of its own, and the numbers."""
    paged = kv_cache.PagedCache((), jnp.zeros((len(active), layout.width), jnp.int32),
                             jnp.arange(layout.slots), layout)  # fmt: skip
    return kv_cache.give((), paged, jnp.zeros(len(active), jnp.int32),
                      jnp.full(len(active), layout.size), jnp.asarray(active))  # fmt: skip


def blocks(paged):
    """First own page of each slot."""
    layout = paged.layout
    return layout.prefixes * layout.per_prefix + np.asarray(paged.block) * layout.per_slot


def test_no_two_slots_own_a_page_however_slots_come_and_go():
    layout = kv_cache.page_layout(4, 2, 8, 8, 6)
    paged = slots_with(layout, np.ones(8, bool))
    before = np.asarray(paged.table)
    order = jnp.asarray([5, 2, 7, 0, 1, 3, 4, 6])
    paged = kv_cache.resize(paged, order, 3, 1)
    np.testing.assert_array_equal(paged.table, before[[5, 2, 7]])
    paged = kv_cache.resize(paged, jnp.arange(3), 8, 1)
    taken = kv_cache.give((), paged, jnp.zeros(8, jnp.int32), jnp.full(8, 4), jnp.arange(8) >= 3)
    own = np.asarray(taken.table)[:, 1 : 1 + layout.per_slot]
    assert len(np.unique(own)) == 8 * layout.per_slot
    np.testing.assert_array_equal(own[:, 0], blocks(taken))


def test_completions_read_the_prompt_where_the_prefill_put_it():
    layout = kv_cache.page_layout(4, 3, 8, 2, 6)
    paged = kv_cache.PagedCache((), jnp.zeros((2, layout.width), jnp.int32), jnp.arange(2), layout)
    paged = kv_cache.give((), paged, jnp.asarray([2, 2]), jnp.asarray([8, 8]), jnp.ones(2, bool))
    np.testing.assert_array_equal(paged.table[:, :2], [[4, 5], [4, 5]])
    assert paged.table[0, 2] != paged.table[1, 2]


@pytest.fixture(scope="module")
def pages():
    """Keys and values [2,9,16,128] of nine pages."""
    keys = jax.random.split(jax.random.key(0))
    return [jax.random.normal(k, (2, 9, 16, 128), jnp.bfloat16) for k in keys]


def test_the_kernel_reads_what_the_gather_reads(pages):
    q = jax.random.normal(jax.random.key(1), (4, 6, 128)) / 11
    table = jnp.asarray(np.random.default_rng(0).integers(0, 9, (4, 4)), jnp.int32)
    length = jnp.asarray([0, 1, 32, 61], jnp.int32)
    want = attention.read_pages(q, *(x.astype(jnp.float32) for x in pages), table, length)
    with pltpu.force_tpu_interpret_mode():
        got = page_kernels.read(q, *pages, table, length, 2)
    np.testing.assert_allclose(got[1:], want[1:], atol=1e-5)
    assert not got[0].any()


def test_the_kernel_writes_what_the_scatter_writes(pages):
    # first and last place of a page, the middle, two idle slots
    at = jnp.asarray([0, 2 * 16 + 15, 5 * 16 + 8, 9 * 16, 8 * 16 + 7, 9 * 16 + 5], jnp.int32)
    new = [jax.random.normal(jax.random.key(i), (6, 2, 128), jnp.bfloat16) for i in (2, 3)]
    want = attention.write_pages(*pages, *new, at)
    assert sum(int((x != y).any(-1).sum()) for x, y in zip(want, pages, strict=True)) == 2 * 2 * 4
    with pltpu.force_tpu_interpret_mode():
        got = page_kernels.write(*pages, *new, at)
    for x, y in zip(got, want, strict=True):
        np.testing.assert_array_equal(x, y)


def test_pages_are_for_tpus_with_whole_or_half_lanes_in_bfloat16():
    half, single = jnp.dtype("bfloat16"), jnp.dtype("float32")
    assert kv_cache.page_size("tpu", 128, half) == kv_cache.page_size("tpu", 64, half) == 128
    for setting in [("tpu", 80, half), ("cpu", 128, half), ("tpu", 128, single)]:
        assert kv_cache.page_size(*setting) == 0


def test_jetstreams_interface_keeps_dense_caches(tiny, dense):
    programs = Programs(dataclasses.replace(DENSE, page_size=4), tiny.config,
                        sharding.make_mesh(1, 1, 1))  # fmt: skip
    engine = PolicyEngine(programs, None, SamplingConfig(max_tokens=RESPONSE),
                          steps_per_dispatch=RESPONSE)  # fmt: skip
    tokens = np.random.default_rng(0).integers(3, 61, LENGTHS[0]).astype(np.int32)
    prefix = engine.prefill(params=dense[0], padded_tokens=np.pad(tokens, (0, PROMPT - 1)),
                            true_length=1, stream=(0, 0, 0, 0, 0))  # fmt: skip
    state = engine.insert(prefix, engine.init_decode_state(), 3)
    _, result = engine.generate(dense[0], state)
    data = result.convert_to_numpy().get_result_at_slot(3)
    np.testing.assert_array_equal(data.tokens[0][data.valid[0] > 0], dense[1][0, 0][0])
