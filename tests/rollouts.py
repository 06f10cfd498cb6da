"""Prompts, settings and the counts that follow from them, for tests of the stage loop."""

import numpy as np

from dars_jax.allocator import top_up
from dars_jax.engine.session import SamplingConfig
from dars_jax.rollout.scheduler import RolloutConfig
from dars_jax.types import Prompts

EOS = tuple(range(8))
CONFIG = RolloutConfig(
    n_pre=4, n_max=12, schedule="hw", num_stages=2, use_std=False,
    sampling=SamplingConfig(temperature=1.0, max_tokens=12), steps_per_dispatch=16,
)  # fmt: skip

COUNT = 11  # of prompts: one shape, so that the allocation is compiled once


def make_prompts(count=COUNT):
    rng = np.random.default_rng(0)
    return Prompts(
        tokens=tuple(rng.integers(8, 61, 1 + i % 10).astype(np.int32) for i in range(count)),
        uid=np.arange(count) * 7 + 3,
        # a completion is right if the sum of its ids is a multiple of this
        answer=tuple((str([1, 2, 9, 10**9][i % 4]),) for i in range(count)),
    )


def expected_counts(n_pre, n_max, schedule, num_stages, is_right):
    """Rollouts of one prompt, one stage after the other."""
    n, stages = n_pre, [n_pre]
    while schedule != "none" and len(stages) < num_stages:
        k = sum(is_right(i) for i in range(n))
        more = int(top_up(np.array([k]), np.array([n]), schedule=schedule, n_max=n_max)[0])
        if not more:
            break
        stages.append(more)
        n += more
    return stages
