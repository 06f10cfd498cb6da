"""Low-rank adapters: what LoRA (arXiv 2106.09685) teaches in place of a policy's weights.

    y = x W + alpha / r · (x A) B        W frozen, A drawn at first, B zero

Adapters lie among the weights of the layers, as layers/adapters/NAME/{a,b}, where the decoder finds
them.  Alone, that tree is what learns: optimizer, gradient and checkpoints know nothing else.

Letters: N layers, r rank, I what goes into a projection and O what comes out, one axis or two each.
"""

import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import PartitionSpec

from dars_jax.policy import decoder
from dars_jax.policy.decoder import ModelConfig, Params

TARGETS = ("q", "k", "v", "o", "gate", "up", "down")
_STREAM = 0x10A  # keeps the draw of A apart from other uses of a run's seed


@dataclasses.dataclass(frozen=True)
class Lora:
    """Static settings of the adapters."""

    rank: int
    alpha: float
    targets: tuple[str, ...]  # of TARGETS, in their order

    @property
    def scale(self) -> float:
        """By which what the adapters add is multiplied."""
        return self.alpha / self.rank


def from_settings(model: ModelConfig, rank: int, alpha: float, targets: str) -> Lora | None:
    """Checks the settings lora.*; None where rank is 0.

    Raises:
      ValueError: one line with the key, what it is, and what would do.
    """
    names = [name.strip() for name in targets.split(",")]
    unknown = [name for name in names if name not in TARGETS]
    if rank < 0:
        raise ValueError(f"lora.rank must be 0 (no adapters) or more, got {rank}")
    if not 0 < alpha < math.inf:
        raise ValueError(f"lora.alpha must be above 0, got {alpha}")
    if unknown or len(set(names)) < len(names):
        what = f"has {unknown[0]!r}" if unknown else "names one twice"
        raise ValueError(f"lora.targets = {targets!r} {what}: give some of {','.join(TARGETS)}")
    lora = Lora(rank, alpha, tuple(name for name in TARGETS if name in names))
    for name in lora.targets:
        kernel, inputs = _kernel(model, name)
        narrow = min(math.prod(kernel.shape[1:inputs]), math.prod(kernel.shape[inputs:]))
        if rank > narrow:
            raise ValueError(f"lora.rank = {rank} is above {narrow}, the rank that the weights of "
                             f"{name!r} can have: take a smaller one")  # fmt: skip
    return lora if rank else None


def _kernel(model: ModelConfig, name: str) -> tuple[jax.ShapeDtypeStruct, int]:
    """The weights [N,I,O] of a projection, and at which axis O begins."""
    return decoder.abstract_params(model)["layers"][name]["kernel"], 3 if name == "o" else 2


def learning(model: ModelConfig, lora: Lora | None) -> Params:
    """Shapes and dtypes of what learns: all parameters, or adapters a [N,I,r] and b [N,r,O]."""
    if lora is None:
        return decoder.abstract_params(model)
    adapters = {}
    for name in lora.targets:
        kernel, inputs = _kernel(model, name)
        a = (*kernel.shape[:inputs], lora.rank)
        b = (kernel.shape[0], lora.rank, *kernel.shape[inputs:])
        adapters[name] = {
            k: jax.ShapeDtypeStruct(x, jnp.float32) for k, x in zip("ab", (a, b), strict=True)
        }
    return {"layers": {"adapters": adapters}}


def logical_axes(model: ModelConfig, lora: Lora) -> Params:
    """Axis names of the adapters: I and O are split as those of the weights are."""
    adapters = {}
    for name in lora.targets:
        _, inputs = _kernel(model, name)
        axes = tuple(decoder.logical_axes(model)["layers"][name]["kernel"])
        adapters[name] = {
            "a": PartitionSpec(*axes[:inputs], "rank"),
            "b": PartitionSpec(axes[0], "rank", *axes[inputs:]),
        }
    return {"layers": {"adapters": adapters}}


