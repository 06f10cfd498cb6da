import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from dars_jax.policy.products import product

# shapes of x and of the weight, and how many of the weight's axes x goes into
SHAPES = {
    "wider": ((2, 3, 4), (4, 6), 1),
    "narrower": ((2, 3, 6), (6, 4), 1),
    "heads": ((2, 3, 4), (4, 2, 5), 1),
    "of heads": ((2, 3, 2, 5), (2, 5, 4), 2),
}


def dims(x, inside):
    axes = tuple(range(x.ndim - inside, x.ndim))
    return (axes, tuple(range(inside))), ((), ())


def arrays(name):
    *shapes, inside = SHAPES[name]
    x, weight = (jax.random.normal(jax.random.key(i), s) for i, s in enumerate(shapes))
    return x, weight, dims(x, inside)


@pytest.mark.parametrize("name", SHAPES)
def test_a_product_and_its_gradients_are_those_of_dot_general(name):
    x, weight, how = arrays(name)
    want, pull = jax.vjp(lambda x, w: lax.dot_general(x, w, how), x, weight)
    got, own = jax.vjp(lambda x, w: product(x, w, how), x, weight)
    np.testing.assert_array_equal(got, want)
    cotangent = jax.random.normal(jax.random.key(2), want.shape)
    for ours, theirs in zip(own(cotangent), pull(cotangent), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", SHAPES)
def test_the_narrower_operand_comes_first_in_the_gradient_of_a_weight(name):
    x, weight, how = arrays(name)
    loss = lambda w: jnp.sum(product(x, w, how) ** 2)  # noqa: E731
    made = [e for e in jax.make_jaxpr(jax.grad(loss))(weight).eqns if e.primitive.name[:3] == "dot"]
    first, second = (v.aval.shape[2:] for v in made[-1].invars)  # without tokens
    assert np.prod(first) <= np.prod(second)


def test_what_goes_into_a_frozen_weight_is_not_kept():
    x, weight, how = arrays("wider")
    _, pull = jax.vjp(lambda x: product(x, weight, how), x)
    assert x.shape not in {leaf.shape for leaf in jax.tree.leaves(pull)}
