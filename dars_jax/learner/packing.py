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
"""

import bisect
import dataclasses

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
    """Packs the kept groups, every mini-batch into micro-batches of its own.

    Args:
      advantage, weight: float32[N] of each rollout; one of weight 0 is left out.
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
    return _write(prompts, rollouts, advantage, weight, rows, bounds, token_count, shape)


def _write(
    prompts: Prompts,
    rollouts: Rollouts,
    advantage: np.ndarray,
    weight: np.ndarray,
    rows: list[list[_Piece]],
    bounds: list[int],
    token_count: list[int],
    shape: BatchShape,
) -> UpdateBatch:
    """Lays the pieces out.  One vectorised copy for all tokens, whatever their number."""
    start, source, segment, group = [], [], [], []  # of every rollout placed
    prefix_at, prefix_of, prefix_group = [], [], []
    for r, row in enumerate(rows):
        i, m = r % shape.rows, r // shape.rows
        at = (i * shape.micro_batches + m) * shape.row_tokens
        for g, piece in enumerate(row, start=1):
            prefix_at.append(at)
            prefix_of.append(piece.group)
            prefix_group.append(g)
            at += len(prompts.tokens[piece.group]) - 1
            for s, n in enumerate(piece.rollouts, start=1):
                start.append(at)
                source.append(n)
                segment.append(s)
                group.append(g)
                at += int(rollouts.length[n])

    size = shape.rows * shape.micro_batches * shape.row_tokens
    ints = {k: np.zeros(size, np.int32) for k in ("tokens", "target", "position", "group",
                                                  "segment")}  # fmt: skip
    floats = {k: np.zeros(size, np.float32) for k in ("advantage", "weight", "sampler_logprob")}

    source_ = np.asarray(source, np.int64)
    lengths = rollouts.length[source_] if len(source_) else np.zeros(0, np.int64)
    index = _ranges(lengths)  # 0 … n-1 for each rollout
    where = np.repeat(np.asarray(start, np.int64), lengths) + index
    n = np.repeat(source_, lengths)
    last = np.array([t[-1] for t in prompts.tokens], np.int32)
    prompt_length = np.array([len(t) for t in prompts.tokens], np.int64)
    of = rollouts.prompt[n] if len(n) else np.zeros(0, np.int64)
    previous = rollouts.tokens[n, np.maximum(index - 1, 0)]
    ints["tokens"][where] = np.where(index == 0, last[of], previous)
    ints["target"][where] = rollouts.tokens[n, index]
    ints["position"][where] = prompt_length[of] - 1 + index
    ints["group"][where] = np.repeat(np.asarray(group, np.int32), lengths)
    ints["segment"][where] = np.repeat(np.asarray(segment, np.int32), lengths)
    floats["advantage"][where] = advantage[n]
    floats["weight"][where] = weight[n]
    floats["sampler_logprob"][where] = rollouts.logprob[n, index]

    if prefix_of:
        prefix_tokens = [prompts.tokens[p][:-1] for p in prefix_of]
        sizes = np.array([len(t) for t in prefix_tokens])
        index = _ranges(sizes)
        where = np.repeat(np.asarray(prefix_at, np.int64), sizes) + index
        ints["tokens"][where] = np.concatenate(prefix_tokens)
        ints["position"][where] = index
        ints["group"][where] = np.repeat(np.asarray(prefix_group, np.int32), sizes)

    cube = (shape.rows, shape.micro_batches, shape.row_tokens)
    arrays = {k: v.reshape(cube) for k, v in (ints | floats).items()}
    return UpdateBatch(
        **arrays,
        bounds=np.asarray(bounds, np.int32),
        token_count=np.asarray(token_count, np.float32),
    )


def _ranges(lengths: np.ndarray) -> np.ndarray:
    """[2, 3] -> [0, 1, 0, 1, 2]."""
    ends = np.cumsum(lengths)
    total = int(ends[-1]) if len(ends) else 0
    return np.arange(total) - np.repeat(ends - lengths, lengths)
