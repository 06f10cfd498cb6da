"""Products of tokens and weights, and the gated unit, in the forms that compilers take to."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def product(x: jax.Array, weight: jax.Array, dims: Any, precision: Any = None) -> jax.Array:
    """`lax.dot_general` of x [b…,in…] and a weight [in…,out…], made for its gradient on CPUs.

    There XLA transposes the first operand of a weight's gradient, a column at a time, and all that
    is fused into it.  Here that operand is the narrower one; jax's rule takes the cotangent.
    """
    return jax.lax.dot_general(x, weight, dims, precision)


def _product_forward(x: Any, weight: Any, dims: Any, precision: Any) -> Any:
    out = jax.lax.dot_general(x.value, weight.value, dims, precision)  # which `remat=dots` saves
    return out, (x.value if weight.perturbed else None, weight.value)  # a frozen one needs no x


def _product_backward(dims: Any, precision: Any, saved: Any, cotangent: jax.Array) -> Any:
    x, weight = saved
    (_, inside), _ = dims
    inward, outward = weight.shape[: len(inside)], weight.shape[len(inside) :]
    batch = tuple(range(cotangent.ndim - len(outward)))
    dot = functools.partial(jax.lax.dot_general, precision=precision)
    outs = tuple(range(len(batch), cotangent.ndim)), tuple(range(len(inside), weight.ndim))
    d_x = dot(cotangent, weight, (outs, ((), ())))
    if x is None:
        return d_x, None
    over = (batch, batch), ((), ())
    if np.prod(inward) <= np.prod(outward):
        return d_x, dot(x, cotangent, over)
    d_weight = dot(cotangent, x, over)  # [out…,in…]
    return d_x, jnp.moveaxis(d_weight, range(len(outward)), range(-len(outward), 0))


product.defvjp(_product_forward, _product_backward, symbolic_zeros=True)


def _silu_times(gate: jax.Array, up: jax.Array) -> jax.Array:
    return jax.nn.silu(gate) * up


@jax.custom_vjp
def gated(gate: jax.Array, up: jax.Array) -> jax.Array:
    """silu(gate) * up, written to memory once, and its gradient too.

    Fused into the matrix products that use them, TPUs compute them again for every tile of a
    product: 12.2 million cycles for one that takes 4.4 (7B on v5e).
    """
    return jax.lax.optimization_barrier(_silu_times(gate, up))


def _gated_backward(gate_and_up: tuple[jax.Array, jax.Array], cotangent: jax.Array) -> Any:
    _, pull = jax.vjp(_silu_times, *gate_and_up)
    return jax.lax.optimization_barrier(pull(cotangent))


gated.defvjp(lambda gate, up: (gated(gate, up), (gate, up)), _gated_backward)
