"""Surrogates and corrections: against numpy in float64, under any cut, and the gap that stops."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_updates import (
    CONFIG,
    LENGTH,
    LOSS,
    PlainUpdate,
    assert_close,
    each_its_own_prompt,
    make_work,
    pack,
    run,
    same,
)

from dars_jax import ratios
from dars_jax.learner import loss as loss_lib
from dars_jax.learner.packing import BatchShape
from dars_jax.ratios import FAR
from dars_jax.types import Ragged

CHANGE = functools.partial(dataclasses.replace, LOSS)
LOSSES = {
    "GSPO, sequences masked": CHANGE(
        surrogate="gspo", clip_low=0.01, clip_high=0.02, correction="sequence_mask",
        correction_cap=1.5,
    ),
    "CISPO, truncated": CHANGE(
        surrogate="cispo", clip_low=0.1, clip_high=0.2, correction="truncate", correction_cap=1.3
    ),
    "asymmetric clip, tokens masked": CHANGE(
        clip_low=0.05, clip_high=0.2, correction="token_mask", correction_low=0.8,
        correction_cap=1.6,
    ),
}  # fmt: skip
LIMIT = 0.5  # nats


def update_of(loss):
    return dataclasses.replace(CONFIG, loss=loss, num_epochs=2, gap_limit=LIMIT)


@pytest.fixture(scope="module")
def plain(tiny, reference_logits):
    """The definition; its rollouts have sampler's log-probs a third off the policy's own."""
    prompts, rollouts, advantage, weight = make_work()
    plain = PlainUpdate(tiny, reference_logits, (prompts, rollouts, advantage, weight), LOSS)
    own, noise = np.asarray(plain.logprob(tiny.params)), np.random.default_rng(3)
    logprob = [own[i, plain.live[i]] + 0.3 * noise.normal(size=n)
               for i, n in enumerate(rollouts.length)]  # fmt: skip
    logprob = Ragged.join(logprob, np.float32)
    rollouts = dataclasses.replace(rollouts, logprob=logprob)
    plain.work = prompts, rollouts, advantage, weight
    plain.sampler = np.zeros((len(rollouts), LENGTH))
    plain.sampler[plain.live] = logprob.flat
    plain.pull_back = jax.jit(
        lambda params, cotangent: jax.vjp(plain.logprob, params)[1](cotangent)[0]
    )
    return plain


def by_hand(c, logprob, old, sampler, advantage, weight):
    """Loss of one rollout and its gradient by the log-probs, in float64, tokens one by one."""
    loss, slope = 0.0, np.zeros(len(logprob))
    gaps = old - sampler
    for t in range(len(logprob)):
        ratio = np.exp(logprob[t] - old[t])
        if c.surrogate == "gspo":
            ratio = np.exp(np.mean(logprob - old))
        bounded = min(max(ratio, 1 - c.clip_low), 1 + c.clip_high)
        if c.surrogate == "cispo":
            value, d_value = -advantage * bounded * logprob[t], -advantage * bounded
        elif -advantage * bounded > -advantage * ratio:
            value, d_value = -advantage * bounded, 0.0
        else:
            value, d_value = -advantage * ratio, -advantage * ratio
        w = np.exp(np.sum(gaps) if c.correction == "sequence_mask" else gaps[t])
        if c.correction == "truncate":
            w = min(w, c.correction_cap)
        elif w > c.correction_cap or (c.correction == "token_mask" and w < c.correction_low):
            w = 0.0
        loss += weight * w * value
        slope[t] = weight * w * d_value
    return loss, slope


def two_epochs_by_hand(plain, tiny, c):
    """(losses, parameters after two steps of size 1); JAX only differentiates log-probs."""
    params, losses = tiny.params, []
    old = np.asarray(plain.logprob(params), np.float64)
    for _ in range(2):
        now = np.asarray(plain.logprob(params), np.float64)
        cotangent, total = np.zeros(now.shape), 0.0
        for i, live in enumerate(plain.live):
            loss, cotangent[i, live] = by_hand(
                c, now[i, live], old[i, live], plain.sampler[i, live],
                float(plain.advantage[i]), float(plain.weight[i]),
            )  # fmt: skip
            total += loss
        grads = plain.pull_back(params, jnp.asarray(cotangent, jnp.float32))
        params = jax.tree.map(jnp.subtract, params, grads)
        losses.append(total)
    return losses, params


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
def test_two_epochs_are_those_of_the_definition_in_float64(tiny, plain, loss):
    losses, params = two_epochs_by_hand(plain, tiny, loss)
    state, metrics = run(tiny, pack(plain.work), update_of(loss))
    np.testing.assert_allclose(metrics["loss"], losses, rtol=1e-3, atol=1e-5)
    assert_close(state.params, params, 2e-5)
    assert metrics["clip_fraction"][0] == 0 < metrics["clip_fraction"][1] < 1
    assert 0 < metrics["bounded_fraction"][0] < 1


def test_another_cut_changes_nothing_that_depends_on_whole_sequences(tiny, plain):
    config = update_of(LOSSES["GSPO, sequences masked"])
    want, _ = run(tiny, pack(plain.work), config)
    alone = pack(each_its_own_prompt(plain.work), BatchShape(4, 8, 12))
    got, _ = run(tiny, alone, dataclasses.replace(config, chunk=4))  # sequences over three chunks
    assert_close(got.params, want.params, 2e-6)


@pytest.mark.parametrize("kind", ["truncate", "token_mask", "sequence_mask"])
def test_without_a_gap_a_correction_changes_no_bit(kind):
    rng = np.random.default_rng(0)
    data = {
        "target": rng.integers(0, 61, (3, 24)), "advantage": rng.normal(size=(3, 24)),
        "weight": rng.random((3, 24)) * (rng.random((3, 24)) < 0.8),
        "old_logprob": rng.normal(size=(3, 24)) * 0.1 - 3.0,
        "group": np.ones((3, 24)), "segment": np.repeat(np.arange(4), 6)[None].repeat(3, 0),
    }  # fmt: skip
    data = {k: jnp.asarray(v, jnp.float32 if v.dtype == float else jnp.int32)
            for k, v in data.items()}  # fmt: skip
    data |= {"sampler_logprob": data["old_logprob"], "first": False, "entropy_weight": 0.0}
    hidden, head = (jnp.asarray(rng.normal(size=s), jnp.float32) for s in ((3, 24, 16), (61, 16)))

    @functools.partial(jax.jit, static_argnums=0)
    def gradient(config):
        terms = loss_lib.sequence_terms(data["old_logprob"], data, config)
        return loss_lib.head_gradient(
            hidden, head, jnp.zeros((61, 16)), data | terms, config, 12
        )  # fmt: skip

    corrected = gradient(CHANGE(correction=kind, correction_cap=2.0))
    assert corrected[0].bounded == 0 and float(jnp.abs(corrected[2]).max()) > 1e-3
    assert same(corrected, gradient(LOSS))


# The gap itself ---------------------------------------------------------------------------------


def test_a_gap_above_the_limit_gives_the_state_back(tiny, plain):
    config = update_of(LOSSES["CISPO, truncated"])
    gaps = np.abs(plain.sampler - np.asarray(plain.logprob(tiny.params)))[plain.live]
    assert gaps.mean() < LIMIT
    state, metrics = run(tiny, pack(plain.work), config)
    assert metrics["applied"].tolist() == [1, 1] and metrics["strange"].tolist() == [0, 0]
    for name, value in (("", gaps.mean()), ("_max", gaps.max()), ("_share", (gaps > FAR).mean())):
        np.testing.assert_allclose(metrics["logprob_gap" + name], value, rtol=1e-4)
    assert metrics["logprob_gap_share"][0] > 0 and int(state.step) == 1
    prompts, rollouts, advantage, weight = plain.work
    lower = dataclasses.replace(rollouts.logprob, flat=rollouts.logprob.flat - 2 * LIMIT)
    further = dataclasses.replace(rollouts, logprob=lower)
    two = {"minibatch": [0, 1, 1, 0, 1], "num_minibatches": 2}
    for settings, cut in ((config, {}), (dataclasses.replace(config, num_minibatches=2), two)):
        state, metrics = run(tiny, pack((prompts, further, advantage, weight), **cut), settings)
        assert metrics["strange"].all() and not metrics["applied"].any()
        assert same(state.params, tiny.params) and int(state.step) == 0


def test_an_entropy_target_moves_the_bonus(tiny, plain):
    config = dataclasses.replace(CONFIG, num_epochs=3, entropy_target=100.0, entropy_step=0.02)
    prompts, rollouts, advantage, weight = plain.work
    state, metrics = run(tiny, pack((prompts, rollouts, 0 * advantage, weight)), config)
    entropy = metrics["entropy"]
    np.testing.assert_allclose(metrics["entropy_coef"], [0, 0.02, 0.04])
    np.testing.assert_allclose(metrics["loss"], -metrics["entropy_coef"] * entropy, atol=1e-6)
    np.testing.assert_allclose(state.entropy, [0.06, entropy[2]], rtol=1e-6)
    assert entropy[1] == entropy[0] < entropy[2]
    control = functools.partial(ratios.entropy_control, target=0.5, step=0.25)
    assert [float(control(jnp.float32(c), 0.7)) for c in (1.0, 0.1)] == [0.75, 0]
