"""Where the cycles of a compiled TPU program go: instructions grouped by what they are.

    found = profile.groups(module, sites, level)

FLOPs and bytes are read off the shapes, cycles are the compiler's.  Kernels and collectives, to
which it gives no cycles, are left out.
"""

import collections
import dataclasses
import math
import re
from collections.abc import Callable, Iterable, Iterator, Sequence

from dars_jax.tpu import hlo
from dars_jax.tpu.hlo import Computation, Instruction, Module, Site

# What only renames, moves or converts data.
_MOVES = {"parameter", "constant", "tuple", "get-tuple-element", "bitcast", "copy", "transpose",
          "reshape", "slice", "dynamic-slice", "dynamic-update-slice", "broadcast", "concatenate",
          "pad", "convert", "iota", "fusion", "opt-barrier", "copy-start", "copy-done"}  # fmt: skip
_WRAPPERS = re.compile(r"(?:transpose|jvp|vmap|jit|remat|checkpoint)\((.*)\)$")
_NOT_SAID = {"", "while", "body", "cond", "closed_call", "shard_map", "checkpoint", "Block",
             "rematted_computation", "dot_general", "Block._project"}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Product:
    """A matrix product [rows, depth] x [depth, columns]."""

    rows: int
    depth: int
    columns: int
    dtype: str  # of the result, as in HLO

    @property
    def flops(self) -> float:
        """A multiply-add is two."""
        return 2.0 * self.rows * self.depth * self.columns


@dataclasses.dataclass(frozen=True)
class Group:
    """Instructions of one kind at one place of the traced program.  Sums of one execution."""

    level: str  # the loop they run in
    kind: str  # "product", "arithmetic" or "movement"
    phase: str  # "forward", "recomputed", "backward" or ""
    what: str  # where they come from
    shape: str  # of the largest result
    product: Product | None  # the largest, of a fusion that holds one
    count: float
    cycles: float
    flops: float  # of products
    bytes: float  # from and to the chip's memory

    @property
    def name(self) -> str:
        """For people."""
        return " ".join(filter(None, (self.what, self.phase, self.shape)))


def groups(
    module: Module, sites: Iterable[Site], level: Callable[[Sequence[hlo.Loop]], str]
) -> list[Group]:
    """All instructions that cost cycles, those of a kind together; largest first."""
    found: dict[tuple, list[tuple[Site, list[Product]]]] = collections.defaultdict(list)
    for site in sites:
        if not site.op.cycles:
            continue
        inside = list(_all(module, site.op, module.computations[site.computation]))
        products = [_product(op, where) for op, where in inside if op.opcode == "convolution"]
        moves = all(op.opcode in _MOVES for op, _ in inside)
        kind = "product" if products else "movement" if moves else "arithmetic"
        name = next((op.op_name for op, _ in inside if op.opcode == "convolution"), site.op.op_name)
        key = (level(site.loops), kind, _phase(name), _what(name, site.op), _shape(site.op))
        found[key].append((site, products))
    return sorted((_group(module, key, each) for key, each in found.items()),
                  key=lambda g: -g.cycles)  # fmt: skip


def _group(module: Module, key: tuple, each: list[tuple[Site, list[Product]]]) -> Group:
    level, kind, phase, what, shape = key
    products = [p for _, inside in each for p in inside]
    return Group(
        level=level, kind=kind, phase=phase, what=what, shape=shape,
        product=max(products, key=lambda p: p.flops, default=None),
        count=sum(site.times for site, _ in each),
        cycles=sum(site.op.cycles * site.times for site, _ in each),
        flops=sum(site.times * p.flops for site, inside in each for p in inside),
        bytes=sum(
            site.times * moved(module, site.op, module.computations[site.computation])
            for site, _ in each
        ),
    )  # fmt: skip


def _all(
    module: Module, op: Instruction, where: Computation
) -> Iterator[tuple[Instruction, Computation]]:
    """An instruction, and those that it is a fusion of."""
    yield op, where
    if op.opcode == "fusion":
        called = module.computations[op.callee("calls")]
        for inner in called.values():
            yield from _all(module, inner, called)


def _phase(op_name: str) -> str:
    if "rematted_computation" in op_name:
        return "recomputed"
    if "transpose(" in op_name:
        return "backward"
    return "forward" if "jvp(" in op_name else ""


def _what(op_name: str, op: Instruction) -> str:
    """The last two names of a path that say something."""
    said = []
    for name in op_name.split("/")[1:]:
        while found := _WRAPPERS.match(name):
            name = found[1]
        if name not in _NOT_SAID and name not in said:
            said.append(name)
    return "/".join(said[-2:]) or re.sub(r"[.\d]+(clone)?", "", op.name)


