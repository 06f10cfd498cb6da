"""What a compiled TPU program does, read from its scheduled HLO text.

    module = hlo.parse(compiled.as_text())
    sites = hlo.sites(module, trips=lambda loop: micro_batches)
    hlo.cycles(sites), hlo_traffic.collectives(module, sites)

A `Site` is an instruction that runs, with the loops around it.  Bodies of fusions are not sites:
a fusion is one instruction to the chip.  Everything is text in, plain values out; no jax here.

The compiler's own time model is the "estimated_cycles" of each instruction.  It covers arithmetic
and memory traffic, and knows nothing of collectives and of Pallas kernels.
"""

import collections
import dataclasses
import math
import re
from collections.abc import Callable, Iterable, Iterator

_START = re.compile(r"\s+(ROOT )?%?([\w.\-]+) = ")  # of an instruction
_END = re.compile(r'}(, execution_thread="\w+")?\s*$')  # of a computation
_ARRAY = re.compile(r"\b[a-z]+\w*\[[\d,<=\s]*\]")
_BITS = {"pred": 8, "s4": 4, "u4": 4, "s2": 2, "u2": 2, "token": 0}


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One line of a computation."""

    name: str
    opcode: str
    shape: str  # as written, layouts included
    operands: tuple[str, ...]  # names
    body: str  # what stands between the parentheses: a constant's value, a parameter's number
    attributes: str  # what follows them, metadata and backend_config included
    is_root: bool

    @property
    def bytes(self) -> int:
        """Bytes of the result, padding of tiles left out; all of a tuple's arrays together."""
        return shape_bytes(self.shape)

    @property
    def largest_array(self) -> int:
        """Bytes of the result, or of the largest array of a tuple."""
        return max(map(shape_bytes, arrays(self.shape)), default=0)

    @property
    def cycles(self) -> int:
        """The compiler's estimate; 0 where it gives none."""
        found = re.search(r'"estimated_cycles":"(\d+)"', self.attributes)
        return int(found[1]) if found else 0

    @property
    def op_name(self) -> str:
        """Where it comes from in the traced program; "" if unknown."""
        found = re.search(r'op_name="([^"]*)"', self.attributes)
        return found[1] if found else ""

    def called(self, key: str) -> str | None:
        """Name of the computation under `key`: calls, body, condition, to_apply."""
        found = re.search(rf"\b{key}=%?([\w.\-]+)", self.attributes)
        return found[1] if found else None

    def callee(self, *keys: str) -> str:
        """Name of the computation under the first of `keys` that is there; one must be."""
        name = next(filter(None, map(self.called, keys)), None)
        assert name is not None, f"{self.name} calls nothing under {keys}"
        return name

    def element(self) -> int:
        """Which element of its operand a get-tuple-element is."""
        found = re.search(r"index=(\d+)", self.attributes)
        assert found is not None, f"{self.name} states no index"
        return int(found[1])


Computation = dict[str, Instruction]


@dataclasses.dataclass(frozen=True)
class Module:
    """A parsed program."""

    computations: dict[str, Computation]
    entry: str


@dataclasses.dataclass(frozen=True)
class Loop:
    """A while loop.  `known` is its trip count if the program states it, None if data decides."""

    name: str
    op_name: str
    depth: int  # 1 is not inside another loop
    known: int | None


@dataclasses.dataclass(frozen=True)
class Site:
    """An instruction where it runs."""

    op: Instruction
    computation: str
    loops: tuple[Loop, ...]  # around it, outermost first
    times: float  # how often it runs in one execution of the program


# Text -> structures ----------------------------------------------------------------------------


def arrays(shape: str) -> list[str]:
    """`(bf16[2,3]{1,0}, s32[])` -> `bf16[2,3]`, `s32[]`."""
    return _ARRAY.findall(shape)


def shape_bytes(shape: str) -> int:
    """`bf16[2,3]{1,0}` -> 12; the arrays of a tuple are added up."""
    total = 0
    for array in arrays(shape):
        dtype, dims = array.rstrip("]").split("[")
        sizes = [int(d.strip(" <=")) for d in dims.split(",") if d.strip()]
        total += math.prod(sizes) * _bits(dtype) // 8
    return total


