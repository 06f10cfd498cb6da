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


def test_a_sampler_of_one_shape_gets_batches_of_it():
    assert rows.expand([3, 4], batch_size=4).tolist() == [[0, 0, 0, 1], [1, 1, 1, -1]]
    assert rows.expand([0], batch_size=4).shape == (0, 4)
    assert rows.expand([]).shape == (0,)


def test_rows_of_a_micro_batch_are_spread_evenly_over_devices():
    assert rows.deal([True] * 50, 2, multiple=16).shape == (2, 32)
    assert rows.deal([True] * 5, 2, multiple=16).shape == (2, 16)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: rows.expand([-1, 2]), "least -1"),
        (lambda: rows.expand([1.5]), "more is float64"),
        (lambda: rows.expand([3], batch_size=0), "batch_size is 0"),
        (lambda: rows.deal([0, 2], 2), "kept is int64.*: give a bool for each rollout"),
        (lambda: rows.deal([True], 0), "num_batches is 0"),
    ],
)
def test_what_are_no_rows_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
