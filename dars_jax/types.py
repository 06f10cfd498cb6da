"""What flows through a step.  Every array says dtype and shape.

Letters: P prompts, N rollouts (ragged, on the host), C longest completion, b rows of a
micro-batch over all devices, M micro-batches (capacity), T tokens of a row, J mini-batches.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

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


@dataclasses.dataclass(frozen=True)
class Rollouts:
    """Graded rollouts of one step in canonical order: by prompt, then by sample."""

    prompt: np.ndarray  # int32[N], index into Prompts
    sample: np.ndarray  # int32[N], index within the prompt's group
    stage: np.ndarray  # int32[N], 0 for pre-rollouts, 1 … for top-ups
    tokens: np.ndarray  # int32[N,C], the first EOS included
    logprob: np.ndarray  # float32[N,C], of the sampler, at the sampling temperature
    length: np.ndarray  # int32[N]
    truncated: np.ndarray  # bool[N], stopped by the length limit
    reward: np.ndarray  # float32[N]
    verdict: np.ndarray  # int8[N], a rewards.Verdict
    parts: np.ndarray = None  # type: ignore[assignment]  # float32[N,R], what reward is a sum of

    def __post_init__(self) -> None:
        if self.parts is None:  # one reward, of no parts: R = 0
            object.__setattr__(self, "parts", np.zeros((len(self.prompt), 0), np.float32))

    def __len__(self) -> int:
        return len(self.prompt)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class UpdateBatch:
    """Packed rows, cut into micro-batches so that no cut moves data between devices.

    Row i lies at [i % b, i // b], and the b axis is the one that is sharded.
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