def _bits(dtype: str) -> int:
    if dtype in _BITS:
        return _BITS[dtype]
    found = re.match(r"[a-z]+(\d+)", dtype)  # bf16, f8e4m3fn, s32, c64
    return int(found[1]) if found else 0


def _closing(text: str, start: int) -> int:
    """Index of the parenthesis that closes the one at `start`."""
    depth = 0
    for found in re.compile(r"[()]").finditer(text, start):
        depth += 1 if found[0] == "(" else -1
        if depth == 0:
            return found.start()
    raise ValueError(f"unbalanced parentheses in HLO: {text[start : start + 80]}")


def _instruction(line: str) -> Instruction | None:
    found = _START.match(line)
    if not found:
        return None
    start = found.end()
    end = _closing(line, start) + 1 if line[start] == "(" else line.index(" ", start)
    opening = line.index("(", end)
    closing = _closing(line, opening)
    body = line[opening + 1 : closing]
    return Instruction(
        name=found[2],
        opcode=line[end:opening].strip(),
        shape=line[start:end],
        operands=tuple(re.findall(r"%([\w.\-]+)", body)),
        body=body,
        attributes=line[closing + 1 :],
        is_root=bool(found[1]),
    )


def _logical_lines(text: str) -> Iterator[str]:
    """One instruction a line: a kernel's configuration may hold line breaks."""
    held = ""
    for line in text.splitlines():
        if held and line.strip() and not (_END.match(line) or _START.match(line)):
            held += " " + line
            continue
        if held:
            yield held
        held = line if _START.match(line) else ""
        if not held:
            yield line
    if held:
        yield held


def parse(text: str) -> Module:
    """Parses `compiled.as_text()`.

    Raises:
      ValueError: the text has no entry computation.
    """
    computations: dict[str, Computation] = {}
    entry, current = "", None
    for line in _logical_lines(text):
        if current is None:
            found = re.match(r"(ENTRY )?%?([\w.\-]+) \(.*\{\s*$", line)
            if found:
                current = computations.setdefault(found[2], {})
                entry = found[2] if found[1] else entry
        elif _END.match(line):
            current = None
        elif (op := _instruction(line)) is not None:
            current[op.name] = op
    if not entry:
        raise ValueError("no ENTRY computation: expected the text of a compiled program")
    return Module(computations, entry)


def root(computation: Computation) -> Instruction:
    """The instruction whose value the computation returns."""
    return next(op for op in computation.values() if op.is_root)


# Loops -----------------------------------------------------------------------------------------


def _number(module: Module, where: Computation, name: str, around: Callable | None) -> int | None:
    """The integer an instruction stands for, if it is a constant seen through copies.

    `around(i)` gives element i of the tuple a loop was started with.
    """
    op = where.get(name)
    if op is None:
        return None
    if op.opcode == "constant":
        return int(op.body) if re.fullmatch(r"-?\d+", op.body) else None
    if op.opcode in ("copy", "bitcast", "convert", "reshape", "copy-done", "copy-start"):
        return _number(module, where, op.operands[0], around)
    if op.opcode == "get-tuple-element":
        index = op.element()
        source = where.get(op.operands[0])
        if source is not None and source.opcode == "tuple":
            return _number(module, where, source.operands[index], around)
        if source is not None and source.opcode == "parameter" and around is not None:
            return around(index)
        if source is not None and source.opcode == "while" and _unchanged(module, source, index):
            inner = where.get(source.operands[0])
            if inner is not None and inner.opcode == "tuple":
                return _number(module, where, inner.operands[index], around)
    return None


def _element(where: Computation, name: str) -> int | None:
    """i if the instruction is element i of the computation's only parameter."""
    op = where.get(name)
    while op is not None and op.opcode in ("copy", "bitcast", "convert"):
        op = where.get(op.operands[0])
    if op is None or op.opcode != "get-tuple-element":
        return None
    source = where.get(op.operands[0])
    if source is None or source.opcode != "parameter":
        return None
    return op.element()


def _unchanged(module: Module, loop: Instruction, index: int) -> bool:
    """Whether a loop hands element `index` on as it is."""
    body = module.computations[loop.callee("body")]
    result = root(body)
    return result.opcode == "tuple" and _element(body, result.operands[index]) == index


