"""What compiled programs cost: memory against the chip, time by the compiler's model, a whole step.

Two kinds of figures stay apart.  What the compiler states: memory, cycles, collectives.  What is
estimated on top, with the constants below: collectives that nothing hides, kernels that the cycle
model does not see, and how often each program runs in a step.
"""

import dataclasses
import math
import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from dars_jax import allocator
from dars_jax.policy.attention import page_width
from dars_jax.rollout import simulation
from dars_jax.setup.plan import Plan
from dars_jax.tpu import aot, hlo, hlo_traffic, profile
from dars_jax.tpu.profile import Product
from dars_jax.tpu.topology import Slice

GIB = 2**30
PACKING = 0.95  # share of a row's tokens that are in use
KERNEL_FLOPS = 0.4  # share of the chip's peak that a masked attention kernel reaches
KERNEL_BANDWIDTH = 0.7  # share of the memory bandwidth that a paged attention kernel reaches
KERNEL_BLOCK = 1024  # tokens: a kernel computes whole blocks of keys

ASSUMPTIONS = (
    f"rows {PACKING:.0%} full, prefills and decode slots used as in a simulation of the "
    "scheduler with lognormal lengths; collectives run one after the "
    "other at one torus axis' link bandwidth, and the asynchronous ones cost what the cycles "
    "between their start and end do not hide; "
    f"attention kernels reach {KERNEL_FLOPS:.0%} of the peak over the visible keys and one block "
    f"of {KERNEL_BLOCK}, paged decoding {KERNEL_BANDWIDTH:.0%} of the memory bandwidth; grading, "
    "host work, checkpoints and evaluation are left out"
)


@dataclasses.dataclass(frozen=True)
class Workload:
    """How much one step asks for."""

    mean_response: float  # tokens
    rollouts: float  # of all prompts
    micro_batches: float  # live ones of an epoch, all mini-batches together
    prefills: float  # calls on each replica
    decode_steps: float  # on each replica


@dataclasses.dataclass(frozen=True)
class Analysis:
    """One program on one slice.  Bytes and seconds are of one chip and one call."""

    program: str
    fits: bool
    memory: int  # bytes a program may use
    peak: int  # bytes, with what lives beside the program; 0 if the compiler gave up
    parts: dict[str, int]  # bytes, by what they are
    largest: list[tuple[int, str]]  # bytes and origin of the largest arrays written anew
    error: str
    compile_seconds: float
    flops: float  # dot FLOPs of all chips, attention apart
    attention_flops: float
    ideal_flops: float  # 2 or 6 N tokens
    kernels: dict[str, float]  # calls of Pallas kernels on all chips
    cycles: float
    cycle_seconds: float
    mfu_ceiling: float  # ideal_flops over what the chips could do in cycle_seconds
    collectives: list[dict[str, Any]]  # by loop level
    collective_seconds: float  # estimate of what nothing hides
    kernel_seconds: float  # estimate
    calls: float  # in a step

    @property
    def out_of_memory(self) -> bool:
        """Whether the compiler gave up for want of memory."""
        return "RESOURCE_EXHAUSTED" in self.error

    @property
    def step_seconds(self) -> float:
        """The program's share of a step, estimated."""
        return self.calls * (self.cycle_seconds + self.collective_seconds + self.kernel_seconds)

    def to_json(self) -> dict[str, Any]:
        """Everything, with the estimate for a step."""
        return dataclasses.asdict(self) | {"step_seconds": self.step_seconds}


def expected_rollouts(plan: Plan) -> float:
    """Rollouts of a prompt, if its number of right pre-rollouts is uniform over 0 … N."""
    r = plan.rollout
    if r.schedule == "none" or r.num_stages == 1:
        return float(r.n_pre)
    if r.budget:
        return float(min(r.n_pre + r.budget, r.n_max))
    right = np.arange(r.n_pre + 1)
    more = allocator.top_up(right, r.n_pre, schedule=r.schedule, n_max=r.n_max, use_std=r.use_std)
    return r.n_pre + float(np.mean(more))


def workload(plan: Plan, mean_response: float, rollouts_per_prompt: float) -> Workload:
    """Sizes of a step from what a prompt asks for."""
    c = plan.config
    rollouts = c.rollout.num_prompts * rollouts_per_prompt
    row_tokens = plan.batch.rows * plan.batch.row_tokens * PACKING
    most = plan.batch.micro_batches
    slots = plan.num_replicas * plan.slots
    outcome = simulation.simulate(
        num_prompts=c.rollout.num_prompts, slots=plan.slots, replicas=plan.num_replicas,
        config=plan.rollout, prefixes=plan.prefixes, prefill_batch=c.rollout.prefill_batch,
        mean_tokens=mean_response,
    )  # fmt: skip
    return Workload(
        mean_response=mean_response,
        rollouts=rollouts,
        micro_batches=min(math.ceil(rollouts * mean_response / row_tokens), most),
        prefills=outcome.prefills,
        decode_steps=rollouts * mean_response / slots * outcome.ratio,
    )


