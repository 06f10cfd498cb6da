"""What is no count, no size and no budget, said in one line before any arithmetic.

Values are looked at where they are concrete.  Of traced ones only dtypes and shapes are known.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

MAX_GROUP = 1024  # N**3 and 2 * N**3 must stay below 2**31


def check_counts(num_correct: ArrayLike, num_sampled: ArrayLike) -> None:
    """Refuses what is not counts."""
    shapes = []
    for name, value in (("num_correct", num_correct), ("num_sampled", num_sampled)):
        kind, shape = _kind_and_shape(name, value)
        if not np.issubdtype(kind, np.integer):
            raise ValueError(
                f"{name} is {kind}: give counts of rollouts, as integers, no shares or truths"
            )
        shapes.append(shape)
    try:
        np.broadcast_shapes(*shapes)
    except ValueError:
        raise ValueError(
            f"num_correct has shape {shapes[0]}, num_sampled {shapes[1]}: give one of each for a "
            "prompt, or one num_sampled for all"
        ) from None
    correct, sampled = _concrete(num_correct), _concrete(num_sampled)
    if correct is not None and correct.size and correct.min() < 0:
        raise ValueError(f"num_correct is {correct.min()}: counts are not negative")
    if sampled is not None and sampled.size and sampled.min() < 0:
        raise ValueError(f"num_sampled is {sampled.min()}: counts are not negative")
    if correct is not None and sampled is not None and (correct > sampled).any():
        pairs = np.broadcast_arrays(correct, sampled)
        worst = int(np.argmax(pairs[0] > pairs[1]))
        k, n = (pair.ravel()[worst] for pair in pairs)
        raise ValueError(f"num_correct is {k} where num_sampled is {n}: more correct than sampled")


def check_whole(name: str, value: ArrayLike, least: int | None = None) -> None:
    """Refuses numbers of rollouts that are no integers, below `least`, or beyond int32."""
    kind, _ = _kind_and_shape(name, value)
    if not np.issubdtype(kind, np.integer):
        raise ValueError(
            f"{name} is {_shown(value)}: give a whole number of rollouts, as an integer"
        )
    known = _concrete(value)
    if known is None or not known.size:
        return
    if least is not None and known.min() < least:
        raise ValueError(f"{name} is {known.min()}: give at least {least}")
    if known.max() >= 2**31:
        raise ValueError(f"{name} is {known.max()}: numbers of rollouts stay below 2**31")


def check_sizes(num_sampled: ArrayLike, n_max: ArrayLike) -> None:
    """Refuses groups that are too large, or above their cap."""
    check_whole("n_max", n_max)
    sampled, cap = _concrete(num_sampled), _concrete(n_max)
    if sampled is None or not sampled.size:
        return
    if sampled.max() > MAX_GROUP:
        raise ValueError(f"num_sampled is {sampled.max()}; integers stay exact up to {MAX_GROUP}")
    if cap is not None and (cap < sampled).any():
        caps, sizes = (x.ravel() for x in np.broadcast_arrays(cap, sampled))
        worst = int(np.argmax(caps < sizes))
        raise ValueError(
            f"n_max is {caps[worst]}, below the {sizes[worst]} rollouts already sampled"
        )


def check_budget(name: str, value: ArrayLike) -> None:
    """Refuses a total that is no single whole number, or negative."""
    check_whole(name, value, least=0)
    if shape := _kind_and_shape(name, value)[1]:
        raise ValueError(f"{name} has shape {shape}: give one number for all prompts")


def one_size(name: str, value: Any, least: int) -> int:
    """A static size as an int, refused if it is none."""
    if isinstance(value, jax.core.Tracer):
        raise ValueError(f"{name} is traced: give an int; it is part of the program")
    check_whole(name, value, least)
    if np.ndim(value):
        raise ValueError(f"{name} has shape {np.shape(value)}: give one for all groups")
    return int(value)


def on_device(counts: ArrayLike) -> jax.Array:
    """The counts as int32; those of an empty list, too."""
    return jnp.asarray(counts, jnp.int32)


def _kind_and_shape(name: str, value: ArrayLike) -> tuple[np.dtype, tuple[int, ...]]:
    """Dtype and shape; of nothing at all, as an empty list is, the dtype of counts."""
    if not isinstance(value, jax.Array):
        parts = jax.tree.leaves(value)
        if any(isinstance(part, jax.core.Tracer) for part in parts):
            value = jnp.asarray(value)
        else:
            try:
                value = np.asarray(value)
            except ValueError:
                raise ValueError(f"{name} has rows of different length: give an array") from None
    return (value.dtype if value.size else np.dtype(np.int32)), value.shape


def _shown(value: ArrayLike) -> str:
    """The value if it is one and known, else its dtype."""
    if isinstance(value, jax.core.Tracer) or np.ndim(value):
        return str(getattr(value, "dtype", None) or np.asarray(value).dtype)
    return repr(value) if not isinstance(value, jax.Array) else str(value)


def _concrete(value: ArrayLike) -> np.ndarray | None:
    """The values on the host; None where they are traced, or lie in other processes."""
    if any(isinstance(part, jax.core.Tracer) for part in jax.tree.leaves(value)):
        return None
    if isinstance(value, jax.Array) and not value.is_fully_addressable:
        return None
    return np.asarray(value)
