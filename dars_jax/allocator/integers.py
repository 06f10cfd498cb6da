"""Division and roots of int32 that round up exactly, where floats would now and then be off."""

import jax
import jax.numpy as jnp


def ceil_div(numerator: jax.Array, denominator: jax.Array) -> jax.Array:
    """ceil(numerator / denominator) of int32 >= 0, without the overflow of adding first."""
    return numerator // denominator + (numerator % denominator > 0)


def ceil_div_of_square(a: jax.Array, d: jax.Array) -> jax.Array:
    """ceil(a * a / d) for a <= 2**20 and 0 < d <= a + 1, though a * a needs 41 bits.

    Long division in base 1024: a * a = a * (q d + r), and r * a is divided digit by digit.
    """
    q, r = a // d, a % d
    high, low = a >> 10, a & 1023
    q_high, r_high = (r * high) // d, (r * high) % d
    return a * q + (q_high << 10) + ceil_div((r_high << 10) + r * low, d)


def ceil_sqrt(x: jax.Array) -> jax.Array:
    """Smallest int32 t >= 0 with t * t >= x.  The float root is off by at most one."""
    t = jnp.sqrt(x.astype(jnp.float32)).astype(jnp.int32)
    t = jnp.maximum(t - 2, 0)
    for _ in range(4):
        t = t + (t * t < x)
    return t
