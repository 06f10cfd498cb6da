"""Small arrays on meshes whose axes are Explicit, where gathers and scatters must say what they do.

Counts, rewards and group ids are a few numbers per rollout.  So what reads one by the value of
another has all of it on every device, and gives its answer back as the question lay.  Arrays on
Auto or Manual axes, and on one device, pass through.
"""

import jax
from jax.sharding import NamedSharding, PartitionSpec

_WHOLE = PartitionSpec()  # type: ignore[no-untyped-call]


def gathered(x: jax.Array) -> jax.Array:
    """The same values, all on every device along Explicit axes.  Any shape and dtype."""
    return _moved(x, x, _WHOLE)


def spread_as(x: jax.Array, model: jax.Array) -> jax.Array:
    """The same values, over Explicit axes as `model` of the same shape is."""
    return _moved(x, model, jax.typeof(model).sharding.spec)


def _moved(x: jax.Array, model: jax.Array, spec: PartitionSpec) -> jax.Array:
    sharding = jax.typeof(model).sharding
    if all(axis is None for axis in sharding.spec):
        return x
    target = NamedSharding(sharding.mesh, spec)
    moved: jax.Array = jax.sharding.reshard(x, target)  # type: ignore[no-untyped-call]
    return moved
