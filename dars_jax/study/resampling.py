"""How sure is a mean over seeds and problems?  Bootstrap over both at once.

Two sources of chance decide what an experiment shows: which problems were asked, and which seed
drew the training data and the answers.  Every resample draws seeds and problems anew, with
replacement, and averages over their crossing.  Two arms are compared by resampling the differences
of the same seed and problem.
"""

import dataclasses
import functools
import math

import numpy as np
from scipy import stats

NUM_RESAMPLES = 4000


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A mean and its 95 % interval."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        if math.isinf(self.high):
            return f"{self.mean:+.3f} (one value, no interval)"
        return f"{self.mean:+.3f} ({self.low:+.3f} to {self.high:+.3f})"


def estimate(values: np.ndarray, seed: int = 0) -> Estimate:
    """The mean of float64[seeds, problems] with its 95 % percentile interval.

    With one row it is a bootstrap over problems.  A few seeds cannot show all of their spread:
    resamples of n have (n-1)/n of its variance.  So with one column, where there is nothing but
    seeds, it is Student's interval, that of a single number being everything.
    """
    values = np.asarray(values, np.float64)
    if values.shape[1] == 1:
        return _of_seeds(values[:, 0])
    seeds, problems = _weights(values.shape, seed)
    means = np.einsum("rp,rp->r", seeds @ values, problems)
    low, high = np.quantile(means, [0.025, 0.975])
    return Estimate(float(values.mean()), float(low), float(high))


def _of_seeds(values: np.ndarray) -> Estimate:
    n, mean = len(values), float(values.mean())
    if n == 1:
        return Estimate(mean, -math.inf, math.inf)
    half = stats.t.ppf(0.975, n - 1) * values.std(ddof=1) / math.sqrt(n)
    return Estimate(mean, float(mean - half), float(mean + half))


@functools.lru_cache(maxsize=32)
def _weights(shape: tuple[int, ...], seed: int) -> list[np.ndarray]:
    """How often each resample takes each seed and each problem, as shares: float64[R,size] each."""
    rng = np.random.default_rng(seed)
    return [rng.multinomial(n, np.full(n, 1 / n), NUM_RESAMPLES) / n for n in shape]
