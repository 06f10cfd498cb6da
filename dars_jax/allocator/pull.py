"""How loud a group is, and what it costs: sampling against weighting.

With advantages A = w (r - mean), a group of n rollouts at accuracy a pulls with

    sum |A| = n w 2a (1-a).

A method chooses n, and pays in tokens, or w, which is free.  So a method is a target pull g(a) and
a split s between the two: by the factor f = g(a) / (N 2a (1-a)) that N rollouts of weight 1 are
short of the target,

    n = N f^s,  w = f^(1-s).

    target       g(a) / N          s = 0: weighting    s = 1/2                s = 1: sampling
    "grpo"       2a (1-a)          GRPO without std
    "grpo_std"   2 sqrt(a (1-a))   GRPO with std
    "et"         1/2                                                          DARS-ET
    "hw"         1 - a             MaxRL / 2           "hw_half", "ada_est"   DARS-HW
    "maxrl"      2 (1-a)           MaxRL               Reinforce-Ada-Est

DARS tops up below a = 1/2 only; above, a split asks for fewer than N.

What the split buys is a better estimate.  Let a policy have one parameter, the logit of its
accuracy p; the score of a rollout is r - p, and a group estimates the gradient by

    G = w sum (r - mean) (r - p) = w n m (1-m),  m the mean of its rewards.

For a weight that does not depend on the draw, G is w (n-1) times the sample variance of r:

    E G = w (n-1) p (1-p)
    var G = w^2 (n-1)^2 (p (1-p) (1 - 3p (1-p)) / n - (p (1-p))^2 (n-3) / (n (n-1))).

A weight scales both sides alike: at one pull, the noise relative to the signal is that of n alone.
"""

from collections.abc import Callable
from typing import TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from dars_jax.allocator import chances

# Accuracies, float32 in (0, 1) -> the pull of a group per rollout of the first stage.
Target: TypeAlias = Callable[[jax.Array], jax.Array]

TARGETS: dict[str, Target] = {
    "grpo": lambda a: 2 * a * (1 - a),
    "grpo_std": lambda a: 2 * jnp.sqrt(a * (1 - a)),
    "et": lambda a: jnp.full_like(a, 0.5),
    "hw": lambda a: 1 - a,
    "maxrl": lambda a: 2 * (1 - a),
}


def pull(accuracy: ArrayLike, num_rollouts: ArrayLike, weight: ArrayLike = 1.0) -> jax.Array:
    """Sum of |A| of a group, n w 2a (1-a) -> float32."""
    a = jnp.asarray(accuracy, jnp.float32)
    return jnp.asarray(num_rollouts) * jnp.asarray(weight) * 2 * a * (1 - a)


def split(
    target: str | Target, accuracy: ArrayLike, num_rollouts: ArrayLike, *, sampling: ArrayLike
) -> tuple[jax.Array, jax.Array]:
    """Rollouts and weight that give groups a target pull.

    Args:
      target: a name in TARGETS, or g(a) / N as a function of accuracies.
      accuracy: float[prompts]; where it is 0 or 1 no group pulls, and N and 0 come back.
      num_rollouts: N, by which the target counts.
      sampling: s in [0, 1], the share bought by rollouts: 0 is all weight, 1 all rollouts.

    Returns:
      (rollouts float32[prompts], not rounded, weight float32[prompts]).
    """
    g = TARGETS[target] if isinstance(target, str) else target
    a = jnp.asarray(accuracy, jnp.float32)
    mixed = (a > 0) & (a < 1)
    inner = jnp.where(mixed, a, 0.5)
    factor = jnp.where(mixed, g(inner) / (2 * inner * (1 - inner)), 1.0)
    rollouts = jnp.asarray(num_rollouts) * factor**sampling
    return rollouts, jnp.where(mixed, factor ** (1 - jnp.asarray(sampling)), 0.0)


def gradient_moments(
    accuracy: ArrayLike, num_rollouts: ArrayLike, weight: ArrayLike = 1.0
) -> tuple[jax.Array, jax.Array]:
    """Mean and variance of a group's gradient G, for a weight that is given -> float32, float32."""
    p, n = jnp.asarray(accuracy, jnp.float32), jnp.asarray(num_rollouts, jnp.float32)
    spread, more = p * (1 - p), jnp.maximum(n - 1, 1)
    of_the_sample_variance = spread * (1 - 3 * spread) / n - spread**2 * (n - 3) / (n * more)
    scale = jnp.asarray(weight) * (n - 1)
    return jnp.asarray(scale * spread), jnp.asarray(scale**2 * of_the_sample_variance)


def gradient_moments_of_counts(
    accuracy: np.ndarray, num_rollouts: int, weight: Callable[[np.ndarray], np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """The same for a weight that depends on the draw, as 1 / m of MaxRL: a sum over Binomial(n, p).

    Args:
      accuracy: float[prompts], p.
      num_rollouts: n.
      weight: of groups with mean m, float64[n + 1] -> float64[n + 1]; m = 0 and 1 do not matter.

    Returns:
      (mean float64[prompts], variance float64[prompts]).
    """
    mean = np.arange(num_rollouts + 1) / max(num_rollouts, 1)
    inner = np.where((mean > 0) & (mean < 1), mean, 0.5)
    gradient = np.where(mean == inner, num_rollouts * mean * (1 - mean) * weight(inner), 0.0)
    chance = chances.binomial(num_rollouts, accuracy)[num_rollouts]
    first = gradient @ chance
    return first, gradient**2 @ chance - first**2
