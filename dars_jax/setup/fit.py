"""Sizes that a device's memory decides: slots, prefixes, the rows of a micro-batch, what is kept.

One plan for a run and for a compilation ahead of it.  Settings that are not 0 or "auto" are taken
as they are; the others become as much as is of use and fits by the arithmetic of learner/memory.py
and engine/memory.py.
"""

import dataclasses
import math
from typing import Any

import jax.numpy as jnp

from dars_jax.config import ConfigDict
from dars_jax.engine import kv_cache
from dars_jax.engine.memory import engine_bytes
from dars_jax.engine.state import DecodeConfig
from dars_jax.learner import memory
from dars_jax.learner.memory import GIB, SHARE, Hardware, Work
from dars_jax.learner.packing import capacity
from dars_jax.policy import lora
from dars_jax.policy.decoder import ModelConfig

_FULL_ROWS = 4096  # tokens of a micro-batch that keep a device busy
ENGINE_SHARE = 0.9  # of the memory, in rollouts: caches are most of it, and counted exactly
_FEWEST_SLOTS, _MOST_SLOTS = 8, 512
_SLOTS_OF_A_PREFIX = 3  # by rollout/simulation.py: more prompts at hand keep slots no fuller


@dataclasses.dataclass(frozen=True)
class Case:
    """What there is to decide by."""

    config: ConfigDict
    model: ModelConfig
    mesh: tuple[int, int, int]  # data, fsdp, tensor
    hardware: Hardware
    attention: str  # of the update

    def but(self, **settings: Any) -> "Case":
        """With other settings, given as section__key=value."""
        config = self.config.copy_and_resolve_references()
        config.update_from_flattened_dict({k.replace("__", "."): v for k, v in settings.items()})
        return dataclasses.replace(self, config=config)


@dataclasses.dataclass(frozen=True)
class Fit:
    """What was decided.  Counts, and estimated bytes of a device."""

    slots: int  # of an engine replica
    prefixes: int  # of an engine replica
    rows: int  # of a micro-batch, over all devices
    micro_batches: int  # that there is room for
    chunk: int  # tokens of each row whose logits exist at a time
    gather: str
    remat: str
    update_bytes: float
    engine_bytes: float
    words: str  # what was decided, for people


def fit(case: Case) -> Fit:
    """Settles every size."""
    work, gather, remat = settle_update(case)
    slots, prefixes = settle_engine(case)
    update, engine = bytes_of_update(case), bytes_of_engine(case)
    words = (
        f"gather {gather}, remat {remat}, {work.rows} rows of a micro-batch on a device: "
        f"{_verdict(update, SHARE, case.hardware)}; {slots} slots, {prefixes} prefixes: "
        f"{_verdict(engine, ENGINE_SHARE, case.hardware)}"
    )
    return Fit(slots, prefixes, work.rows * math.prod(case.mesh), work.micro_batches, work.chunk,
               gather, remat, update, engine, words)  # fmt: skip


def _verdict(size: float, share: float, hardware: Hardware) -> str:
    limit = hardware.memory
    if not math.isfinite(limit):
        return "memory is not limited"
    verdict = "fits" if size <= share * limit else "may not fit"
    return f"estimated {size / GIB:.1f} GiB {verdict} {share:.0%} of {limit / GIB:.1f} GiB"


# The update --------------------------------------------------------------------------------------


