"""Which mesh axis holds which dimension.

Three axes: "data" replicates the parameters, "fsdp" splits them along the model width, "tensor"
along heads, feed-forward and vocabulary.  Decoding runs one engine per (data, fsdp) index and
splits its products over "tensor"; the update spreads its rows over all three axes and gathers
weights instead.  Every array of the program is placed by a rule on this page.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from jax import lax
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from dars_jax.policy import decoder, lora
from dars_jax.types import UpdateBatch

MESH_AXES = ("data", "fsdp", "tensor")
BATCH_AXES = ("data", "fsdp")  # decode slots spread over both

_TRAIN_RULES = (
    ("embed", "fsdp"),
    ("heads", "tensor"),
    ("kv_heads", "tensor"),
    ("mlp", "tensor"),
    ("vocab", "tensor"),
    ("layers", None),
    ("head_dim", None),
    ("norm", None),
    ("rank", None),
)
# Decoding reads every weight at every step: gathered over fsdp once, when weights are published.
_DECODE_RULES = (("embed", None), *_TRAIN_RULES[1:])


def make_mesh(
    data: int, fsdp: int, tensor: int, devices: Sequence[jax.Device] | None = None
) -> Mesh:
    """Mesh of shape [data, fsdp, tensor]; its product must equal the number of devices.

    Mesh axes are laid along torus axes where there are any; several may share one.
    """
    devices = jax.devices() if devices is None else devices
    grid = mesh_utils.create_device_mesh(
        (data, fsdp, tensor), devices, allow_split_physical_axes=True
    )
    return Mesh(grid, MESH_AXES, axis_types=(AxisType.Auto,) * 3)


def num_replicas(mesh: Mesh) -> int:
    """Independent decode engines on the mesh: each (data, fsdp) index is one."""
    return mesh.shape["data"] * mesh.shape["fsdp"]


def replicated(mesh: Mesh) -> NamedSharding:
    """The whole array on every device."""
    return NamedSharding(mesh, PartitionSpec())


def rows(mesh: Mesh) -> NamedSharding:
    """Axis 0 spread over the batch axes."""
    return NamedSharding(mesh, PartitionSpec(BATCH_AXES))


def param_shardings(config: decoder.ModelConfig, mesh: Mesh) -> Any:
    """Trainer layout: a NamedSharding for every parameter."""
    return nn.logical_to_mesh_sharding(decoder.logical_axes(config), mesh, _TRAIN_RULES)


def adapter_shardings(config: decoder.ModelConfig, adapters: lora.Lora, mesh: Mesh) -> Any:
    """Trainer layout of the adapters: each side split as the side of the weights it stands for."""
    return nn.logical_to_mesh_sharding(lora.logical_axes(config, adapters), mesh, _TRAIN_RULES)


def decode_shardings(config: decoder.ModelConfig, mesh: Mesh) -> Any:
    """Decode layout (layers unstacked): tensor-parallel, whole over data and fsdp."""
    stacked = nn.logical_to_mesh_sharding(decoder.logical_axes(config), mesh, _DECODE_RULES)
    layer = jax.tree.map(
        lambda s: NamedSharding(mesh, PartitionSpec(*s.spec[1:])), stacked["layers"]
    )
    return {**stacked, "layers": (layer,) * config.num_layers}


def put(tree: Any, sharding: NamedSharding) -> Any:
    """Explicit transfer of host arrays; every process passes the same whole arrays."""

    def one(x: np.ndarray) -> jax.Array:
        x = np.asarray(x)
        with jax.transfer_guard_host_to_device("allow"):  # it counts the callback as implicit
            return jax.make_array_from_callback(x.shape, sharding, lambda index: x[index])

    if jax.process_count() == 1:
        return jax.device_put(tree, sharding)
    return jax.tree.map(one, tree)


def batch_shardings(mesh: Mesh) -> UpdateBatch:
    """Rows split over all devices, bounds and counts everywhere."""
    whole, split = replicated(mesh), NamedSharding(mesh, PartitionSpec(MESH_AXES))
    names = [f.name for f in dataclasses.fields(UpdateBatch)]
    fields: dict[str, Any] = {
        name: whole if name in ("bounds", "token_count") else split for name in names
    }
    return UpdateBatch(**fields)


def row_process(mesh: Mesh, count: int) -> np.ndarray:
    """int32[count]: the process whose device computes each of `count` rows of a micro-batch."""
    owner = np.array([device.process_index for device in mesh.devices.flat], np.int32)
    return np.repeat(owner, count // mesh.size)


def put_batch(batch: UpdateBatch, mesh: Mesh) -> UpdateBatch:
    """A batch of host arrays onto the mesh; every process passes the rows of its own devices."""
    shardings = batch_shardings(mesh)
    if jax.process_count() == 1:
        return jax.tree.map(put, batch, shardings)
    count = batch.tokens.shape[0] * mesh.size // len(mesh.local_devices)
    mine = np.flatnonzero(row_process(mesh, count) == jax.process_index())

    def one(x: np.ndarray, sharding: NamedSharding) -> jax.Array:
        if sharding.is_fully_replicated:
            return put(x, sharding)

        def rows(index: Any) -> np.ndarray:
            first, last, _ = index[0].indices(count)
            return x[slice(*np.searchsorted(mine, (first, last)))]

        with jax.transfer_guard_host_to_device("allow"):  # it counts the callback as implicit
            return jax.make_array_from_callback((count, *x.shape[1:]), sharding, rows)

    return jax.tree.map(one, batch, shardings)


# Collectives of the update, inside shard_map.  One mesh axis each: over several axes at once the
# TPU compiler turns a reduce-scatter into an all-reduce of the whole.


def _dimension(spec: PartitionSpec, axis: str) -> int | None:
    """Dimension that a spec splits over a mesh axis; None if there is nothing to split."""
    if lax.axis_size(axis) == 1 or axis not in spec:
        return None
    return spec.index(axis)


def gather(tree: Any, specs: Any, axis: str) -> Any:
    """Shards -> arrays whole along the mesh axis."""

    def one(x: jax.Array, spec: PartitionSpec) -> jax.Array:
        at = _dimension(spec, axis)
        return x if at is None else lax.all_gather(x, axis, axis=at, tiled=True)

    return jax.tree.map(one, tree, specs)


def scatter_sum(tree: Any, specs: Any, axis: str) -> Any:
    """Sums over the mesh axis; what a spec splits over it ends as shards, the rest is kept."""

    def one(x: jax.Array, spec: PartitionSpec) -> jax.Array:
        at = _dimension(spec, axis)
        return x if at is None else lax.psum_scatter(x, axis, scatter_dimension=at, tiled=True)

    return jax.tree.map(one, tree, specs)


def whole_sum(tree: Any, specs: Any, axis: str) -> Any:
    """Sums over the mesh axis what no spec splits over it; the rest is kept."""

    def one(x: jax.Array, spec: PartitionSpec) -> jax.Array:
        return x if lax.axis_size(axis) == 1 or axis in spec else lax.psum(x, axis)

    return jax.tree.map(one, tree, specs)