def count(model: ModelConfig, lora: Lora) -> int:
    """Parameters of the adapters."""
    return sum(math.prod(x.shape) for x in jax.tree.leaves(learning(model, lora)))


def init(model: ModelConfig, lora: Lora, seed: int) -> Params:
    """Fresh adapters: A uniform within ±1 / sqrt(width of I), as PEFT draws it, and B zero.

    Jit it with `out_shardings` to create them in place; the draw is the same on any mesh.
    """
    key = jax.random.fold_in(jax.random.key(seed), _STREAM)

    def draw(path: Any, x: jax.ShapeDtypeStruct) -> jax.Array:
        name, side = (entry.key for entry in path[-2:])
        if side == "b":
            return jnp.zeros(x.shape, x.dtype)
        bound = math.prod(x.shape[1:-1]) ** -0.5
        mine = jax.random.fold_in(key, TARGETS.index(name))
        return jax.random.uniform(mine, x.shape, x.dtype, -bound, bound)

    return jax.tree_util.tree_map_with_path(draw, learning(model, lora))


@functools.partial(jax.jit, static_argnums=1)
def scaled(adapters: Params, scale: float) -> Params:
    """B times alpha / r.  A linear map that is its own transpose: gradients go back through it."""

    def one(path: Any, x: jax.Array) -> jax.Array:
        return x * scale if path[-1].key == "b" else x

    return jax.tree_util.tree_map_with_path(one, adapters)


def joined(weights: Params, adapters: Params) -> Params:
    """Frozen weights with scaled adapters among them, as the decoder takes them.

    Trees of anything: arrays, shapes or shardings.
    """
    return {**weights, "layers": {**weights["layers"], **adapters["layers"]}}


def whole(lora: Lora | None, initial: Any, learned: Params) -> Params:
    """What a policy computes with: what has learned and, if that is adapters, their base."""
    return learned if lora is None else joined(initial, scaled(learned, lora.scale))


def what_learns(tree: Params) -> Params:
    """Of weights, or of one layer's: the adapters if there are any, else all."""
    if "adapters" in tree.get("layers", {}):
        return {"layers": what_learns(tree["layers"])}
    return {"adapters": tree["adapters"]} if "adapters" in tree else tree


def _merged(layer: Params) -> Params:
    """One layer's weights with A B added in float32 and rounded once; no adapters are left.

    For weights that are rounded anyway, factors of A B in the device's own precision are enough:
    in float32 a TPU's compiler takes minutes over hundreds of them.
    """
    merged = {name: entry for name, entry in layer.items() if name != "adapters"}
    for name, pair in layer["adapters"].items():
        kernel = merged[name]["kernel"]
        exact = lax.Precision.HIGHEST if kernel.dtype == jnp.float32 else lax.Precision.DEFAULT
        change = jnp.tensordot(pair["a"], pair["b"], 1, precision=exact)
        new = (kernel.astype(jnp.float32) + change).astype(kernel.dtype)
        merged[name] = {**merged[name], "kernel": new}
    return merged


@jax.jit
def merged(params: Params) -> Params:
    """Joined weights -> plain ones of the same dtypes, in the trainer's layout."""
    return {**params, "layers": jax.vmap(_merged)(params["layers"])}


def unstack_layers(params: Params, *, dtype: jnp.dtype) -> Params:
    """`decoder.unstack_layers` of weights that may have adapters, which are merged.

    Layer by layer: stacked, the float32 sums would be as large as the policy.
    """
    adapters = params["layers"].get("adapters")
    if adapters is None:
        return decoder.unstack_layers(params, dtype=dtype)
    plain = {name: entry for name, entry in params["layers"].items() if name != "adapters"}
    out = decoder.unstack_layers({**params, "layers": plain}, dtype=dtype)
    layers = tuple(
        _merged({**layer, "adapters": jax.tree.map(lambda x, i=i: x[i], adapters)})
        for i, layer in enumerate(out["layers"])
    )
    return {**out, "layers": layers}
