"""How much memory the update takes on a device, by arithmetic, and the choices that follow from it.

Letters: N parameters, D model width, F feed-forward width, V vocabulary, T tokens of a row.
"""

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import Any

from dars_jax.learner.update import MOMENTS
from dars_jax.policy.decoder import ModelConfig, abstract_params, head_matrix

GIB = 2**30

# Memory that the compiler gives a program, by the start of jax.Device.device_kind.
_MEMORY = {
    "TPU v4": 30.75,
    "TPU v5 lite": 15.75,
    "TPU v5e": 15.75,
    "TPU v5p": 95.74,
    "TPU v5": 95.74,
    "TPU v6 lite": 31.25,
    "TPU v6e": 31.25,
}
SHARE = 0.85  # of it that is planned with; the rest is for what arithmetic does not see
_SCORES = 5  # bytes of a score, forward and backward, averaged over the square


def _attention_width(c: ModelConfig) -> int:
    return 2 * (c.num_heads + c.num_kv_heads) * c.head_dim + c.d_model


def _mlp_width(c: ModelConfig) -> int:
    """Of what a norm behind the feed-forward needs."""
    return c.d_model if c.norm_after else 0


def _norm_width(c: ModelConfig) -> int:
    """Of queries and keys before their norms, where all is kept."""
    return (c.num_heads + c.num_kv_heads) * c.head_dim if c.qk_norm else 0


# Features of a token that a policy keeps of each layer besides its input; widest first.
_WIDTHS = {
    "none": lambda c: _attention_width(c) + 3 * c.d_ff + 4 * c.d_model + _norm_width(c),
    "mlp": lambda c: _attention_width(c) + 2 * c.d_ff + _mlp_width(c),
    "up": lambda c: _attention_width(c) + c.d_ff + _mlp_width(c),
    "attention": _attention_width,
    "full": lambda c: 0,
}


@dataclasses.dataclass(frozen=True)
class Hardware:
    """What a plan must know of the devices."""

    platform: str = "cpu"
    memory: float = math.inf  # bytes of each
    torus: tuple[int, ...] = ()  # of a TPU slice: chips along each axis


def hardware(devices: Sequence[Any]) -> Hardware:
    """Of all jax.Devices of a run, or of a slice that can only be compiled for."""
    first = devices[0]
    if first.platform == "gpu":
        stats = first.memory_stats() or {}
        return Hardware("gpu", stats.get("bytes_limit", math.inf))
    if first.platform != "tpu":
        return Hardware(first.platform)
    known = [size for kind, size in _MEMORY.items() if first.device_kind.startswith(kind)]
    return Hardware("tpu", known[0] * GIB if known else math.inf, _torus(devices))


def _torus(devices: Sequence[Any]) -> tuple[int, ...]:
    axes = [max(x) - min(x) + 1 for x in zip(*(d.coords for d in devices), strict=True)]
    # a part of a slice, or two devices a chip: no rings to speak of
    return tuple(axes) if math.prod(axes) == len(devices) else (1,)


@dataclasses.dataclass(frozen=True)
class Work:
    """The update's share of one device."""

    model: ModelConfig
    mesh: tuple[int, int, int]  # data, fsdp, tensor
    rows: int  # of a micro-batch, on the device
    row_tokens: int
    micro_batches: int
    chunk: int  # tokens of each row whose logits exist at a time
    itemsize: int  # bytes of a number of the computation
    scores: bool = False  # whether attention writes its scores to memory
    reference: bool = False  # whether the initial weights are kept, for a KL term
    moments: str = "float32"  # a key of MOMENTS
    adapters: int | None = None  # parameters of adapters, if nothing else learns


def state_bytes(moments: str) -> int:
    """Bytes of a parameter in the TrainState, and in a checkpoint: its master weight and moments.

    Factors of second moments count as nothing: with axes of thousands they are below 1 %.
    """
    return 4 + MOMENTS[moments]


def kept_bytes(work: Work) -> float:
    """What a device keeps at all times: weights, moments, the initial weights of a KL term."""
    _, fsdp, tensor = work.mesh
    everything = sum(_sizes(work.model))
    if work.adapters is None:
        kept = (state_bytes(work.moments) + 4 * work.reference) * everything
    else:  # without them it is the initial policy
        kept = state_bytes(work.moments) * work.adapters + work.itemsize * everything
    return kept / (fsdp * tensor)


@functools.cache
def _sizes(model: ModelConfig) -> tuple[int, int, int]:
    """Parameters of (all layers, head, embedding that is looked up only)."""
    params = abstract_params(model)
    head = math.prod(head_matrix(params).shape)
    embedding = 0 if model.tied_head else math.prod(params["embedding"].shape)
    return model.num_params() - head - embedding, head, embedding


def update_bytes(work: Work, gather: str, remat: str) -> float:
    """Estimated peak of the update on a device, in bytes."""
    c, (_, fsdp, tensor) = work.model, work.mesh
    layers, head, embedding = _sizes(c)
    split = fsdp if gather == "layer" else 1
    shards = fsdp * tensor
    weight = work.itemsize + 4  # a weight and its float32 accumulator
    tokens = work.rows * work.row_tokens
    weights = weight * (head + (layers + embedding) / split)
    if work.adapters is not None:  # the rest is frozen: no moments, no accumulators, no master
        copies = head * (shards > 1) + (layers + embedding) / split * (shards > split)
        weights = weight * work.adapters / split + work.itemsize * copies
    width = _WIDTHS.get(remat, _WIDTHS["none"])(c)
    saved = tokens * c.num_layers * (c.d_model + width) * work.itemsize
    one_layer = layers / c.num_layers * 2 * work.itemsize * (split > 1)
    passing = tokens * (4 * c.d_ff + 8 * c.d_model) * work.itemsize
    if work.scores:  # of one layer; half of the square is masked and left out
        passing += tokens * work.row_tokens * c.num_heads * _SCORES
    logits = work.rows * work.chunk * c.vocab_size * (4 + work.itemsize)
    batch = tokens * work.micro_batches * 4 * 10
    return kept_bytes(work) + weights + saved + one_layer + max(passing, logits) + batch


def choose(work: Work, memory: float, gather: str, remat: str) -> tuple[str, str]:
    """Settles "auto" -> (gather, remat); those that take least if nothing fits.

    Whole weights for an epoch come first, since they leave nothing to communicate between
    micro-batches; then as many kept activations as fit.
    """
    gathers = ("epoch", "layer") if gather == "auto" else (gather,)
    remats = ("mlp", "up", "attention", "full") if remat == "auto" else (remat,)
    if not math.isfinite(memory):
        return gathers[0], "none" if remat == "auto" else remat
    for gather, remat in ((g, r) for g in gathers for r in remats):
        if update_bytes(work, gather, remat) <= SHARE * memory:
            break
    return gather, remat
