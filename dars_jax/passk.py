"""Unbiased Pass@k from n answers per problem, and how sure we can be of its mean."""

import numpy as np


def pass_at_k(num_samples: np.ndarray, num_correct: np.ndarray, k: int) -> np.ndarray:
    """Chance that at least one of k answers, drawn from the n given, is correct.

    1 - C(n-c, k) / C(n, k) (Chen et al., arXiv 2107.03374, eq. 1), as a sum of logarithms of the
    c factors 1 - k/i: no factorial is formed, and the result keeps about 15 digits at n = 10^4.

    Args:
      num_samples: int[problems], answers n drawn for each problem (they may differ).
      num_correct: int[problems], correct ones c among them.
      k: 1 <= k <= min(num_samples).

    Returns:
      float64[problems].

    Raises:
      ValueError: k out of range, or c outside 0..n.
    """
    n, c = np.broadcast_arrays(np.asarray(num_samples), np.asarray(num_correct))
    if np.any((c < 0) | (c > n)):
        raise ValueError("num_correct must lie between 0 and num_samples")
    if k < 1 or (n.size and k > n.min()):
        raise ValueError(f"k={k} must lie between 1 and the fewest samples, {n.min()}")
    pairs, where = np.unique(np.stack([n.ravel(), c.ravel()]), axis=1, return_inverse=True)
    values = np.array([_pass_at_k(int(ni), int(ci), k) for ni, ci in pairs.T], np.float64)
    return values[where.ravel()].reshape(n.shape)


def _pass_at_k(n: int, c: int, k: int) -> float:
    if n - c < k:
        return 1.0
    return float(-np.expm1(np.sum(np.log1p(-k / np.arange(n - c + 1, n + 1)))))


def bootstrap_interval(
    values: np.ndarray, *, seed: int, level: float = 0.95, num_resamples: int = 2000
) -> tuple[float, float]:
    """Percentile interval of the mean of float[problems], resampling problems."""
    values = np.asarray(values, np.float64)
    rng = np.random.default_rng(seed)
    draws = rng.integers(0, len(values), size=(num_resamples, len(values)))
    tail = (1 - level) / 2
    low, high = np.quantile(values[draws].mean(axis=1), [tail, 1 - tail])
    return float(low), float(high)
