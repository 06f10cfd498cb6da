"""The update of adapters against autodiff through merged weights, and what it must not make."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from small_updates import (
    CONFIG,
    LOSS,
    PlainUpdate,
    assert_close,
    compiled,
    each_its_own_prompt,
    make_work,
    pack,
)

from dars_jax.learner import memory, packing, update
from dars_jax.learner.gradient import Passes
from dars_jax.policy import decoder, lora
from dars_jax.policy.attention import packed_attention

LORA = lora.Lora(rank=3, alpha=6.0, targets=("q", "o", "up", "down"))
WITH = dataclasses.replace(CONFIG, lora=LORA)


@pytest.fixture(scope="module")
def work():
    return make_work()


@pytest.fixture(scope="module")
def adapters(tiny):
    """Adapters that are no longer fresh."""
    rng = np.random.default_rng(0)
    shapes = lora.learning(tiny.config, LORA)
    return jax.tree.map(lambda x: rng.normal(0, 0.15, x.shape).astype(np.float32), shapes)


def run(tiny, adapters, packed, config=WITH, kind="gradient"):
    optimizer, shardings, step = compiled(config, tiny.config, kind)
    state = update.init_state(jax.device_put(adapters), optimizer, shardings)
    return step(state, jax.device_put(packed), tiny.params)


def gradient(tiny, adapters, packed, config=WITH):
    state, _ = run(tiny, adapters, packed, config)
    return jax.tree.map(jnp.subtract, adapters, state.params)


def merged(tiny, adapters):
    return lora.merged(lora.whole(LORA, tiny.params, adapters))


def test_the_gradient_is_that_through_merged_weights(tiny, adapters, work, reference_logits):
    plain = PlainUpdate(tiny, reference_logits, work, LOSS)
    old = plain.logprob(merged(tiny, adapters))
    loss = lambda a: plain.loss(merged(tiny, a), old, np.ones(16, bool), old)  # noqa: E731
    want = jax.jit(jax.grad(loss))(adapters)
    state, metrics = run(tiny, adapters, pack(work))
    assert_close(jax.tree.map(jnp.subtract, adapters, state.params), want)
    assert float(metrics["grad_norm"][0]) == pytest.approx(float(optax.tree.norm(want)), rel=1e-4)


def test_no_cut_of_the_batch_changes_the_gradient(tiny, adapters, work):
    want = gradient(tiny, adapters, pack(work))
    alone = pack(each_its_own_prompt(work), packing.BatchShape(4, 8, 12))
    again = dataclasses.replace(WITH, chunk=4, remat="full")
    assert_close(gradient(tiny, adapters, alone, again), want, 2e-6)


def test_only_adapters_learn_and_the_penalty_is_against_their_base(
    tiny, adapters, work, reference_logits
):
    config = dataclasses.replace(WITH, loss=dataclasses.replace(LOSS, kl_coef=0.5))
    before = jax.tree.map(np.array, tiny.params)
    state, metrics = run(tiny, adapters, pack(work), config, "adamw")
    assert metrics["applied"].tolist() == [1]
    jax.tree.map(np.testing.assert_array_equal, tiny.params, before)  # and not donated
    shapes = jax.tree.map(jnp.shape, lora.learning(tiny.config, LORA))
    assert jax.tree.map(jnp.shape, state.params) == shapes
    assert jax.tree.map(jnp.shape, optax.tree.get(state.opt_state, "mu")) == shapes
    for x, y in zip(*map(jax.tree.leaves, (state.params, adapters)), strict=True):
        assert (x != y).any()
    plain = PlainUpdate(tiny, reference_logits, work, LOSS)
    policy, base = (plain.logprob(p) for p in (merged(tiny, adapters), tiny.params))
    k = (base - policy)[plain.live]
    assert float(metrics["kl"][0]) == pytest.approx(float((jnp.exp(k) - 1 - k).mean()), rel=1e-3)
    _, metrics = run(tiny, lora.init(tiny.config, LORA, 0), pack(work), config, "adamw")
    assert float(metrics["kl"][0]) == 0


def made(jaxpr):
    """Shapes of all float arrays that a program makes, in its loops, too."""
    for eqn in jaxpr.eqns:
        yield from (v.aval.shape for v in eqn.outvars if eqn.primitive.name == "dot_general")
        for value in jax.tree.leaves(
            list(eqn.params.values()), is_leaf=lambda x: hasattr(x, "eqns")
        ):
            value = getattr(value, "jaxpr", value)
            if hasattr(value, "eqns"):
                yield from made(value)


def test_no_gradient_of_a_weight_is_ever_made(tiny, adapters):
    config = dataclasses.replace(tiny.config, d_model=36, d_ff=52)  # sizes like no other array's
    params = decoder.abstract_params(config)
    ints, floats = (jax.ShapeDtypeStruct((5, 7), t) for t in (jnp.int32, jnp.float32))
    arrays = dict.fromkeys(("tokens", "target", "position", "group", "segment"), ints)
    arrays |= dict.fromkeys(("advantage", "weight", "sampler_logprob", "old_logprob"), floats)
    arrays |= {"first": jax.ShapeDtypeStruct((), bool), "entropy_weight": 0.0}
    passes = Passes(model=config, attention=packed_attention, loss=LOSS, specs=None,
                    gather="epoch", chunk=7, dtype=jnp.float32, remat="full")  # fmt: skip

    def shapes(weights):
        total = jax.eval_shape(passes.zeros, weights)
        program = jax.make_jaxpr(passes.add_gradient)(weights, total, arrays).jaxpr
        return {tuple(sorted(shape)) for shape in made(program)}  # some are made transposed

    def of_layers(tree):
        return {tuple(sorted(x.shape[1:])) for x in jax.tree.leaves(tree["layers"]) if x.ndim > 2}

    weights = of_layers(params) | {tuple(sorted(params["head"].shape))}
    assert len(weights & shapes(params)) > 3  # where all learns, there are such products
    whole = lora.joined(params, lora.learning(config, LORA))
    assert not weights & shapes(whole)
    assert of_layers(lora.learning(config, LORA)) <= shapes(whole)


def test_memory_is_planned_without_moments_and_accumulators_of_frozen_weights():
    model = decoder.ARCHITECTURES["qwen2.5-math-1.5b"]
    few = lora.count(model, lora.Lora(16, 16.0, lora.TARGETS))

    def needed(adapters, mesh=(1, 1, 1), gather="epoch"):
        work = memory.Work(model, mesh, rows=1, row_tokens=4096, micro_batches=8, chunk=1024,
                           itemsize=2, adapters=adapters)  # fmt: skip
        return memory.update_bytes(work, gather, "full")

    n = model.num_params()
    # 12 bytes of state, 6 of weights and accumulators, against the 2 of the weights themselves
    assert needed(None) - needed(0) == pytest.approx((12 + 6 - 2) * n)
    assert needed(few) - needed(0) == pytest.approx((12 + 6) * few)
    # spread, and gathered once more: whole, or but for the layers
    assert needed(0, (1, 4, 1)) - needed(0) == pytest.approx((2 / 4 + 2 - 2) * n)
    head = model.vocab_size * model.d_model
    one_layer = (n - head) / model.num_layers * 2 * 2
    by_layer = needed(0, (1, 4, 1), "layer") - one_layer
    assert by_layer - needed(0) == pytest.approx(2 / 4 * n + 2 * head - 2 * n)
