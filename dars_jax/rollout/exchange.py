"""Rollouts between processes, each of which sampled and graded a part.

All hear the few numbers a rollout that allocation and packing decide by.  Tokens go once, from the
process that sampled them to the one that needs them.
"""

import dataclasses

import jax
import numpy as np

from dars_jax import distributed
from dars_jax.types import Ragged, Rollouts

_COLUMNS = {"prompt": np.int32, "sample": np.int32, "stage": np.int32, "length": np.int32,
            "truncated": bool, "reward": np.float32, "verdict": np.int8}  # fmt: skip


def pack(r: Rollouts) -> np.ndarray:
    """All but tokens -> int32[2 + (7 + R) N]: N and R, then a column per field and part."""
    columns = [*(getattr(r, name) for name in _COLUMNS), *np.ascontiguousarray(r.parts.T)]
    as_int = [x.view(np.int32) if x.dtype == np.float32 else x.astype(np.int32) for x in columns]
    return np.concatenate([r.parts.shape, *as_int]).astype(np.int32)


def unpack(message: np.ndarray) -> dict[str, np.ndarray]:
    """The inverse: the fields by name."""
    n, num_parts = map(int, message[:2])
    columns = message[2:].reshape(len(_COLUMNS) + num_parts, n)
    fields = {
        name: x.view(np.float32) if dtype is np.float32 else x.astype(dtype)
        for (name, dtype), x in zip(_COLUMNS.items(), columns[: len(_COLUMNS)], strict=True)
    }
    return fields | {"parts": columns[len(_COLUMNS) :].view(np.float32).T}


def gather(mine: Rollouts) -> Rollouts:
    """What each process sampled -> all rollouts in canonical order, each with its own tokens."""
    if jax.process_count() == 1:
        return mine
    parts = [unpack(message) for message in distributed.gather_ragged(pack(mine))]
    whole = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    sizes = [len(part["prompt"]) for part in parts]
    holder = np.repeat(np.arange(len(parts), dtype=np.int32), sizes)
    order = np.lexsort((whole["sample"], whole["prompt"]))
    here = holder == jax.process_index()

    def spread(x: Ragged) -> Ragged:
        start = np.full(len(holder), -1, np.int64)
        start[here] = x.start
        return Ragged(x.flat, start, whole["length"])[order]

    fields = {name: x[order] for name, x in (whole | {"holder": holder}).items()}
    return Rollouts(**fields, tokens=spread(mine.tokens), logprob=spread(mine.logprob))


def send(r: Rollouts, to: np.ndarray) -> Rollouts:
    """The same rollouts with other holders.  All processes call it together.

    Args:
      to: int32[N], the process that is to have the tokens, -1 if nobody needs them.
    """
    if jax.process_count() == 1:
        return r
    me, processes = jax.process_index(), range(jax.process_count())
    out = [np.flatnonzero((r.holder == me) & (to == p)) for p in processes]
    into = np.concatenate([np.flatnonzero((r.holder == p) & (to == me)) for p in processes])

    def sent(x: Ragged) -> Ragged:
        parts = [Ragged.join([x[i] for i in some], x.flat.dtype.type).flat for some in out]
        got = distributed.deliver([part.view(np.int32) for part in parts])
        start, length = np.full(len(r), -1, np.int64), x.length[into]
        start[into] = np.cumsum(length, dtype=np.int64) - length
        return Ragged(np.concatenate(got).view(x.flat.dtype), start, x.length)

    return dataclasses.replace(r, tokens=sent(r.tokens), logprob=sent(r.logprob), holder=to)


def count_tokens(r: Rollouts, least: int) -> int:
    """How many tokens are `least` or larger.  All processes call it together."""
    count = 0
    if (r.tokens.flat >= least).any():  # rarely
        mine = np.flatnonzero(r.tokens.start >= 0)
        count = sum(int(np.count_nonzero(r.tokens[i] >= least)) for i in mine)
    return int(distributed.gather(np.int32(count)).sum())
