"""What a compiled TPU program sends between chips, and what it writes in bulk.

Both come from the instructions that `hlo.sites` lists.
"""

import dataclasses
import math
import re
from collections.abc import Iterable

from dars_jax import hlo
from dars_jax.hlo import Computation, Instruction, Module, Site

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
    asynchronous: bool  # the chip computes meanwhile: a start/done pair or an async fusion
    site: Site


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
            inner = op.called("calls") or op.called("to_apply")
            found += _within(module, inner)
    return found


def collectives(module: Module, sites: Iterable[Site]) -> list[Collective]:
    """Every collective once, as synchronous or asynchronous.

    A chain of async fusions (start, some that compute meanwhile, done) is one collective.
    """
    sites = list(sites)
    started = set()  # (computation, channel) of chains
    for site in sites:
        if site.op.opcode == "fusion" and _marked(module, site.op, "AsyncCollectiveStart"):
            for op, _ in _within(module, site.op.called("calls")):
                started.add((site.computation, _channel(op)))
    result = []
    for site in sites:
        op, where = site.op, module.computations[site.computation]
        kind = op.opcode.removesuffix("-start")
        if kind in KINDS:
            asynchronous = op.opcode != kind
            result.append(
                Collective(kind, _moved(op, where), _group(op.attributes), asynchronous, site)
            )
        elif op.opcode in ("fusion", "async-start"):
            called = op.called("calls")
            starts = _marked(module, op, "AsyncCollectiveStart")
            for inner, home in _within(module, called) if called else ():
                if (site.computation, _channel(inner)) in started and not starts:
                    continue  # a later link of a chain
                asynchronous = starts or op.opcode == "async-start" or "async_collective" in called
                scatter = inner.opcode == "all-reduce" and "scatter" in called
                result.append(
                    Collective(
                        "reduce-scatter" if scatter else inner.opcode,
                        _moved(inner, home), _group(inner.attributes), asynchronous, site,
                    )
                )  # fmt: skip
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
    called = module.computations[op.called("calls")]
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
