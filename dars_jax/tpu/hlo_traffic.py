"""What a compiled TPU program sends between chips, and what it writes in bulk.

Both come from the instructions that `hlo.sites` lists.
"""

import collections
import dataclasses
import math
import re
from collections.abc import Callable, Iterable, Sequence

from dars_jax.tpu import hlo
from dars_jax.tpu.hlo import Computation, Instruction, Module, Site

KINDS = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute",
         "ragged-all-to-all", "collective-broadcast")  # fmt: skip

# Names of the same data, or parts of it: they move nothing.
_FREE = {"parameter", "constant", "tuple", "get-tuple-element", "bitcast", "while", "conditional",
         "call", "after-all", "partition-id", "replica-id", "iota", "opt-barrier",
         "optimization-barrier"}  # fmt: skip
_IN_PLACE_ROOTS = {"dynamic-update-slice", "scatter"}


@dataclasses.dataclass(frozen=True)
class Collective:
    """A communication between chips.

    `bytes` of one execution on one chip: the larger of what goes in and what comes out, which is
    the gathered size of an all-gather and the size before it of a reduce-scatter.
    """

    kind: str
    bytes: int
    group: int  # chips that take part with each other; 0 if unknown
    asynchronous: bool  # the chip may compute meanwhile: a start/done pair or an async fusion
    site: Site  # where it starts
    done: str  # name of the instruction that waits for it, in the same computation


@dataclasses.dataclass(frozen=True)
class LargeOp:
    """An instruction that writes at least as much as asked for."""

    bytes: int  # of its largest array
    in_place: bool  # writes a slice or a few rows into the buffer it was given
    site: Site


def _group(attributes: str) -> int:
    """Chips per group, from any of the ways in which replica_groups are written."""
    if found := re.search(r"replica_groups=\{\{([\d,]*)\}", attributes):
        return len(found[1].split(","))
    if found := re.search(r"replica_groups=\[\d+,(\d+)\]", attributes):
        return int(found[1])
    if found := re.search(r"replica_groups=mesh\[([^\]]*)\][^{]*\{([^}]*)\}", attributes):
        sizes = dict(re.findall(r"'(\w+)'=(\d+)", found[1]))
        return math.prod(int(sizes[axis]) for axis in re.findall(r"'(\w+)'", found[2]))
    if "source_target_pairs" in attributes:
        return 2
    return 0


def _moved(op: Instruction, where: Computation) -> int:
    given = sum(where[name].bytes for name in op.operands if name in where)
    result = op.bytes
    if op.opcode in ("all-gather-start", "collective-permute-start"):
        result -= given  # the tuple repeats the operands
    return max(given, result)


def _within(module: Module, name: str) -> list[tuple[Instruction, Computation]]:
    """The collectives in a computation that a fusion or an async-start calls."""
    where = module.computations[name]
    found = []
    for op in where.values():
        if op.opcode in KINDS:
            found.append((op, where))
        elif op.opcode in ("fusion", "call"):
            found += _within(module, op.callee("calls", "to_apply"))
    return found


def collectives(module: Module, sites: Iterable[Site]) -> list[Collective]:
    """Every collective once, as synchronous or asynchronous.

    A chain of async fusions (start, some that compute meanwhile, also in inner loops, done) is one
    collective.
    """
    sites = list(sites)
    started: set[str] = set()  # channels of chains
    # channel of a chain, or (computation, start) of a pair -> what ends it
    done: dict[str | tuple[str, str], str] = {}
    for site in sites:
        op = site.op
        if op.opcode == "fusion" and _marked(module, op, "AsyncCollectiveStart"):
            started |= {_channel(inner) for inner, _ in _within(module, op.callee("calls"))}
        elif op.opcode == "fusion" and _marked(module, op, "AsyncCollectiveDone"):
            for inner, _ in _within(module, op.callee("calls")):
                done[_channel(inner)] = op.name
        elif op.opcode.endswith("-done") and op.operands:
            done[site.computation, op.operands[0]] = op.name
    result = []
    for site in sites:
        op, where = site.op, module.computations[site.computation]
        kind = op.opcode.removesuffix("-start")
        if kind in KINDS:
            last = done.get((site.computation, op.name), op.name)
            result.append(
                Collective(kind, _moved(op, where), _group(op.attributes), op.opcode != kind, site,
                           last)
            )  # fmt: skip
        elif op.opcode in ("fusion", "async-start", "call-start"):
            called = op.called("calls") or op.called("to_apply")
            if called is None:
                continue
            starts = _marked(module, op, "AsyncCollectiveStart")
            for inner, home in _within(module, called):
                if _channel(inner) in started and not starts:
                    continue  # a later link of a chain
                asynchronous = (
                    starts or op.opcode.endswith("-start") or "async_collective" in called
                )
                scatter = inner.opcode == "all-reduce" and "scatter" in called
                last = done.get(_channel(inner) if starts else (site.computation, op.name), op.name)
                result.append(
                    Collective(
                        "reduce-scatter" if scatter else inner.opcode,
                        _moved(inner, home), _group(inner.attributes), asynchronous, site, last,
                    )
                )  # fmt: skip
    return result