def _step(body: Computation, index: int) -> int | None:
    """By how much a loop's body raises element `index`."""
    result = root(body)
    op = body.get(result.operands[index]) if result.opcode == "tuple" else None
    if op is None or op.opcode != "add":
        return None
    numbers = [body[o].body for o in op.operands if o in body and body[o].opcode == "constant"]
    if len(numbers) != 1 or index not in [_element(body, o) for o in op.operands]:
        return None
    return int(numbers[0])


def _trip_count(
    module: Module, where: Computation, loop: Instruction, around: Callable | None
) -> int | None:
    """Trips of a loop that counts from a constant to a constant; None otherwise."""
    stated = re.search(r'known_trip_count"?:\{"n":"(\d+)"', loop.attributes)
    if stated:
        return int(stated[1])
    condition = module.computations[loop.callee("condition")]
    body = module.computations[loop.callee("body")]
    start = where.get(loop.operands[0])

    def initial(index: int) -> int | None:
        if start is not None and start.opcode == "tuple":
            return _number(module, where, start.operands[index], around)
        return None

    def bound(index: int) -> int | None:
        return initial(index) if _unchanged(module, loop, index) else None

    test = root(condition)
    arguments = test.operands
    if test.opcode == "fusion":  # a comparison wrapped in a fusion: see through its parameters
        inner = module.computations[test.callee("calls")]
        numbers = {n: int(op.body) for n, op in inner.items() if op.opcode == "parameter"}
        test = root(inner)
        if not all(o in numbers for o in test.operands):
            return None
        arguments = tuple(arguments[numbers[o]] for o in test.operands)
    if test.opcode != "compare" or "direction=LT" not in test.attributes:
        return None
    counter = _element(condition, arguments[0])
    last = _number(module, condition, arguments[1], bound)
    if counter is None or last is None:
        return None
    first, step = initial(counter), _step(body, counter)
    if first is None or not step or step < 0:
        return None
    return max(0, -((first - last) // step))


def sites(module: Module, trips: Callable[[Loop], float] = lambda loop: 1) -> list[Site]:
    """Every instruction that runs, with the loops around it and how often it runs.

    Args:
      trips: trip count of a loop whose bound is data (`loop.known` is None).

    A conditional's branches are all listed, as if each ran every time.
    """
    return list(_visit(module, module.entry, (), 1.0, trips, None))


def _visit(
    module: Module,
    name: str,
    loops: tuple[Loop, ...],
    times: float,
    trips: Callable[[Loop], float],
    around: Callable | None,
) -> Iterator[Site]:
    where = module.computations[name]
    for op in where.values():
        yield Site(op, name, loops, times)
        if op.opcode == "while":
            known = _trip_count(module, where, op, around)
            loop = Loop(op.name, op.op_name, len(loops) + 1, known)
            count = times * (trips(loop) if known is None else known)
            start = where.get(op.operands[0])

            def carried(
                index: int, op: Instruction = op, start: Instruction | None = start
            ) -> int | None:
                if start is None or start.opcode != "tuple" or not _unchanged(module, op, index):
                    return None
                return _number(module, where, start.operands[index], around)

            for key in ("condition", "body"):
                inside = (*loops, loop)
                yield from _visit(module, op.callee(key), inside, count, trips, carried)
        elif op.opcode == "conditional":
            for branch in _branches(op):
                yield from _visit(module, branch, loops, times, trips, None)
        elif op.opcode == "call":
            yield from _visit(module, op.callee("to_apply"), loops, times, trips, None)


def _branches(op: Instruction) -> list[str]:
    found = re.search(r"branch_computations=\{([^}]*)\}", op.attributes)
    if found:
        return re.findall(r"%?([\w.\-]+)", found[1])
    return [*filter(None, map(op.called, ("true_computation", "false_computation")))]


# Time ------------------------------------------------------------------------------------------


def cycles(sites: Iterable[Site]) -> float:
    """Clock cycles of one execution by the compiler's model, collectives and kernels left out."""
    return sum(site.op.cycles * site.times for site in sites)


def cycles_by_loops(sites: Iterable[Site]) -> dict[tuple[Loop, ...], float]:
    """`cycles` of the instructions directly inside each nest of loops."""
    totals: dict[tuple[Loop, ...], float] = collections.defaultdict(float)
    for site in sites:
        totals[site.loops] += site.op.cycles * site.times
    return dict(totals)
