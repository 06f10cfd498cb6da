"""Rows of ragged groups, on the host: whose each further rollout is, and in which micro-batch.

For loops that sample in stages and update in micro-batches of one shape.  Padding is -1, an id of
no group: `objective.group_advantages` gives it 0.  Sizes are rounded up, so that there are few
different ones and few programs are compiled.
"""

import numpy as np
from numpy.typing import ArrayLike


def padded_size(count: int) -> int:
    """The least of 8, 12, 16, 24, 32, 48, … that holds `count`, at most half more; 0 for none."""
    if count <= 8:
        return 8 if count else 0
    power = 1 << (count - 1).bit_length()
    return power * 3 // 4 if count <= power * 3 // 4 else power


def expand(more: ArrayLike) -> np.ndarray:
    """The prompt of each further rollout, in order of prompts; -1 fills up to a padded size.

    Args:
      more: int[prompts], not negative.

    Returns:
      int32[padded_size(sum of more)].
    """
    counts = np.asarray(more)
    prompt = np.repeat(np.arange(len(counts), dtype=np.int32), counts)
    return np.pad(prompt, (0, padded_size(len(prompt)) - len(prompt)), constant_values=-1)


def deal(kept: ArrayLike, num_batches: int) -> np.ndarray:
    """Which rollouts each micro-batch takes: one at a time to each in turn, -1 where none is left.

    Args:
      kept: bool[rollouts], those that enter the update.
      num_batches: at least 1.

    Returns:
      int32[num_batches, rows], indices; numbers of real rows differ by one at most.
    """
    mine = np.flatnonzero(np.asarray(kept)).astype(np.int32)
    rows = padded_size(-(-len(mine) // num_batches))
    dealt = np.full(rows * num_batches, -1, np.int32)
    dealt[: len(mine)] = mine
    return dealt.reshape(rows, num_batches).T
