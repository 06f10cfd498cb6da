"""Where the time of a benchmark goes: XLA's own trace of one run, summed up by what is computed.

XLA calls its operations fusion.17; what they compute stands in the text of the compiled program,
which XLA writes to a directory if it is asked to before its backend starts (`flags`).
"""

import dataclasses
import math
import re
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import jax

Operation = tuple[str, str]  # program, operation
_NAMED = re.compile(r'^\s+(?:ROOT )?%([\w.-]+) = .*op_name="([^"]*)"')
_PRODUCT = re.compile(r"ynn_fusion|dot\b|dot\.")  # XLA's names for products on a CPU
_OUTER = re.compile(r"while|call|conditional")  # their time is that of what is inside
# What an operation belongs to, by the name that jax gave it; the first that matches.
_PARTS = (
    ("resizing", r"jit\(resize\)"),
    ("weights of layers", r"_project"),
    ("attention", r"btkgd|bkgtu|skb?gd|skb?gc|Block\)*/(select_n|exp|div|reduce|pad|slice|sub)"),
    ("keys and values", r"Block/scatter"),
    ("rotary embedding", r"_turned"),
    ("norms", r"norm|RMSNorm"),
    ("gated unit", r"silu|Block"),
    (
        "what loops carry",
        r"dynamic_(update_)?slice|squeeze|/closed_call$|shard_map$|broadcast\.\d+$|^copy",
    ),
    ("head, loss, sampling", r"jvp\(\)|,vd->|reduce_(max|sum)|exp|while/body/.*transpose$"),
    ("refill", r"jit\(enqueue\)|jit\(prefill\)"),
)


def flags(directory: str) -> str:
    """What XLA_FLAGS must hold before jax starts its backend."""
    return f"--xla_dump_to={directory} --xla_dump_hlo_as_text --xla_dump_hlo_module_re=jit_"


def names(directory: str) -> dict[Operation, str]:
    """The name that jax gave to each operation of all programs that XLA wrote there."""
    found = {}
    for path in Path(directory).rglob("*after_optimizations.txt"):
        program, *lines = path.read_text().split("\n")
        module = program.removeprefix("HloModule ").split(",")[0]
        for named in filter(None, map(_NAMED.match, lines)):
            found[module, named[1]] = named[2]
    return found


def part(operation: str, name: str) -> str:
    """What an operation of XLA belongs to."""
    what = next((p for p, pattern in _PARTS if re.search(pattern, name)), "other")
    way = ", backward" if "transpose(" in name else ""
    return f"products: {what}{way}" if _PRODUCT.match(operation) else what


@dataclasses.dataclass(frozen=True)
class Trace:
    """What XLA did in one run."""

    wall: float  # seconds
    idle: float  # seconds in which no operation ran: the host worked alone
    seconds: Counter[Operation]  # of each operation, those of all threads together


def trace(run: Callable[[], Any]) -> Trace:
    """Runs it once under XLA's profiler."""
    options = jax.profiler.ProfileOptions()
    options.python_tracer_level = 0
    seconds: Counter[Operation] = Counter()
    spans = []
    with tempfile.TemporaryDirectory() as directory:
        with jax.profiler.trace(directory, profiler_options=options):
            start = time.perf_counter()
            run()
            wall = time.perf_counter() - start
        for path in Path(directory).rglob("*.xplane.pb"):
            for plane in jax.profiler.ProfileData.from_file(str(path)).planes:
                for event in (event for line in plane.lines for event in line.events):
                    stats = dict(event.stats)
                    if "hlo_op" in stats and not event.name.startswith("end: "):
                        operation = stats["hlo_module"], stats["hlo_op"]
                        seconds[operation] += event.duration_ns / 1e9
                        spans.append((event.start_ns, event.start_ns + event.duration_ns))
    return Trace(wall, max(wall - covered(spans) / 1e9, 0.0), seconds)


def covered(spans: Iterable[tuple[float, float]]) -> float:
    """Length of what (start, end) cover together."""
    length, reached = 0.0, -math.inf
    for start, end in sorted(spans):
        length += max(end - max(start, reached), 0.0)
        reached = max(reached, end)
    return length


def summary(traced: Trace, named: dict[Operation, str]) -> Iterable[dict[str, Any]]:
    """A line of the whole, and one for each part of the work, the largest first."""
    parts: Counter[str] = Counter()
    for operation, spent in traced.seconds.items():
        if not _OUTER.match(operation[1]):
            parts[part(operation[1], named.get(operation, operation[1]))] += spent
    total = sum(parts.values())
    yield {"wall": round(traced.wall, 4), "host_alone": round(traced.idle / traced.wall, 4)}
    for what, spent in parts.most_common():
        yield {"part": what, "thread_seconds": round(spent, 4), "share": round(spent / total, 4)}
