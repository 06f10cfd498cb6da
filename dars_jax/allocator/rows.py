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


def expand(more: ArrayLike, batch_size: int | None = None) -> np.ndarray:
    """The prompt of each further rollout, in order of prompts; -1 fills up.

    Args:
      more: int[prompts], not negative.
      batch_size: rollouts that a sampler draws at once, for one whose program has one shape.

    Returns:
      int32[padded_size(sum of more)], or int32[batches, batch_size] where a size is given.

    Raises:
      ValueError: counts that are no whole numbers, are negative, or are not in one row.
    """
    counts = np.asarray(more)
    counts = counts if counts.size else counts.astype(int)  # an empty list has floats
    if counts.ndim != 1 or counts.dtype.kind not in "iu" or (counts.size and counts.min() < 0):
        raise ValueError(
            f"more is {counts.dtype}{list(counts.shape)}, least {min(counts.ravel(), default=0)}: "
            "give the further rollouts of each prompt, int[prompts], none negative"
        )
    if batch_size is not None and batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}: a sampler draws one rollout at least")
    prompt = np.repeat(np.arange(len(counts), dtype=np.int32), counts)
    size = (
        padded_size(len(prompt)) if not batch_size else -(-len(prompt) // batch_size) * batch_size
    )
    prompt = np.pad(prompt, (0, size - len(prompt)), constant_values=-1)
    return prompt.reshape(-1, batch_size) if batch_size else prompt


def deal(kept: ArrayLike, num_batches: int, *, multiple: int = 1) -> np.ndarray:
    """Which rollouts each micro-batch takes: one at a time to each in turn, -1 where none is left.

    Args:
      kept: bool[rollouts], those that enter the update.
      num_batches: at least 1.
      multiple: devices over which the rows of a micro-batch are spread evenly.

    Returns:
      int32[num_batches, rows], indices; numbers of real rows differ by one at most.

    Raises:
      ValueError: `kept` that is no truth per rollout (indices, say), or no batch.
    """
    kept = np.asarray(kept)
    if kept.dtype != bool or kept.ndim != 1:
        raise ValueError(f"kept is {kept.dtype}{list(kept.shape)}: give a bool for each rollout")
    if num_batches < 1:
        raise ValueError(f"num_batches is {num_batches}: deal to one micro-batch at least")
    mine = np.flatnonzero(kept).astype(np.int32)
    rows = -(-padded_size(-(-len(mine) // num_batches)) // multiple) * multiple
    dealt = np.full(rows * num_batches, -1, np.int32)
    dealt[: len(mine)] = mine
    return dealt.reshape(rows, num_batches).T
