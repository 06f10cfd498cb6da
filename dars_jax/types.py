"""What flows through a step.  Every array says dtype and shape.

Letters: P prompts, N rollouts (ragged, on the host), b rows of a micro-batch over all devices,
M micro-batches (capacity), T tokens of a row, J mini-batches.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, overload

import jax
import numpy as np

# Device arrays inside compiled programs, numpy arrays on the host.
Array = jax.Array | np.ndarray


@dataclasses.dataclass(frozen=True)
class Prompts:
    """The prompts of one step, on the host."""

    tokens: tuple[np.ndarray, ...]  # P of int32[length]
    uid: np.ndarray  # int64[P], identity in the data: keys the random streams
    answer: tuple[tuple[str, ...], ...]  # P accepted answers, each a tuple of forms
    text: tuple[str, ...] = ()  # P, before any chat template; for rewards that ask for it
    row: tuple[Mapping[str, Any], ...] = ()  # P, the other columns of their rows, likewise

    def __len__(self) -> int:
        return len(self.tokens)


@dataclasses.dataclass(frozen=True, eq=False)
class Ragged:
    """N vectors of different length, end to end: memory for what they hold, and no more."""

    flat: np.ndarray  # [t]
    start: np.ndarray  # int64[N], where each begins; -1 if this process does not have it
    length: np.ndarray  # int32[N], also of those elsewhere

    @classmethod
    def join(cls, vectors: Sequence[np.ndarray], dtype: type) -> "Ragged":
        """All of them, in this order."""
        length = np.array([len(x) for x in vectors], np.int32)
        start = np.cumsum(length, dtype=np.int64) - length
        return cls(np.concatenate([np.zeros(0, dtype), *vectors], dtype=dtype), start, length)

    @classmethod
    def of_rows(cls, rows: np.ndarray, length: np.ndarray) -> "Ragged":
        """The first entries of each row of [N,C]."""
        return cls.join([row[:n] for row, n in zip(rows, length, strict=True)], rows.dtype.type)

    def __len__(self) -> int:
        return len(self.start)

    @overload
    def __getitem__(self, index: int | np.integer) -> np.ndarray: ...

    @overload
    def __getitem__(self, index: np.ndarray) -> "Ragged": ...

    def __getitem__(self, index: int | np.integer | np.ndarray) -> "np.ndarray | Ragged":
        """A vector by its number, or some of them by an array of numbers or bool[N]."""
        if isinstance(index, np.ndarray):
            return Ragged(self.flat, self.start[index], self.length[index])
        return self.flat[self.start[index] : self.start[index] + self.length[index]]


@dataclasses.dataclass(frozen=True)
class Rollouts:
    """Graded rollouts of one step in canonical order: by prompt, then by sample.

    Of several processes each knows all of this but the tokens, which lie with their holders.
    """

    prompt: np.ndarray  # int32[N], index into Prompts
    sample: np.ndarray  # int32[N], index within the prompt's group
    stage: np.ndarray  # int32[N], 0 for pre-rollouts, 1 … for top-ups
    tokens: Ragged  # N of int32[length], the first EOS included
    logprob: Ragged  # N of float32[length], of the sampler, at the sampling temperature
    length: np.ndarray  # int32[N]
    truncated: np.ndarray  # bool[N], stopped by the length limit
    reward: np.ndarray  # float32[N]
    verdict: np.ndarray  # int8[N], a rewards.Verdict
    parts: np.ndarray = None  # type: ignore[assignment]  # float32[N,R], what reward is a sum of
    holder: np.ndarray = None  # type: ignore[assignment]  # int32[N], process that has the tokens

    def __post_init__(self) -> None:
        if self.parts is None:  # one reward, of no parts: R = 0
            object.__setattr__(self, "parts", np.zeros((len(self.prompt), 0), np.float32))
        if self.holder is None:  # the only process
            object.__setattr__(self, "holder", np.zeros(len(self.prompt), np.int32))

    def __len__(self) -> int:
        return len(self.prompt)

    def take(self, index: np.ndarray) -> "Rollouts":
        """Some of them, by an array of numbers or bool[N]."""
        return Rollouts(**{f.name: getattr(self, f.name)[index] for f in dataclasses.fields(self)})


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class UpdateBatch:
    """Packed rows, cut into micro-batches so that no cut moves data between devices.

    Row i lies at [i % b, i // b], and the b axis is the one that is sharded.  On the host each
    process has the rows of its own devices only, which makes its b smaller.
    """

    tokens: Array  # int32[b,M,T]
    target: Array  # int32[b,M,T], the token each position is to predict
    position: Array  # int32[b,M,T], index within the own sequence
    group: Array  # int32[b,M,T], see attention.Packing
    segment: Array  # int32[b,M,T]
    advantage: Array  # float32[b,M,T]
    weight: Array  # float32[b,M,T], weight in the policy loss; 0 where nothing is predicted
    sampler_logprob: Array  # float32[b,M,T]
    bounds: Array  # int32[J+1], mini-batch j is micro-batches bounds[j] … bounds[j+1]-1
    token_count: Array  # float32[J], predicted tokens of each mini-batch


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """All that a checkpoint holds besides the configuration."""

    step: Array  # int32[], finished steps; every random key is folded from seed and step
    params: Any
    opt_state: Any
    entropy: Any = None  # float32[2], coefficient and last entropy; with an entropy target only
