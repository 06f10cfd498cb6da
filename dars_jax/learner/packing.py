"""Ragged graded groups → packed rows.  Runs on the host, between two compiled programs.

A row of T tokens holds pieces of groups.  A piece is a group's prompt, stored once, and as many of
its rollouts as fit behind it:

    p0 p1 | p2 a0 a1 a2 | p2 b0 b1 | …        prompt p0 p1 p2, rollouts a, b
    segment 0   segment 1     segment 2

The last prompt token is repeated in front of every rollout, since it predicts that rollout's first
token; a rollout's last token predicts nothing and is left out.  A rollout of n tokens so costs
exactly n, and a prompt of L tokens L-1 per piece, instead of L + n per rollout.

A kernel that knows equality of segments only needs whole sequences: without `share_prompt` a piece
holds a single rollout.

What goes where follows from lengths alone, so that processes agree on it without each other's
tokens; each then lays out the rows of its own devices.
"""

import bisect
import dataclasses
from collections.abc import Sequence

import numpy as np

from dars_jax.types import Prompts, Rollouts, UpdateBatch


@dataclasses.dataclass(frozen=True)
class BatchShape:
    """Static sizes of an UpdateBatch: b rows x M micro-batches x T tokens."""

    rows: int
    micro_batches: int
    row_tokens: int
    share_prompt: bool = True  # a piece may hold several rollouts of its group


@dataclasses.dataclass(frozen=True)
class _Piece:
    group: int
    rollouts: np.ndarray  # indices into Rollouts
    size: int  # tokens


@dataclasses.dataclass(frozen=True)
class Layout:
    """Which pieces lie in which row; row r is row r % b of micro-batch r // b."""

    shape: BatchShape
    rows: list[list[_Piece]]
    bounds: np.ndarray  # int32[J+1], see UpdateBatch
    token_count: np.ndarray  # float32[J]

    def row_of(self, count: int) -> np.ndarray:
        """int32[N]: which of the b rows of a micro-batch each of N rollouts is in; -1 if none."""
        out = np.full(count, -1, np.int32)
        placed = [(r % self.shape.rows, p.rollouts) for r, row in enumerate(self.rows) for p in row]
        if placed:
            row, members = zip(*placed, strict=True)
            out[np.concatenate(members)] = np.repeat(row, [len(x) for x in members])
        return out


def _pieces(
    group: int, rollouts: np.ndarray, lengths: np.ndarray, prefix: int, shape: BatchShape
) -> list[_Piece]:
    """Cuts a group into pieces of at most a row, filled in order."""
    pieces, start, size = [], 0, prefix
    for i, n in enumerate(lengths):
        full = size + n > shape.row_tokens or not shape.share_prompt
        if full and i > start:
            pieces.append(_Piece(group, rollouts[start:i], size))
            start, size = i, prefix
        size += int(n)
    return [*pieces, _Piece(group, rollouts[start:], size)]


def _fill_rows(pieces: list[_Piece], room: int) -> list[list[_Piece]]:
    """Best-fit decreasing: each piece goes where the least space would remain."""
    rows: list[list[_Piece]] = []
    space: list[tuple[int, int]] = []  # (free tokens, row), sorted
    for piece in sorted(pieces, key=lambda p: -p.size):
        at = bisect.bisect_left(space, (piece.size, -1))
        free, row = space.pop(at) if at < len(space) else (room, len(rows))
        if row == len(rows):
            rows.append([])
        rows[row].append(piece)
        bisect.insort(space, (free - piece.size, row))
    return rows


def capacity(
    num_prompts: int, n_max: int, prompt: int, response: int, row_tokens: int, num_minibatches: int
) -> int:
    """Rows that always suffice.

    Best-fit leaves at most one row half empty, so twice the tokens is enough; and no rollout needs
    more than a row of its own.
    """
    most = num_prompts * n_max
    packed = 2 * most * (prompt + response) // row_tokens + 1
    return min(most, packed) + num_minibatches