def trips(plan: Plan, work: Workload, program: str, loop: hlo.Loop) -> float:
    """Trip count of a loop whose bound is data."""
    if program == "update":
        parts = plan.update.num_minibatches
        return work.micro_batches / (parts if loop.depth > 1 else 1)
    if program == "decode":
        refills = plan.slots / work.mean_response  # slots that end in a step
        return plan.config.rollout.steps_per_dispatch if loop.depth == 1 else refills
    return 1.0


def level(plan: Plan, program: str, loops: Sequence[hlo.Loop]) -> str:
    """Name of the innermost of the loops, for people."""
    if program == "decode":
        return ("dispatch", "decode step", "inside decode step")[min(len(loops), 2)]
    if program != "update":
        return "layer" if loops and loops[-1].known == plan.model.num_layers else "call"
    data_bound = [i for i, loop in enumerate(loops) if loop.known is None]
    if not data_bound:
        return "epoch" if loops else "step"
    inside = loops[data_bound[0] + 1 :]
    if not inside:
        return "micro-batch"
    if len(inside) > 1 or inside[0].op_name.endswith("dot_general"):  # a product in steps
        return "inside layer"
    layers, chunks = plan.model.num_layers, plan.batch.row_tokens // plan.update.chunk
    pipelined = not inside[0].op_name  # of it one iteration is peeled off
    if inside[0].known == layers - pipelined:
        return "layer"
    return "loss chunk" if inside[0].known == chunks else f"loop of {inside[0].known}"


def _link_seconds(kind: str, size: float, group: int, chip_bytes_per_s: float) -> float:
    share = (group - 1) / max(group, 1) if group else 1.0
    passes = {"all-reduce": 2.0, "all-to-all": 0.25}.get(kind, 1.0)
    return passes * size * share / chip_bytes_per_s


def _ideal(plan: Plan, program: str) -> float:
    """2 N for each token forward and 6 N with gradients; N without a table only looked up."""
    m = plan.model
    head = m.vocab_size * m.d_model
    multiplied = m.num_params() - (0 if m.tied_head else head)
    c = plan.config.rollout
    if program == "update":
        tokens = plan.batch.rows * plan.batch.row_tokens * plan.update.num_epochs
        return 6.0 * multiplied * tokens  # of one micro-batch, in every epoch
    if program == "decode":
        return 2.0 * multiplied * plan.num_replicas * plan.slots * c.steps_per_dispatch
    if program == "prefill":
        tokens = plan.num_replicas * c.prefill_batch * plan.config.data.max_prompt_tokens
        return 2.0 * (multiplied - head) * tokens  # logits are made when requests come
    return 0.0


def _kernel_seconds(plan: Plan, where: Slice, program: str, work: Workload) -> float:
    m, chip = plan.model, where.chip
    context = work.mean_response / 2 + plan.config.data.max_prompt_tokens / 4
    if program == "decode":
        width = page_width(m.head_dim)
        per_token = 2 * m.num_layers * m.num_kv_heads * width * plan.update.dtype.itemsize
        read = plan.slots * context * per_token / plan.mesh_shape[2]
        steps = plan.config.rollout.steps_per_dispatch
        return steps * read / (chip.hbm_bytes_per_s * KERNEL_BANDWIDTH)
    products = {"none": 3.5, "attention": 3.5}.get(plan.update.remat, 4.5)  # of forward's two
    if program == "prefill":
        tokens = plan.num_replicas * plan.config.rollout.prefill_batch
        tokens *= plan.config.data.max_prompt_tokens
        products = 1.0
    else:
        tokens = plan.batch.rows * plan.batch.row_tokens * work.micro_batches
        tokens *= plan.update.num_epochs
    visible = min(context + KERNEL_BLOCK, plan.batch.row_tokens)
    forward = 4.0 * m.num_layers * m.num_heads * m.head_dim * visible * tokens
    return products * forward / (where.num_chips * chip.flops * KERNEL_FLOPS)


def _collectives(
    plan: Plan, where: Slice, program: str, module: hlo.Module, sites: list[hlo.Site]
) -> tuple[list[dict[str, Any]], float]:
    chip = where.chip

    def link_cycles(c: hlo_traffic.Collective) -> float:
        return chip.clock_hz * _link_seconds(c.kind, c.bytes, c.group, chip.link_bytes_per_s)

    rows: dict[tuple, dict[str, Any]] = {}
    found = hlo_traffic.collectives(module, sites)
    for c, cycles in zip(found, hlo_traffic.waits(sites, found, link_cycles), strict=True):
        name = level(plan, program, c.site.loops)
        row = rows.setdefault(
            (name, c.kind, c.asynchronous, c.group, c.site.times),
            {"level": name, "kind": c.kind, "asynchronous": c.asynchronous, "group": c.group,
             "count": 0, "bytes": 0, "largest": 0, "iterations": c.site.times, "seconds": 0.0},
        )  # fmt: skip
        row["count"] += 1
        row["bytes"] += c.bytes
        row["largest"] = max(row["largest"], c.bytes)
        row["seconds"] += cycles / chip.clock_hz * c.site.times
    return list(rows.values()), sum(row["seconds"] for row in rows.values())


