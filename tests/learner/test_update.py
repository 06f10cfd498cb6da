"""The compiled update against a loop over rollouts, and against itself under every other cut."""

import dataclasses
import functools

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
    gradient,
    make_work,
    pack,
    run,
    same,
)

from dars_jax.learner import packing as batch_lib
from dars_jax.learner import update


@pytest.fixture(scope="module")
def work():
    """Prompts, rollouts, and the advantage and weight of each rollout.  Ragged on purpose."""
    return make_work()


def test_the_gradient_is_that_of_the_definition(tiny, work, reference_logits):
    plain = PlainUpdate(tiny, reference_logits, work, LOSS)
    old = plain.logprob(tiny.params)
    _, want = plain.value_and_grad(tiny.params, old, np.ones(16, bool), old)
    state, metrics = run(tiny, pack(work))
    got = jax.tree.map(jnp.subtract, tiny.params, state.params)
    assert_close(got, want)
    assert float(metrics["grad_norm"][0]) == pytest.approx(float(optax.tree.norm(want)), rel=1e-4)
    assert int(state.step) == 1


def other_cuts(work):
    shape = batch_lib.BatchShape
    change = functools.partial(dataclasses.replace, CONFIG)
    yield "one row at a time", pack(work, shape(1, 30, 24)), CONFIG
    yield "long rows, loss in small chunks", pack(work, shape(3, 4, 72)), change(chunk=4)
    yield "nothing shared", pack(each_its_own_prompt(work), shape(4, 8, 12)), CONFIG
    yield "activations recomputed, one chunk", pack(work), change(chunk=24, remat="full")


def test_no_cut_of_the_batch_changes_the_gradient(tiny, work):
    want = gradient(tiny, pack(work))
    for name, packed, config in other_cuts(work):
        try:
            assert_close(gradient(tiny, packed, config=config), want, 2e-6)
        except AssertionError as error:
            raise AssertionError(name) from error


def test_an_order_of_prompts_does_not_matter(tiny, work):
    prompts, rollouts, advantage, weight = work
    order = np.random.default_rng(1).permutation(len(rollouts))
    shuffled = (prompts, rollouts.take(order), advantage[order], weight[order])
    assert_close(gradient(tiny, pack(shuffled)), gradient(tiny, pack(work)), 2e-6)


# Epochs, mini-batches and the extra terms, all against the definition -------------------------

REGULARISED = dataclasses.replace(
    LOSS, temperature=0.7, clip_low=0.05, clip_high=0.1, entropy_coef=0.3, kl_coef=0.5
)
CASES = {
    "two epochs": (LOSS, 2, [0] * 5, 1),
    "tight clip, entropy, KL, temperature": (REGULARISED, 2, [0] * 5, 1),
    "mini-batches": (REGULARISED, 1, [0, 1, 1, 0, 1], 2),
    "mini-batches twice": (LOSS, 2, [0, 1, 1, 0, 2], 3),
}


@pytest.mark.parametrize(("loss", "epochs", "minibatch", "count"), CASES.values(), ids=CASES)
def test_an_update_is_that_of_the_definition(
    tiny, work, reference_logits, loss, epochs, minibatch, count
):
    plain = PlainUpdate(tiny, reference_logits, work, loss)
    optimizer, _, _ = compiled(CONFIG, tiny.config, "adamw")
    params, opt_state = tiny.params, optimizer.init(tiny.params)
    reference_params = jax.tree.map(lambda x: x * 0.9, tiny.params)
    old, reference = plain.logprob(params), plain.logprob(reference_params)
    losses = []
    for _ in range(epochs):
        for j in range(count):
            rows = np.array(minibatch)[work[1].prompt] == j
            value, grads = plain.value_and_grad(params, old, rows, reference)
            changes, opt_state = optimizer.update(grads, opt_state, params)
            params = optax.apply_updates(params, changes)
            losses.append(float(value))
    config = dataclasses.replace(CONFIG, loss=loss, num_epochs=epochs, num_minibatches=count)
    packed = pack(work, minibatch=minibatch, num_minibatches=count)
    state, metrics = run(tiny, packed, config, "adamw", reference_params if loss.kl_coef else None)
    np.testing.assert_allclose(metrics["loss"], losses, rtol=1e-3, atol=1e-5)
    assert len(losses) == epochs * count and len(set(losses)) == len(losses)
    assert_close(state.params, params, 2e-5)
    moved = max(float(jnp.abs(x - y).max()) for x, y in zip(
        *map(jax.tree.leaves, (params, tiny.params)), strict=True))  # fmt: skip
    assert moved > 1e-3  # 2e-5 is far below what the update did
    assert (metrics["applied"] == 1).all()
    if epochs > 1 and count == 1:
        assert metrics["clip_fraction"][0] == 0  # on policy
        assert metrics["clip_fraction"][1] > 0
    if loss.kl_coef:
        assert (metrics["kl"] > 0).all()


def test_loss_scale_scales_the_gradient_and_not_the_loss(tiny, work):
    state, metrics = run(tiny, pack(work), dataclasses.replace(CONFIG, loss_scale=8.0))
    plain_state, plain_metrics = run(tiny, pack(work))
    got = jax.tree.map(lambda a, b: (a - b) / 8, tiny.params, state.params)
    assert_close(got, jax.tree.map(jnp.subtract, tiny.params, plain_state.params))
    assert metrics["loss"][0] == plain_metrics["loss"][0]