def arrange(
    prompts: Prompts,
    rollouts: Rollouts,
    weight: np.ndarray,
    kept: np.ndarray,
    minibatch: np.ndarray,
    num_minibatches: int,
    shape: BatchShape,
) -> Layout:
    """Packs the kept groups, every mini-batch into micro-batches of its own; looks at no token.

    Args:
      weight: float32[N] of each rollout; one of weight 0 is left out.
      kept: bool[P], prompts whose group enters the loss.
      minibatch: int32[P], mini-batch of each prompt.

    Raises:
      ValueError: the rows do not fit `shape`.
    """
    order = np.argsort(rollouts.prompt, kind="stable")
    edges = np.searchsorted(rollouts.prompt[order], np.arange(len(prompts) + 1))
    rows: list[list[_Piece]] = []
    bounds, token_count = [0], []
    for j in range(num_minibatches):
        pieces: list[_Piece] = []
        tokens = 0
        for p in np.flatnonzero(kept & (minibatch == j)):
            members = order[edges[p] : edges[p + 1]]
            members = members[weight[members] > 0]
            if not len(members):
                continue
            lengths = rollouts.length[members]
            tokens += int(lengths.sum())
            prefix = len(prompts.tokens[p]) - 1
            pieces += _pieces(int(p), members, lengths, prefix, shape)
        filled = _fill_rows(pieces, shape.row_tokens)
        used = -(-len(filled) // shape.rows)
        rows += filled + [[]] * (used * shape.rows - len(filled))
        bounds.append(bounds[-1] + used)
        token_count.append(tokens)
    if bounds[-1] > shape.micro_batches:
        raise ValueError(
            f"{bounds[-1]} micro-batches of {shape.rows} rows are needed, but "
            f"learner.max_micro_batches allows {shape.micro_batches}: raise it, or set 0 for enough"
        )
    return Layout(shape, rows, np.asarray(bounds, np.int32), np.asarray(token_count, np.float32))


def lay_out(
    layout: Layout,
    prompts: Prompts,
    rollouts: Rollouts,
    advantage: np.ndarray,
    weight: np.ndarray,
    mine: Sequence[int] | np.ndarray,
) -> UpdateBatch:
    """Rows `mine` of every micro-batch, in this order.

    Args:
      rollouts: with the tokens of those in these rows.
      advantage, weight: float32[N] of each rollout.
    """
    shape = layout.shape
    cube = (len(mine), shape.micro_batches, shape.row_tokens)
    arrays = {k: np.zeros(cube, np.int32) for k in ("tokens", "target", "position", "group",
                                                    "segment")}  # fmt: skip
    arrays |= {k: np.zeros(cube, np.float32) for k in ("advantage", "weight", "sampler_logprob")}
    for at, i in enumerate(mine):  # one by one: what numpy needs beside it stays small
        row = {name: x[at].reshape(-1) for name, x in arrays.items()}
        _write(row, layout.rows[i :: shape.rows], shape, prompts, rollouts, advantage, weight)
    return UpdateBatch(**arrays, bounds=layout.bounds, token_count=layout.token_count)


def assemble(
    prompts: Prompts,
    rollouts: Rollouts,
    advantage: np.ndarray,
    weight: np.ndarray,
    kept: np.ndarray,
    minibatch: np.ndarray,
    num_minibatches: int,
    shape: BatchShape,
) -> UpdateBatch:
    """All rows, of rollouts that are all here; see `arrange` and `lay_out`."""
    layout = arrange(prompts, rollouts, weight, kept, minibatch, num_minibatches, shape)
    return lay_out(layout, prompts, rollouts, advantage, weight, range(shape.rows))


def _write(
    out: dict[str, np.ndarray],
    rows: list[list[_Piece]],
    shape: BatchShape,
    prompts: Prompts,
    rollouts: Rollouts,
    advantage: np.ndarray,
    weight: np.ndarray,
) -> None:
    """Lays the pieces of rows out, end to end.  One vectorised copy, whatever their number."""
    starts, sources, segment, group = [], [], [], []  # of every rollout placed
    prefix_at, prefix_of, prefix_group = [], [], []
    for r, row in enumerate(rows):
        at = r * shape.row_tokens
        for g, piece in enumerate(row, start=1):
            prefix_at.append(at)
            prefix_of.append(piece.group)
            prefix_group.append(g)
            at += len(prompts.tokens[piece.group]) - 1
            sources.append(piece.rollouts)
            for s, n in enumerate(rollouts.length[piece.rollouts].tolist(), start=1):
                starts.append(at)
                segment.append(s)
                group.append(g)
                at += n
    if not sources:
        return

    source, start = np.concatenate(sources), np.array(starts)
    lengths = rollouts.length[source]
    each = lambda x: np.repeat(x, lengths)  # noqa: E731
    index = _ranges(lengths)  # 0 … n-1 for each rollout
    where = each(start) + index
    tokens, logprob = rollouts.tokens, rollouts.logprob
    assert tokens.start[source].min() >= 0  # all are here
    of = [prompts.tokens[p] for p in rollouts.prompt[source].tolist()]
    here = each(tokens.start[source]) + index
    out["target"][where] = tokens.flat[here]
    out["tokens"][where] = tokens.flat[here - 1]  # of the first: another's, or the last there is
    out["tokens"][start] = [t[-1] for t in of]
    out["position"][where] = each([len(t) - 1 for t in of]) + index
    out["group"][where] = each(group)
    out["segment"][where] = each(segment)
    out["advantage"][where] = each(advantage[source])
    out["weight"][where] = each(weight[source])
    out["sampler_logprob"][where] = logprob.flat[each(logprob.start[source]) + index]

    prefix_tokens = [prompts.tokens[p][:-1] for p in prefix_of]
    lengths = np.array([len(t) for t in prefix_tokens])
    index = _ranges(lengths)
    where = np.repeat(prefix_at, lengths) + index
    out["tokens"][where] = np.concatenate(prefix_tokens)
    out["position"][where] = index
    out["group"][where] = np.repeat(prefix_group, lengths)


def _ranges(lengths: np.ndarray) -> np.ndarray:
    """[2, 3] -> [0, 1, 0, 1, 2]."""
    ends = np.cumsum(lengths)
    return np.arange(ends[-1]) - np.repeat(ends - lengths, lengths)
