"""Floating-point operations of a traced program, counted exactly, whatever machine it is for.

    count = flops.count(jitted.trace(*shapes).jaxpr, trips=micro_batches)

Only matrix products are counted.  Pallas kernels are listed instead: what they compute depends on
masks that the trace does not show.
"""

import collections
import dataclasses
import math
from collections.abc import Iterator
from typing import Any

from jax.extend import core


@dataclasses.dataclass(frozen=True)
class Count:
    """Operations of one execution, over all devices; a multiply-add is two."""

    weights: float = 0.0  # products with a weight matrix
    attention: float = 0.0  # products of activations with activations, batched over heads
    kernels: dict[str, float] = dataclasses.field(default_factory=dict)  # name: calls

    @property
    def total(self) -> float:
        """All products that the trace shows."""
        return self.weights + self.attention

    def __add__(self, other: "Count") -> "Count":
        kernels = collections.Counter(self.kernels)
        kernels.update(other.kernels)
        return Count(self.weights + other.weights, self.attention + other.attention, dict(kernels))

    def times(self, n: float) -> "Count":
        """The same, n times."""
        kernels = {name: calls * n for name, calls in self.kernels.items()}
        return Count(self.weights * n, self.attention * n, kernels)


def count(jaxpr: core.ClosedJaxpr | core.Jaxpr, trips: float = 1) -> Count:
    """Counts a jaxpr's matrix products.

    Args:
      trips: how often a loop runs whose bound is data.

    A conditional counts as its most expensive branch.  Inside shard_map shapes are those of one
    device, and are multiplied by the devices of the axes it maps over.
    """
    total = Count()
    for eqn in getattr(jaxpr, "jaxpr", jaxpr).eqns:
        total += _equation(eqn, trips)
    return total


def _equation(eqn: Any, trips: float) -> Count:
    name, params = eqn.primitive.name, eqn.params
    if name == "dot_general":
        return _dot(eqn)
    if name == "pallas_call":
        return Count(kernels={_kernel_name(params): 1})
    inner = [count(jaxpr, trips) for jaxpr in _jaxprs(params)]
    if name == "cond":
        return max(inner, key=lambda c: (c.total, sum(c.kernels.values())), default=Count())
    total = sum(inner, Count())
    if name == "scan":
        return total.times(params["length"])
    if name == "while":
        return total.times(trips)
    if name == "shard_map":
        axes = params["newly_manual_axes"]
        return total.times(math.prod(params["mesh"].shape[a] for a in axes))
    return total


def _dot(eqn: Any) -> Count:
    (contracting, _), (batch, _) = eqn.params["dimension_numbers"]
    depth = math.prod(eqn.invars[0].aval.shape[i] for i in contracting)
    operations = 2.0 * depth * math.prod(eqn.outvars[0].aval.shape)
    return Count(attention=operations) if batch else Count(weights=operations)


def _kernel_name(params: dict[str, Any]) -> str:
    info = params.get("name_and_src_info")
    return str(params.get("name") or getattr(info, "name", None) or "kernel")


def _jaxprs(params: dict[str, Any]) -> Iterator[Any]:
    """Every jaxpr among an equation's parameters."""
    for value in params.values():
        for item in value if isinstance(value, tuple | list) else (value,):
            if isinstance(item, core.ClosedJaxpr | core.Jaxpr):
                yield item
