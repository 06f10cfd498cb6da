"""What the counts so far say about a prompt: its accuracy, and what further rollouts may bring.

k of N rollouts were right.  Under a Beta(alpha, beta) prior the accuracy has the posterior
Beta(k + alpha, N - k + beta), and chances of further rollouts are ratios of products.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike


def accuracy(
    num_correct: ArrayLike, num_sampled: ArrayLike, prior: tuple[float, float] = (0, 0)
) -> jax.Array:
    """Mean of the posterior, (k + alpha) / (N + alpha + beta) -> float32[prompts].

    The prior (0, 0) gives the plain frequency k / N, 0 where N = 0; (1, 1) is the uniform one.
    """
    alpha, beta = prior
    k, n = jnp.asarray(num_correct, jnp.float32), jnp.asarray(num_sampled, jnp.float32)
    total = n + alpha + beta
    return (k + alpha) / jnp.where(total > 0, total, 1)


def chance_all_miss(
    num_correct: ArrayLike, num_sampled: ArrayLike, more: int, prior: tuple[float, float] = (1, 1)
) -> jax.Array:
    """Posterior chance that all of `more` further rollouts are wrong -> float32[prompts].

    prod over j < more of (N - k + beta + j) / (N + alpha + beta + j); HORA (arXiv 2605.07114)
    with the uniform prior.
    """
    alpha, beta = prior
    wrong = jnp.asarray(num_sampled, jnp.float32) - jnp.asarray(num_correct, jnp.float32) + beta
    total = jnp.asarray(num_sampled, jnp.float32) + alpha + beta
    j = jnp.arange(more, dtype=jnp.float32)
    return jnp.prod((wrong[..., None] + j) / (total[..., None] + j), axis=-1)


def chance_useful(accuracy: ArrayLike, num_rollouts: ArrayLike) -> jax.Array:
    """Chance that a group has right and wrong rollouts, 1 - a^n - (1-a)^n -> float32."""
    a, n = jnp.asarray(accuracy, jnp.float32), jnp.asarray(num_rollouts)
    return jnp.where(n > 0, 1 - a**n - (1 - a) ** n, 0.0)


def binomial(most: int, accuracy: np.ndarray) -> list[np.ndarray]:
    """Chances of k right ones among n, for each n = 0 ... most: float64[n + 1, len(accuracy)]."""
    return list(_binomial(most, tuple(np.asarray(accuracy, np.float64).tolist())))


@functools.lru_cache(maxsize=32)
def _binomial(most: int, accuracy: tuple[float, ...]) -> tuple[np.ndarray, ...]:
    p = np.array(accuracy)
    rows = [np.ones((1, len(p)))]
    for _ in range(most):
        none = np.zeros((1, len(p)))
        rows.append(np.vstack([rows[-1] * (1 - p), none]) + np.vstack([none, rows[-1] * p]))
    return tuple(rows)