def settle_update(case: Case) -> tuple[Work, str, str]:
    """(the work of a device, gather, remat)."""
    c, devices = case.config, math.prod(case.mesh)
    if c.learner.micro_batch_rows:
        candidates = [c.learner.micro_batch_rows // devices]
    else:
        most = max(_FULL_ROWS // c.learner.row_tokens, 1)
        candidates = [1 << i for i in reversed(range(most.bit_length()))]
    for rows in candidates:
        work = _work(case, rows)
        gather, remat = memory.choose(work, case.hardware.memory, c.learner.gather, c.policy.remat)
        if memory.update_bytes(work, gather, remat) <= SHARE * case.hardware.memory:
            break
    return work, gather, remat


def _work(case: Case, rows: int) -> Work:
    c = case.config
    needed = capacity(c.rollout.num_prompts, c.rollout.n_max, c.data.max_prompt_tokens,
                      c.rollout.max_tokens, c.learner.row_tokens,
                      c.learner.num_minibatches)  # fmt: skip
    adapters = lora.from_settings(case.model, **c.lora)
    most = -(-needed // (rows * math.prod(case.mesh))) + c.learner.num_minibatches - 1
    return Work(
        model=case.model, mesh=case.mesh, rows=rows, row_tokens=c.learner.row_tokens,
        micro_batches=c.learner.max_micro_batches or most,
        chunk=_loss_chunk(c.learner.row_tokens, rows, case.model.vocab_size),
        itemsize=jnp.dtype(c.policy.dtype).itemsize, scores=case.attention == "xla",
        reference=c.learner.kl_coef > 0, moments=c.optimizer.moments,
        adapters=lora.count(case.model, adapters) if adapters else None,
    )  # fmt: skip


def _loss_chunk(row_tokens: int, rows_per_device: int, vocab_size: int) -> int:
    """Tokens of a row whose float32 logits are alive at a time: at most 2**28 numbers a device.

    Each chunk adds to the head's whole gradient in memory, so larger ones cost less.
    """
    chunk = row_tokens
    while chunk % 2 == 0 and rows_per_device * chunk * vocab_size > 2**28:
        chunk //= 2
    return chunk


def kept_bytes(case: Case) -> float:
    """What a device keeps at all times."""
    return memory.kept_bytes(_work(case, 1))


def bytes_of_update(case: Case) -> float:
    """The update's peak on a device."""
    return memory.update_bytes(*settle_update(case))


# Sampling ----------------------------------------------------------------------------------------


def settle_engine(case: Case) -> tuple[int, int]:
    """(slots, prefixes) of a replica."""
    r = case.config.rollout
    prompts = -(-r.num_prompts // (case.mesh[0] * case.mesh[1]))

    def prefixes(slots: int) -> int:
        enough = max(-(-slots // _SLOTS_OF_A_PREFIX), r.prefill_batch)
        return r.prefixes or min(enough, prompts)

    if r.slots:
        return r.slots, prefixes(r.slots)
    useful = min(max(prompts * r.n_pre, _FEWEST_SLOTS), _MOST_SLOTS)
    limit = ENGINE_SHARE * case.hardware.memory
    for slots in range(useful // 8 * 8, _FEWEST_SLOTS, -8):
        if _engine_bytes(case, slots, prefixes(slots)) <= limit:
            return slots, prefixes(slots)
    return _FEWEST_SLOTS, prefixes(_FEWEST_SLOTS)


def bytes_of_engine(case: Case) -> float:
    """The peak of rollouts on a device."""
    return _engine_bytes(case, *settle_engine(case))


def _engine_bytes(case: Case, slots: int, prefixes: int) -> float:
    """With the weights and moments that wait for the update."""
    c, (data, fsdp, tensor) = case.config, case.mesh
    dtype = jnp.dtype(c.policy.dtype)
    config = DecodeConfig(
        slots=slots, prefixes=prefixes, requests=requests(c, data * fsdp),
        prompt_tokens=c.data.max_prompt_tokens, response_tokens=c.rollout.max_tokens, eos_ids=(),
        filters=False, dtype=dtype,
        page_size=kv_cache.page_size(case.hardware.platform, case.model.head_dim, dtype),
        key_block=kv_cache.key_block(
            case.hardware.platform, c.data.max_prompt_tokens + c.rollout.max_tokens
        ),
    )  # fmt: skip
    sampling = engine_bytes(config, case.model, tensor, c.rollout.prefill_batch)
    return kept_bytes(case) + sampling


def requests(c: ConfigDict, replicas: int) -> int:
    """Capacity of a replica's work list: all that training or a wave of evaluation asks for."""
    prompts = -(-c.rollout.num_prompts // replicas)
    return max(prompts * c.rollout.n_max, 16 * c.eval.num_samples)