def calls(plan: Plan, program: str, work: Workload) -> float:
    """How often a step runs the program."""
    if program == "prefill":
        return work.prefills
    if program == "decode":
        return work.decode_steps / plan.config.rollout.steps_per_dispatch
    return 1.0


def analyse(plan: Plan, where: Slice, work: Workload, compiled: aot.Compiled) -> Analysis:
    """Everything that is said about a compiled program."""
    program = compiled.program
    name, memory = program.name, int(where.chip.hbm_gib * GIB)
    module, sites = None, []
    if compiled.text:
        module = hlo.parse(compiled.text)
        sites = hlo.sites(module, lambda loop: trips(plan, work, name, loop))
    rows, link_seconds = _collectives(plan, where, name, module, sites) if module else ([], 0.0)
    repeated = {"update": work.micro_batches / plan.update.num_minibatches,
                "decode": plan.config.rollout.steps_per_dispatch}.get(name, 1.0)  # fmt: skip
    count = aot.count_flops(program, repeated)
    ideal = _ideal(plan, name) * (work.micro_batches if name == "update" else 1)
    cycles = hlo.cycles(sites)
    seconds = cycles / where.chip.clock_hz
    peak = compiled.peak + compiled.resident if compiled.text else 0
    could = seconds * where.num_chips * where.chip.flops
    parts = {**program.arguments, **{f"{k} (beside)": n for k, n in program.resident.items()}}
    return Analysis(
        program=name,
        fits=bool(compiled.text) and peak <= memory,
        memory=memory,
        peak=peak,
        parts=parts
        | {
            "outputs": compiled.outputs,
            "temporaries": compiled.temporaries or _temporaries_in(compiled.error),
        },
        largest=_largest(plan, name, module, sites) if module else _named_in(compiled.error),
        error=compiled.error,
        compile_seconds=compiled.seconds,
        flops=count.weights,
        attention_flops=count.attention,
        ideal_flops=ideal,
        kernels=count.kernels,
        cycles=cycles,
        cycle_seconds=seconds,
        mfu_ceiling=ideal / could if could else 0.0,
        collectives=rows,
        collective_seconds=link_seconds,
        kernel_seconds=_kernel_seconds(plan, where, name, work) if count.kernels else 0.0,
        calls=calls(plan, name, work),
    )


def groups(
    plan: Plan, program: str, text: str, work: Workload, bare: Callable[[Product], float]
) -> list[dict[str, Any]]:
    """Where a compiled program's cycles go, largest first; see profile.Group.

    Args:
      text: its scheduled HLO.
      bare: cycles of a matrix product that is compiled alone.
    """
    module = hlo.parse(text)
    sites = hlo.sites(module, lambda loop: trips(plan, work, program, loop))
    rows = []
    for group in profile.groups(module, sites, lambda loops: level(plan, program, loops)):
        row = dataclasses.asdict(group) | {"name": group.name, "bare_cycles": 0.0}
        if group.product:
            row["bare_cycles"] = bare(group.product) * group.flops / group.product.flops
        rows.append(row)
    return rows


def _largest(
    plan: Plan, program: str, module: hlo.Module, sites: list[hlo.Site], most: int = 8
) -> list[tuple[int, str]]:
    """Arrays that are not updated in place, with the loop level where they are written."""
    seen: dict[str, int] = {}
    for large in hlo_traffic.large_ops(module, sites, at_least=2**20):
        op = large.site.op
        array = op.shape.strip("(").split("{")[0]
        label = f"{array} in each {level(plan, program, large.site.loops)}: {op.op_name or op.name}"
        if not large.in_place:
            seen.setdefault(label, large.bytes)
    return [(size, label) for label, size in list(seen.items())[:most]]


def _temporaries_in(error: str) -> int:
    """Bytes of temporaries that an out-of-memory message states; 0 if it does not."""
    found = re.search(r"HLO temporaries \(([\d.]+)G\)", error)
    return int(float(found[1]) * GIB) if found else 0


def _named_in(error: str) -> list[tuple[int, str]]:
    """Allocations that an out-of-memory message lists."""
    scale = {"K": 2**10, "M": 2**20, "G": 2**30}
    found = re.findall(r"Size: ([\d.]+)([KMG]).*?(?:Operator: op_name=\"([^\"]*)\"|Shape: (\S+))",
                       error, re.DOTALL)  # fmt: skip
    return [(int(float(n) * scale[unit]), a or b) for n, unit, a, b in found[:5]]
