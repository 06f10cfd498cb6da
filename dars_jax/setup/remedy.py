"""What to set where something does not fit, by the arithmetic of fit.py."""

import dataclasses
import math
from collections.abc import Callable, Iterator

import jax.numpy as jnp

from dars_jax.learner.memory import GIB, SHARE
from dars_jax.learner.update import MOMENTS
from dars_jax.policy.sharding import MESH_AXES
from dars_jax.setup import fit
from dars_jax.setup.fit import ENGINE_SHARE, Case, Fit

Changes = Iterator[tuple[str, Case]]  # settings as a user writes them, and what they lead to


def misfit(case: Case, fitted: Fit) -> str:
    """What is larger than a device, with the settings that would do; "" if nothing is."""
    limit = case.hardware.memory
    sizes = (("update", "the update", fitted.update_bytes),
             ("decode", "sampling", fitted.engine_bytes))  # fmt: skip
    remedies: dict[str, str] = {}
    for program, name, size in sizes:
        if size > limit:
            text = remedy(case, program)
            before = f"{remedies[text]} and " if text in remedies else ""
            remedies[text] = f"{before}{name} ({size / GIB:.1f} GiB)"
    found = "; ".join(f"{what}: {text}" for text, what in remedies.items())
    return found and f"too large for a device's {limit / GIB:.1f} GiB, by estimate: {found}"


def remedy(case: Case, program: str) -> str:
    """Settings by which a program of a step would fit, by the arithmetic.

    Those that are so already are not named, and what changes the training comes last.  Where the
    arithmetic sees no need, because the compiler needs more than it, a tenth less is the aim.
    """
    changes, bytes_of, share = {
        "publish": (_no_changes, _publish_bytes, ENGINE_SHARE),
        "prefill": (_prefill_changes, fit.bytes_of_engine, ENGINE_SHARE),
        "decode": (_engine_changes, fit.bytes_of_engine, ENGINE_SHARE),
        "update": (_update_changes, fit.bytes_of_update, SHARE),
    }[program]
    limit = min(case.hardware.memory, 0.9 * bytes_of(case) / share)
    state = fit.kept_bytes(case)
    if state >= share * limit:
        least = math.ceil(state * case.mesh[1] * case.mesh[2] / (share * limit))
        adapted = case.but(lora__rank=16)
        spared = not case.config.lora.rank and fit.kept_bytes(adapted) < share * limit
        return (
            f"weights and moments alone take {state / GIB:.1f} GiB, so mesh.fsdp x mesh.tensor "
            f"must be {least} or more, on as many devices"
            f"{', or adapters learn instead, lora.rank=16' if spared else ''}"
        )
    for most, verdict in ((share * limit, "it would fit"), (limit, "it might just fit")):
        same, other = [*changes(case), *_mesh_changes(case)], _other_training(case, bytes_of, most)
        for tried in (same, other):
            enough = [text for text, changed in tried if bytes_of(changed) <= most]
            if enough:
                return f"{verdict} with {', or with '.join(enough)}"
    return "no setting is left that would help: take more or larger devices"


def _no_changes(case: Case) -> Changes:
    yield from ()


def _publish_bytes(case: Case) -> float:
    decoding = case.model.num_params() * jnp.dtype(case.config.policy.dtype).itemsize
    return fit.kept_bytes(case) + decoding / case.mesh[2]


def _update_changes(case: Case) -> Changes:
    devices = math.prod(case.mesh)
    work, gather, remat = fit.settle_update(case)
    if work.rows > 1:
        yield f"learner.micro_batch_rows={devices}", case.but(learner__micro_batch_rows=devices)
    if gather != "layer" and case.mesh[1] > 1:
        yield "learner.gather=layer", case.but(learner__gather="layer")
    if remat != "full":
        yield "policy.remat=full", case.but(policy__remat="full")


def _engine_changes(case: Case) -> Changes:
    slots, prefixes = fit.settle_engine(case)
    free = case.but(rollout__slots=0, rollout__prefixes=0)
    fewer, stored = fit.settle_engine(free)
    if (fewer, stored) == (slots, prefixes):
        fewer, stored = max(slots // 2, 1), max(prefixes // 2, 1)
    if fewer < slots:
        fitting = case.but(rollout__slots=fewer, rollout__prefixes=stored)
        yield f"rollout.slots={fewer} rollout.prefixes={stored}", fitting


def _prefill_changes(case: Case) -> Changes:
    if case.config.rollout.prefill_batch > 1:
        yield "rollout.prefill_batch=1", case.but(rollout__prefill_batch=1)
    yield from _engine_changes(case)


def _mesh_changes(case: Case) -> Changes:
    """Fewer replicas of the parameters, or more devices to a decode replica."""
    data, fsdp, tensor = case.mesh
    meshes = []
    if data > 1 and case.model.d_model % (data * fsdp) == 0:
        meshes.append((1, data * fsdp, tensor))
    if fsdp % 2 == 0 and case.model.num_kv_heads % (2 * tensor) == 0:
        meshes.append((data, fsdp // 2, 2 * tensor))
    for mesh in meshes:
        text = " ".join(f"mesh.{axis}={n}" for axis, n in zip(MESH_AXES, mesh, strict=True))
        yield text, dataclasses.replace(case, mesh=mesh)


def _other_training(case: Case, bytes_of: Callable[[Case], float], most: float) -> Changes:
    """Smaller moments; the largest settings that fit, of those which decide what is learnt from."""
    now = MOMENTS[case.config.optimizer.moments]
    for moments in (name for name, size in MOMENTS.items() if size < now):
        yield f"optimizer.moments={moments}", case.but(optimizer__moments=moments)
    for name in ("num_prompts", "max_tokens"):
        if bytes_of(case.but(**{f"rollout__{name}": 1})) >= bytes_of(case):
            continue
        low, high = 0, case.config.rollout[name]
        while high - low > 1:
            middle = (low + high) // 2
            if bytes_of(case.but(**{f"rollout__{name}": middle})) <= most:
                low = middle
            else:
                high = middle
        if low:
            yield f"rollout.{name}={low}", case.but(**{f"rollout__{name}": low})
