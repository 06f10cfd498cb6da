"""What is kept of past gradients: how large it is, where it lies, and whether it is enough."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from small_updates import CONFIG, make_work, pack

from dars_jax.learner import memory, update
from dars_jax.policy import decoder, sharding
from dars_jax.types import TrainState

MODEL = decoder.ARCHITECTURES["qwen2.5-math-1.5b"]
TINY = decoder.ModelConfig(61, 2, 32, 4, 2, 8, 48, family="qwen2", qkv_bias=True)


def made(moments, **changes):
    settings = {"learning_rate": 1e-2, "warmup_steps": 0, "beta1": 0.9, "beta2": 0.99, "eps": 1e-30,
                "weight_decay": 0.0, "clip_norm": 1e9} | changes  # fmt: skip
    return update.make_optimizer(update.OptimizerConfig(**settings, moments=moments))


@pytest.mark.parametrize("moments", update.MOMENTS)
def test_a_parameter_takes_the_bytes_that_are_planned_for_it(moments):
    params = decoder.abstract_params(MODEL)
    state = (params, jax.eval_shape(made(moments).init, params))
    size = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(state))
    np.testing.assert_allclose(size / MODEL.num_params(), memory.state_bytes(moments), rtol=0.01)


def test_factors_are_of_matrices_and_never_of_layers():
    state = jax.eval_shape(made("factored").init, decoder.abstract_params(MODEL))
    factors = next(x for x in state if isinstance(x, optax.FactoredState))
    layers, width, inner = MODEL.num_layers, MODEL.d_model, MODEL.d_ff
    assert factors.v_row["layers"]["up"]["kernel"].shape == (layers, width)
    assert factors.v_col["layers"]["up"]["kernel"].shape == (layers, inner)
    norms = [x for x in jax.tree.leaves(factors.v) if x.shape == (layers, width)]
    assert len(norms) == 2  # whole


def test_moments_lie_with_their_parameter_and_factors_everywhere():
    mesh = sharding.make_mesh(1, 1, 1, jax.devices()[:1])
    optimizer = made("factored")
    where = update.state_shardings(MODEL, optimizer, mesh)
    first = next(x for x in where.opt_state if isinstance(x, optax.EmaState)).ema
    assert first == where.params
    factors = next(x for x in where.opt_state if isinstance(x, optax.FactoredState))
    assert all(not any(x.spec) for x in jax.tree.leaves((factors.v_row, factors.v_col)))
    assert factors.v["layers"]["mlp_norm"] == where.params["layers"]["mlp_norm"]


def test_factors_are_enough_where_squares_have_rank_one():
    rng = np.random.default_rng(0)
    square = np.outer(rng.uniform(1, 9, 128), rng.uniform(1, 9, 130)) ** 0.5
    params = {"w": jnp.zeros(square.shape)}
    mine, adam = made("factored", beta1=0.0), optax.adam(1e-2, 0.0, 0.99, 1e-30)
    states = [o.init(params) for o in (mine, adam)]
    for size in (1.0, 0.1, 3.0):
        signs = rng.choice([-1, 1], square.shape)
        grads = {"w": jnp.asarray(size * square * signs, jnp.float32)}
        got, states[0] = mine.update(grads, states[0], params)
        want, states[1] = adam.update(grads, states[1], params)
        np.testing.assert_allclose(got["w"], want["w"], rtol=1e-2)  # the first moment is bfloat16


def test_an_update_gives_back_the_forms_that_it_takes(monkeypatch):
    monkeypatch.setattr(update, "_FACTORED_FROM", 8)
    optimizer, mesh = made("factored"), sharding.make_mesh(1, 1, 1, jax.devices()[:1])
    step = update.make_update(CONFIG, TINY, optimizer, mesh)
    number = jax.ShapeDtypeStruct((), jnp.int32)
    params = decoder.abstract_params(TINY)
    state = TrainState(number, params, jax.eval_shape(optimizer.init, params))
    after, _ = jax.eval_shape(step, state, pack(make_work()), None)
    forms = [[(x.shape, x.dtype) for x in jax.tree.leaves(s)] for s in (state, after)]
    assert forms[0] == forms[1]
    kinds = [x.dtype for x in jax.tree.leaves(state.opt_state)]
    assert kinds.count(jnp.bfloat16) == len(jax.tree.leaves(params))