def test_metrics_are_means_over_predicted_tokens(tiny, work, reference_logits):
    rollouts = work[1]
    plain = PlainUpdate(tiny, reference_logits, work, LOSS)
    logprob, entropy = jax.jit(plain.distribution)(tiny.params)
    _, metrics = run(tiny, pack(work))
    live = plain.live
    assert float(metrics["entropy"][0]) == pytest.approx(float(entropy[live].mean()), rel=1e-4)
    sampler = np.zeros(live.shape)
    for i in range(len(rollouts)):
        sampler[i, live[i]] = rollouts.logprob[i]
    gap = np.abs(sampler - np.asarray(logprob))[live]
    assert float(metrics["logprob_gap"][0]) == pytest.approx(gap.mean(), rel=1e-4)
    assert float(metrics["logprob_gap_max"][0]) == pytest.approx(gap.max(), rel=1e-4)


# What must not happen ---------------------------------------------------------------------------


def test_nothing_kept_changes_nothing(tiny, work):
    state, metrics = run(tiny, pack(work, kept=[False] * 5), kind="adamw")
    assert same(state.params, tiny.params)  # not even the weight decay
    assert metrics["applied"].tolist() == [0]
    assert all(np.isfinite(x).all() for x in metrics.values())


def test_a_gradient_that_is_not_finite_is_not_applied(tiny, work):
    prompts, rollouts, advantage, weight = work
    broken = advantage.copy()
    broken[3] = np.inf
    state, metrics = run(tiny, pack((prompts, rollouts, broken, weight)), kind="adamw")
    assert metrics["applied"].tolist() == [0]
    assert same(state.params, tiny.params)
    optimizer, _, _ = compiled(CONFIG, tiny.config, "adamw")
    assert same(state.opt_state, optimizer.init(tiny.params))
    good, metrics = run(tiny, pack(work), kind="adamw")
    assert metrics["applied"].tolist() == [1] and not same(good.params, tiny.params)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_moments_that_are_not_finite_make_no_weights(tiny, work, value):
    optimizer, shardings, step = compiled(CONFIG, tiny.config, "adamw")
    state = update.init_state(jax.tree.map(jnp.copy, tiny.params), optimizer, shardings)
    moments = jax.tree.map(jnp.copy, state.opt_state)
    moments[1][0].nu["embedding"] = moments[1][0].nu["embedding"].at[7, 3].set(value)
    state = dataclasses.replace(state, opt_state=moments)
    state, metrics = step(state, jax.device_put(pack(work)), None)
    assert metrics["applied"].tolist() == metrics["finite"].tolist() == [0]
    assert same(state.params, tiny.params) and np.isfinite(metrics["grad_norm"]).all()


def test_garbage_in_the_padding_of_a_batch_changes_no_bit_of_the_update(tiny, work):
    packed = pack(work)
    dead = packed.weight == 0
    assert 0 < dead.sum() < dead.size
    want, metrics = run(tiny, packed)
    spoilt = dataclasses.replace(
        packed, advantage=np.where(dead, np.inf, packed.advantage).astype(np.float32),
        sampler_logprob=np.where(dead, -1e4, packed.sampler_logprob).astype(np.float32),
        target=np.where(dead, 3, packed.target).astype(np.int32),
    )  # fmt: skip
    got, others = run(tiny, spoilt)
    assert same(got.params, want.params) and same(others, metrics) and metrics["applied"] == 1


def test_one_program_serves_any_number_of_live_micro_batches(tiny, work):
    step = compiled(CONFIG, tiny.config, "gradient")[2]
    live = set()
    for kept in ([True] * 5, [True, False, False, False, False], [False] * 5):
        packed = pack(work, kept=kept)
        live.add(int(packed.bounds[-1]))
        run(tiny, packed)
    assert len(live) == 3
    shapes = len({b.tokens.shape for _, b, c in other_cuts(work) if c == CONFIG} | {(2, 12, 24)})
    assert step._cache_size() <= shapes


def test_the_state_is_donated(tiny, work):
    optimizer, shardings, step = compiled(CONFIG, tiny.config, "gradient")
    state = update.init_state(jax.tree.map(jnp.copy, tiny.params), optimizer, shardings)
    step(state, jax.device_put(pack(work)), None)
    assert all(x.is_deleted() for x in jax.tree.leaves(state.params))


def test_the_learning_rate_warms_up_from_its_first_share(tiny):
    config = update.OptimizerConfig(1e-2, 4, 0.9, 0.999, 1e-8, 0.0, 1e9)
    optimizer = update.make_optimizer(config)
    params = {"w": jnp.ones(3)}
    state, steps = optimizer.init(params), []
    for _ in range(6):
        changes, state = optimizer.update({"w": jnp.ones(3)}, state, params)
        steps.append(float(-changes["w"][0]))
    # Adam's step for a constant gradient is the learning rate itself
    np.testing.assert_allclose(steps, [0.0025, 0.005, 0.0075, 0.01, 0.01, 0.01], rtol=1e-4)
