"""The mesh of a run: what the settings say, or what suits the slice."""

import math

from dars_jax.config import ConfigDict
from dars_jax.learner.memory import GIB, Hardware
from dars_jax.policy.decoder import ModelConfig

Shape = tuple[int, int, int]  # data, fsdp, tensor


def mesh_shape(
    c: ConfigDict, num_devices: int, model: ModelConfig, hardware: Hardware
) -> tuple[Shape, str]:
    """The mesh, and why it was chosen if it was.

    Raises:
      ValueError: mesh.* do not make a mesh of so many devices, or the policy does not divide.
    """
    given = [c.mesh.data, c.mesh.fsdp, c.mesh.tensor]
    if not any(given) and hardware.platform == "tpu":
        return choose(model, num_devices, hardware)
    shape = [n or default for n, default in zip(given, (1, -1, 1), strict=True)]
    if shape.count(-1) > 1:
        raise ValueError("only one of mesh.data, mesh.fsdp, mesh.tensor can be -1")
    if any(n < -1 for n in shape):
        raise ValueError(f"mesh axes must be positive, 0 or -1, got {given}")
    known = math.prod(n for n in shape if n > 0)
    if -1 in shape:
        if num_devices % known:
            raise ValueError(
                f"{num_devices} devices do not divide by the {known} of the fixed mesh axes"
            )
        shape[shape.index(-1)] = num_devices // known
    elif known != num_devices:
        raise ValueError(
            f"mesh.data x mesh.fsdp x mesh.tensor is {known}, but there are {num_devices} devices"
        )
    data, fsdp, tensor = shape
    _check(model, fsdp, tensor)
    return (data, fsdp, tensor), ""


def choose(model: ModelConfig, num_devices: int, hardware: Hardware) -> tuple[Shape, str]:
    """A mesh for a TPU slice, and the reason for it in words.

    `tensor` chips hold one decode replica, no more than there are key/value heads to split.  `fsdp`
    runs along one whole torus axis, so that gathers and scatters stay on one ring; what is left
    is `data`.
    """
    if num_devices == 1:
        return (1, 1, 1), ""
    tensor = 1
    if model.num_params() >= 1e9:
        most = 8 if hardware.memory < 24 * GIB else 4  # small chips need more of them for a cache
        split = (num_devices, *(size for size, _ in _split_over_tensor(model)))
        tensor = max(t for t in (1, 2, 4, 8) if t <= most and not any(n % t for n in split))
    rest = num_devices // tensor
    if model.num_params() < 1e8:
        return (rest, 1, tensor), f"mesh.data {rest}: the policy is too small to be split"
    fits = [a for a in hardware.torus if rest % a == 0 and model.d_model % a == 0]
    fsdp = max(fits, default=1)
    why = (
        f"mesh.tensor {tensor}: chips of a decode replica, at most the {model.num_kv_heads} "
        f"key/value heads; mesh.fsdp {fsdp}: one whole axis of the "
        f"{'x'.join(map(str, hardware.torus))} torus; mesh.data {rest // fsdp}: the rest"
    )
    return (rest // fsdp, fsdp, tensor), why


def _split_over_tensor(model: ModelConfig) -> tuple[tuple[int, str], ...]:
    return (
        (model.num_heads, "query heads"),
        (model.num_kv_heads, "key/value heads"),
        (model.d_ff, "feed-forward features"),
        (model.vocab_size, "vocabulary entries"),
    )


def _check(model: ModelConfig, fsdp: int, tensor: int) -> None:
    for size, what in _split_over_tensor(model):
        if size % tensor:
            raise ValueError(f"{size} {what} do not divide by mesh.tensor = {tensor}")
    if model.d_model % fsdp:
        raise ValueError(
            f"width {model.d_model} does not divide by mesh.fsdp = {fsdp}: use mesh.data for the "
            "rest"
        )
