"""Rollouts between processes, each of which sampled and graded a part.

A message is one int32 vector: how many rollouts and parts of a reward, a column per field of
Rollouts and per part, then the tokens and the bits of the log-probabilities without padding.
"""

import dataclasses

import jax
import numpy as np

from dars_jax import distributed
from dars_jax.types import Rollouts

_COLUMNS = {"prompt": np.int32, "sample": np.int32, "stage": np.int32, "length": np.int32,
            "truncated": bool, "reward": np.float32, "verdict": np.int8}  # fmt: skip


def pack(r: Rollouts) -> np.ndarray:
    """Rollouts -> int32[2 + (7 + R) N + 2 tokens]."""
    columns = [*(getattr(r, name) for name in _COLUMNS), *np.ascontiguousarray(r.parts.T)]
    as_int = [x.view(np.int32) if x.dtype == np.float32 else x.astype(np.int32) for x in columns]
    live = _live(r.length, r.tokens.shape[1])
    flat = (r.tokens[live], r.logprob[live].view(np.int32))
    return np.concatenate([r.parts.shape, *as_int, *flat]).astype(np.int32)


def unpack(message: np.ndarray, width: int) -> Rollouts:
    """The inverse; `width` is C, the length of a row of tokens."""
    n, num_parts = map(int, message[:2])
    body, flat = np.split(message[2:], [(len(_COLUMNS) + num_parts) * n])
    columns = body.reshape(-1, n) if n else np.zeros((len(_COLUMNS) + num_parts, 0), np.int32)
    parts = columns[len(_COLUMNS) :].view(np.float32).T
    fields = {
        name: x.view(np.float32) if dtype is np.float32 else x.astype(dtype)
        for (name, dtype), x in zip(_COLUMNS.items(), columns[: len(_COLUMNS)], strict=True)
    }
    live = _live(fields["length"], width)
    tokens, logprob = np.zeros((n, width), np.int32), np.zeros((n, width), np.float32)
    tokens[live], bits = np.split(flat, 2)
    logprob[live] = bits.view(np.float32)
    return Rollouts(**fields, tokens=tokens, logprob=logprob, parts=parts)


def _live(length: np.ndarray, width: int) -> np.ndarray:
    return np.arange(width) < length[:, None]


def gather(mine: Rollouts) -> Rollouts:
    """The rollouts that each process graded -> all of them, in canonical order."""
    if jax.process_count() == 1:
        return mine
    width = mine.tokens.shape[1]
    parts = [unpack(message, width) for message in distributed.gather_ragged(pack(mine))]
    names = [f.name for f in dataclasses.fields(Rollouts)]
    whole = {name: np.concatenate([getattr(x, name) for x in parts]) for name in names}
    order = np.lexsort((whole["sample"], whole["prompt"]))
    return Rollouts(**{name: x[order] for name, x in whole.items()})
