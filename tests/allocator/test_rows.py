"""Rows of further rollouts and of micro-batches: every one once, evenly, in few shapes."""

import numpy as np
import pytest

from dars_jax.allocator import rows


def test_sizes_are_few_and_at_most_half_above():
    sizes = [rows.padded_size(n) for n in range(2000)]
    assert all(n <= size <= max(1.5 * n, 8) for n, size in enumerate(sizes) if n)
    assert sizes[0] == 0 and sorted(set(sizes))[:7] == [0, 8, 12, 16, 24, 32, 48]
    assert len(set(sizes)) == 18


def test_every_further_rollout_has_its_prompt():
    assert rows.expand([2, 0, 3]).tolist() == [0, 0, 2, 2, 2, -1, -1, -1]
    assert rows.expand([0, 0]).tolist() == []


@pytest.mark.parametrize("count", [0, 1, 7, 30])
def test_what_is_kept_is_dealt_once_and_evenly(count):
    kept = np.random.default_rng(0).permutation(np.arange(40) < count)
    dealt = rows.deal(kept, 4)
    assert sorted(dealt[dealt >= 0].tolist()) == np.flatnonzero(kept).tolist()
    real = (dealt >= 0).sum(axis=1)
    assert dealt.shape[0] == 4 and real.max() - real.min() <= 1
