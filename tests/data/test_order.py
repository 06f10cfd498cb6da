"""The order in which training takes its prompts."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dars_jax.data.prompts import batch_indices

SIZES = {"num_examples": st.integers(1, 60), "batch_size": st.integers(1, 80)}


@given(**SIZES, seed=st.integers(0, 2**40), epoch=st.integers(0, 5))
def test_every_epoch_uses_every_example_once(num_examples, batch_size, seed, epoch):
    steps = -(-num_examples // batch_size)
    batches = [
        batch_indices(num_examples, batch_size, seed, epoch * steps + i) for i in range(steps)
    ]
    assert {e for e, _ in batches} == {epoch}
    assert [len(b) for _, b in batches[:-1]] == [batch_size] * (steps - 1)
    assert sorted(np.concatenate([b for _, b in batches])) == list(range(num_examples))


@given(batch_size=st.integers(1, 50), seed=st.integers(0, 99))
def test_the_order_of_an_epoch_does_not_depend_on_the_batch_size(batch_size, seed):
    steps = -(-50 // batch_size)
    order = np.concatenate([batch_indices(50, batch_size, seed, i)[1] for i in range(steps)])
    np.testing.assert_array_equal(order, batch_indices(50, 50, seed, 0)[1])


def test_orders_differ_between_epochs_and_seeds():
    orders = {tuple(batch_indices(50, 50, s, e)[1].tolist()) for s in range(3) for e in range(3)}
    assert len(orders) == 9


@pytest.mark.parametrize("arguments", [(0, 1, 0, 0), (1, 0, 0, 0), (1, 1, -1, 0), (1, 1, 0, -1)])
def test_sizes_and_steps_below_their_minimum_are_refused(arguments):
    with pytest.raises(ValueError, match="batch_indices needs"):
        batch_indices(*arguments)
