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

    With one column it is a bootstrap over seeds, with one row over problems; the interval of a
    single number is everything.  A few seeds cannot show all of their spread: with n of them the
    resamples have (n-1)/n of its variance.
    """
    values = np.asarray(values, np.float64)
    if values.size == 1:
        return Estimate(float(values.item()), -math.inf, math.inf)
    seeds, problems = _weights(values.shape, seed)
    means = np.einsum("rp,rp->r", seeds @ values, problems)
    low, high = np.quantile(means, [0.025, 0.975])
    return Estimate(float(values.mean()), float(low), float(high))


@functools.lru_cache(maxsize=32)
def _weights(shape: tuple[int, ...], seed: int) -> list[np.ndarray]:
    """How often each resample takes each seed and each problem, as shares: float64[R,size] each."""
    rng = np.random.default_rng(seed)
    return [rng.multinomial(n, np.full(n, 1 / n), NUM_RESAMPLES) / n for n in shape]