def _shape(op: Instruction) -> str:
    """The largest array of the result, without its layout."""
    return max(hlo.arrays(op.shape), key=hlo.shape_bytes, default="")


# Products -----------------------------------------------------------------------------------------


def _dims(shape: str) -> list[int]:
    inner = hlo.arrays(shape)[0].rstrip("]").split("[")[1]
    return [int(n) for n in inner.split(",") if n]


def _window(op: Instruction, key: str, default: tuple[int, ...], count: int) -> list[list[int]]:
    """One of a convolution's window fields for each spatial dimension: `pad=3_3x0_0`."""
    found = re.search(rf"\bwindow=\{{[^}}]*\b{key}=([\dx_\-]+)", op.attributes)
    if not found:
        return [list(default)] * count
    return [[int(n) for n in part.split("_")] for part in found[1].split("x")]


def _product(op: Instruction, where: Computation) -> Product:
    """The matrix product that a convolution is.  On a TPU every product is written as one."""
    labels = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", op.attributes)
    assert labels is not None, f"{op.name} has no dim_labels"
    left, right, result = labels.groups()
    lhs, rhs = (_dims(where[name].shape) for name in op.operands[:2])
    out = _dims(op.shape)
    spatial = sorted(c for c in left if c.isdigit())
    fields = {"size": (1,), "pad": (0, 0), "stride": (1,), "lhs_dilate": (1,), "rhs_dilate": (1,)}
    window = {key: _window(op, key, value, len(spatial)) for key, value in fields.items()}
    taps = 1  # pairs of places on both sides that meet; out of the padding come zeros
    for i, name in enumerate(spatial):
        size, n = lhs[left.index(name)], out[result.index(name)]
        stride, spread, apart = (window[k][i][0] for k in ("stride", "lhs_dilate", "rhs_dilate"))
        places = (o * stride + w * apart - window["pad"][i][0]
                  for o in range(n) for w in range(window["size"][i][0]))  # fmt: skip
        taps *= sum(0 <= at <= (size - 1) * spread and at % spread == 0 for at in places)
    batch, columns = out[result.index("b")], rhs[right.index("o")]
    depth = rhs[right.index("i")]
    dtype = hlo.arrays(op.shape)[0].split("[")[0]
    wide = math.prod(out[result.index(name)] for name in spatial)  # a place of the result
    if taps > wide:  # more than one meets in each: they are summed
        return Product(batch * wide, depth * taps // wide, columns, dtype)
    split = rhs[right.index(spatial[0])] == wide if spatial else False  # heads of a weight
    return Product(batch, depth, columns * taps, dtype) if split else Product(
        batch * taps, depth, columns, dtype)  # fmt: skip


# Bytes --------------------------------------------------------------------------------------------


def _in_memory(op: Instruction) -> bool:
    return "S(1)" not in op.shape


def moved(module: Module, op: Instruction, where: Computation) -> float:
    """Bytes that an instruction reads from and writes to the chip's memory, not its VMEM.

    Of an array of which a slice is taken or replaced only the slice counts.
    """
    if op.opcode != "fusion":
        operands = [where[name] for name in op.operands if name in where]
        return float(sum(map(_outside, (op, *operands))))
    called = module.computations[op.callee("calls")]
    total = 0.0
    for parameter in called.values():
        if parameter.opcode == "parameter" and _in_memory(parameter):
            total += min(_read(module, called, parameter.name), parameter.bytes)
    last = hlo.root(called)
    results = [called[o] for o in last.operands] if last.opcode == "tuple" else [last]
    return total + sum(_written(called, result) for result in results)


def _outside(op: Instruction) -> int:
    """Bytes of the arrays of an instruction's result that lie in the chip's memory."""
    return sum(hlo.shape_bytes(a) for a in re.findall(r"\w+\[[\d,]*\](?:\{[^}]*\})?", op.shape)
               if "S(1)" not in a)  # fmt: skip


def _written(where: Computation, op: Instruction) -> float:
    kept = op
    while op.opcode == "bitcast":
        op = where[op.operands[0]]
    if op.opcode == "dynamic-update-slice":
        return float(where[op.operands[1]].bytes)
    return float(_outside(kept))


def _read(module: Module, where: Computation, name: str) -> float:
    """Bytes that users of a value in a fusion read of it."""
    total = 0.0
    for op in where.values():
        if name not in op.operands:
            continue
        if op.opcode == "dynamic-slice":
            total += op.bytes
        elif op.opcode == "bitcast":
            total += _read(module, where, op.name)
        elif op.opcode == "fusion":
            called = module.computations[op.callee("calls")]
            inside = {int(p.body): p for p in called.values() if p.opcode == "parameter"}
            total += _read(module, called, inside[op.operands.index(name)].name)
        elif op.opcode != "dynamic-update-slice" or op.operands[0] != name:
            total += where[name].bytes
    return total
