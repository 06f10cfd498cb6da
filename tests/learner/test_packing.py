"""Packing: every kept token once, with the right neighbour, position and weight; room enough."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dars_jax.learner.packing import BatchShape, arrange, assemble, capacity, lay_out
from dars_jax.types import Prompts, Ragged, Rollouts

LONGEST = 9  # tokens of a completion
INTS = ("tokens", "target", "position", "group", "segment", "bounds")


def make(prompt_lengths, groups, seed=0):
    """Prompts of the given lengths, and rollouts with the lengths listed for each prompt.

    Every token of the data is different, so that its origin can be told from its value.
    """
    number = iter(range(1, 10**6))
    take = lambda n: np.array([next(number) for _ in range(n)], np.int32)  # noqa: E731
    prompts = Prompts(
        tokens=tuple(take(n) for n in prompt_lengths),
        uid=np.arange(len(prompt_lengths)),
        answer=tuple(("",) for _ in prompt_lengths),
    )
    owner = [p for p, mine in enumerate(groups) for _ in mine]
    lengths = np.array([n for mine in groups for n in mine], np.int32)
    tokens = np.full((len(owner), LONGEST), -7, np.int32)
    logprob = np.full((len(owner), LONGEST), -7, np.float32)
    for i, n in enumerate(lengths):
        tokens[i, :n] = take(n)
        logprob[i, :n] = -tokens[i, :n] / 1000
    order = np.random.default_rng(seed).permutation(len(owner))
    blank = np.zeros(len(owner), np.int32)
    return prompts, Rollouts(
        prompt=np.array(owner, np.int32)[order], sample=blank, stage=blank,
        tokens=Ragged.of_rows(tokens, lengths)[order],
        logprob=Ragged.of_rows(logprob, lengths)[order], length=lengths[order],
        truncated=blank.astype(bool), reward=blank.astype(np.float32),
        verdict=blank.astype(np.int8),
    )  # fmt: skip


def check(prompts, rollouts, kept, minibatch, num_minibatches, shape, batch, advantage, weight):
    """Reads the batch back and compares with what went in."""
    flat = lambda x: np.moveaxis(x, 1, 0).reshape(-1, shape.row_tokens)  # noqa: E731
    fields = {name: flat(getattr(batch, name)) for name in (
        "tokens", "target", "position", "group", "segment", "advantage", "weight",
        "sampler_logprob")}  # fmt: skip
    micro = np.repeat(np.arange(shape.micro_batches), shape.rows)
    found = {}
    for r in range(len(micro)):
        row = {name: x[r] for name, x in fields.items()}
        for g in set(row["group"]) - {0}:
            mine = row["group"] == g
            shared = np.flatnonzero(mine & (row["segment"] == 0))
            for s in set(row["segment"][mine]) - {0}:
                at = np.flatnonzero(mine & (row["segment"] == s))
                assert (np.diff(at) == 1).all()
                assert not len(shared) or shared[-1] < at[0]  # causal: the prompt comes first
                seen = np.concatenate([row["tokens"][shared], row["tokens"][at]])
                places = np.concatenate([row["position"][shared], row["position"][at]])
                assert (places == np.arange(len(seen))).all()
                found[tuple(row["target"][at])] = (seen, r, at)
        idle = row["group"] == 0
        assert not row["weight"][idle | (row["segment"] == 0)].any()
        assert not row["tokens"][idle].any()
    expected = 0
    for i in range(len(rollouts)):
        p = rollouts.prompt[i]
        answer = tuple(rollouts.tokens[i])
        if not kept[p]:
            assert answer not in found
            continue
        expected += 1
        seen, r, at = found[answer]
        np.testing.assert_array_equal(seen, [*prompts.tokens[p], *answer[:-1]])
        assert (fields["advantage"][r][at] == advantage[i]).all()
        assert (fields["weight"][r][at] == weight[i]).all()
        np.testing.assert_array_equal(fields["sampler_logprob"][r][at], rollouts.logprob[i])
        j = minibatch[p]
        assert batch.bounds[j] <= micro[r] < batch.bounds[j + 1]
    assert len(found) == expected
    of = kept[rollouts.prompt]
    want = [rollouts.length[of & (minibatch[rollouts.prompt] == j)].sum()
            for j in range(num_minibatches)]  # fmt: skip
    np.testing.assert_array_equal(batch.token_count, want)
    # where no weight is, nothing is predicted
    assert (fields["weight"] > 0).sum() == sum(want)


def draw_work(draw):
    """Arguments of `assemble`: some groups, and a shape that plan.validate would give them."""
    most_prompts, n_max, longest_prompt = draw(st.tuples(*[st.integers(1, 6)] * 3))
    lengths = st.integers(1, LONGEST) if draw(st.booleans()) else st.just(draw(st.sampled_from(
        [1, LONGEST // 2 + 1, LONGEST])))  # fmt: skip
    groups = draw(st.lists(st.lists(lengths, min_size=1, max_size=n_max),
                           min_size=1, max_size=most_prompts))  # fmt: skip
    prompt_lengths = [draw(st.integers(1, longest_prompt)) for _ in groups]
    row_tokens = longest_prompt + LONGEST + draw(st.integers(0, 30))
    rows, num_minibatches = draw(st.integers(1, 4)), draw(st.integers(1, 3))
    prompts, rollouts = make(prompt_lengths, groups)
    kept = np.array([draw(st.booleans()) for _ in groups])
    minibatch = np.array([draw(st.integers(0, num_minibatches - 1)) for _ in groups])
    rng = np.random.default_rng(0)
    advantage, weight = rng.random((2, len(rollouts))).astype(np.float32) + 0.1

    needed = capacity(most_prompts, n_max, longest_prompt, LONGEST, row_tokens, num_minibatches)
    micro_batches = -(-needed // rows) + num_minibatches - 1
    shape = BatchShape(rows, micro_batches, row_tokens, draw(st.booleans()))
    return prompts, rollouts, advantage, weight, kept, minibatch, num_minibatches, shape


@given(st.data())
def test_every_kept_token_is_packed_once_within_the_promised_capacity(data):
    prompts, rollouts, advantage, weight, kept, minibatch, count, shape = draw_work(data.draw)
    batch = assemble(prompts, rollouts, advantage, weight, kept, minibatch, count, shape)
    assert batch.tokens.shape == (shape.rows, shape.micro_batches, shape.row_tokens)
    check(prompts, rollouts, kept, minibatch, count, shape, batch, advantage, weight)


def only(vectors, here):
    """As a process has them that holds these only, in an order of its own."""
    some = np.flatnonzero(here)[::-1]
    part = type(vectors).join([vectors[i] for i in some], vectors.flat.dtype.type)
    start = np.full(len(here), -1, np.int64)
    start[some] = part.start
    return dataclasses.replace(part, start=start, length=vectors.length)


@given(st.data())
def test_rows_need_the_tokens_that_are_in_them_and_no_others(data):
    prompts, rollouts, advantage, weight, kept, minibatch, count, shape = draw_work(data.draw)
    mine = np.flatnonzero([data.draw(st.booleans()) for _ in range(shape.rows)])
    layout = arrange(prompts, rollouts, weight, kept, minibatch, count, shape)
    here = np.isin(layout.row_of(len(rollouts)), mine)
    part = dataclasses.replace(rollouts, tokens=only(rollouts.tokens, here),
                               logprob=only(rollouts.logprob, here))  # fmt: skip
    got = lay_out(layout, prompts, part, advantage, weight, mine)
    want = assemble(prompts, rollouts, advantage, weight, kept, minibatch, count, shape)
    bounds = "bounds", "token_count"
    for name, x in vars(want).items():
        np.testing.assert_array_equal(getattr(got, name), x if name in bounds else x[mine])
        assert getattr(got, name).dtype == x.dtype == (np.int32 if name in INTS else np.float32)


@given(st.data())
def test_where_a_rollout_goes_follows_from_lengths_alone(data):
    prompts, rollouts, _, weight, kept, minibatch, count, shape = draw_work(data.draw)
    nothing = np.zeros(len(rollouts), bool)
    blind = dataclasses.replace(rollouts, tokens=only(rollouts.tokens, nothing),
                                logprob=only(rollouts.logprob, nothing))  # fmt: skip
    of = lambda x: arrange(prompts, x, weight, kept, minibatch, count, shape).row_of(len(x))  # noqa: E731
    assert of(blind).tolist() == of(rollouts).tolist()
    assert ((of(rollouts) >= 0) == kept[rollouts.prompt]).all()


@given(st.data())
def test_ragged_vectors_are_the_rows_of_a_matrix_without_their_ends(data):
    lengths = np.array(data.draw(st.lists(st.integers(0, 5), max_size=8)), np.int32)
    matrix = np.arange(len(lengths) * 5, dtype=np.int32).reshape(-1, 5)
    order = np.array(data.draw(st.permutations(range(len(lengths)))), np.intp)
    ragged = Ragged.of_rows(matrix, lengths)
    assert len(ragged) == len(lengths) and ragged.flat.nbytes == 4 * lengths.sum()
    assert ragged.flat.dtype == np.int32
    for i, vector in zip(order, ragged[order], strict=True):
        assert vector.tolist() == matrix[i, : lengths[i]].tolist()


def test_a_prompt_is_stored_once_for_all_its_rollouts_in_a_row():
    prompts, rollouts = make([6], [[4, 4, 4]])
    ones = np.ones(3, np.float32)
    batch = assemble(prompts, rollouts, ones, ones, np.array([True]), np.array([0]), 1,
                     BatchShape(1, 1, 20))  # fmt: skip
    # 5 + 3 * 4 tokens; apart they would take 3 * (6 + 4) and not fit
    assert int((batch.group > 0).sum()) == 17
    assert batch.bounds.tolist() == [0, 1]


def test_without_sharing_every_rollout_follows_a_prompt_of_its_own():
    prompts, rollouts = make([6, 3], [[4, 4, 4], [2]])
    ones = np.ones(4, np.float32)
    shape = BatchShape(1, 3, 20, share_prompt=False)
    kept, minibatch = np.ones(2, bool), np.zeros(2, int)
    batch = assemble(prompts, rollouts, ones, ones, kept, minibatch, 1, shape)
    assert int((batch.group > 0).sum()) == 3 * (5 + 4) + (2 + 2)
    check(prompts, rollouts, kept, minibatch, 1, shape, batch, ones, ones)
    for row, group in zip(batch.segment.reshape(-1, 20), batch.group.reshape(-1, 20), strict=True):
        assert all(row[group == g].max() == 1 for g in set(group) - {0})


def test_rows_that_do_not_fit_are_refused_with_the_key_to_change():
    prompts, rollouts = make([4] * 5, [[9]] * 5)
    ones = np.ones(5, np.float32)
    arguments = (prompts, rollouts, ones, ones, np.ones(5, bool), np.zeros(5, int), 1)
    assert assemble(*arguments, BatchShape(2, 3, 13)).bounds.tolist() == [0, 3]
    with pytest.raises(ValueError, match=r"3 micro-batches of 2.*learner\.max_micro_batches"):
        assemble(*arguments, BatchShape(2, 2, 13))


def test_nothing_kept_is_an_empty_batch():
    prompts, rollouts = make([4, 2], [[3], [2, 2]])
    ones = np.ones(3, np.float32)
    batch = assemble(prompts, rollouts, ones, ones, np.zeros(2, bool), np.zeros(2, int), 2,
                     BatchShape(2, 3, 16))  # fmt: skip
    assert batch.bounds.tolist() == [0, 0, 0]
    assert batch.token_count.tolist() == [0, 0]
    assert not batch.weight.any()