def waits(
    sites: Iterable[Site],
    found: Sequence[Collective],
    link_cycles: Callable[[Collective], float],
) -> list[float]:
    """Cycles that the chip stands still for each collective, in one iteration of its loop.

    The schedule is walked with one link that carries one collective after the other; what the chip
    computes between a start and its done hides that much.  A kernel takes no time here, as in the
    cycle model, so the waits are rather too long.

    Args:
      found: `collectives` of the same sites.
      link_cycles: how long the link takes for one.
    """
    sites = list(sites)
    inside: dict[tuple[str, ...], float] = collections.defaultdict(float)  # cycles of whole loops
    for site in sites:
        for depth in range(1, len(site.loops) + 1):
            inside[tuple(loop.name for loop in site.loops[:depth])] += site.op.cycles * site.times
    starts, ends = collections.defaultdict(list), collections.defaultdict(list)
    for index, collective in enumerate(found):
        starts[collective.site.computation, collective.site.op.name].append(index)
        ends[collective.site.computation, collective.done].append(index)
    result = [0.0] * len(found)
    now: dict[str, float] = collections.defaultdict(float)  # clock of each computation
    free: dict[str, float] = collections.defaultdict(float)  # when its link is
    finish = [0.0] * len(found)
    for site in sites:
        where, here = site.computation, (site.computation, site.op.name)
        for index in starts.get(here, ()):
            begin = max(now[where], free[where])
            finish[index] = free[where] = begin + link_cycles(found[index])
        own: float = site.op.cycles
        if site.op.opcode == "while" and site.times:
            own += inside[(*(loop.name for loop in site.loops), site.op.name)] / site.times
        waiting = ends.get(here, ())
        for index in waiting:  # what a fusion computes hides the collective that is part of it
            hidden = own if found[index].asynchronous else 0.0
            result[index] = max(0.0, finish[index] - now[where] - hidden)
        now[where] += own + max((result[index] for index in waiting), default=0.0)
    return result


def _channel(op: Instruction) -> str:
    found = re.search(r"channel_id=(\d+)", op.attributes)
    return found[1] if found else op.name


def _marked(module: Module, op: Instruction, target: str) -> bool:
    called = op.called("calls")
    return called is not None and any(
        f'custom_call_target="{target}"' in inner.attributes
        for inner in module.computations[called].values()
    )


def large_ops(module: Module, sites: Iterable[Site], at_least: int) -> list[LargeOp]:
    """Instructions that write `at_least` bytes or more, largest first.

    Names of existing data (tuples, bitcasts, loops) are not among them.  "In place" are updates of
    a slice or of rows in the operand's own buffer, and custom calls that alias their operand.
    """
    found = []
    for site in sites:
        op = site.op
        if op.opcode in _FREE or op.opcode.endswith("-done"):
            continue
        if op.largest_array >= at_least:
            found.append(LargeOp(op.largest_array, _in_place(module, op), site))
    return sorted(found, key=lambda large: -large.bytes)


def _in_place(module: Module, op: Instruction) -> bool:
    if op.opcode == "custom-call":
        return "output_to_operand_aliasing" in op.attributes
    if op.opcode in _IN_PLACE_ROOTS:
        return _aliased(op)
    if op.opcode != "fusion" or not _aliased(op):
        return False
    called = module.computations[op.callee("calls")]
    result = hlo.root(called)
    results = [called[o] for o in result.operands] if result.opcode == "tuple" else [result]
    return all(_updates(called, r) for r in results)


def _updates(where: Computation, op: Instruction) -> bool:
    while op.opcode in ("bitcast", "copy", "convert", "transpose") and op.operands:
        op = where[op.operands[0]]
    return op.opcode in _IN_PLACE_ROOTS


def _aliased(op: Instruction) -> bool:
    """Whether the result takes an operand's buffer."""
    lists = re.search(r'"aliasing_operands":\{"lists":\[(.*?)\]\}', op.attributes)
    return "output_to_operand_aliasing" in op.attributes or bool(lists and lists[1])
