"""Where each parameter lies in a Hugging Face checkpoint, for both directions.

Letters: V vocabulary, D model width, H query heads, K key/value heads, d head size,
F feed-forward width, N layers.
"""

import math
import pathlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import safetensors

from dars_jax.policy.decoder import ModelConfig, abstract_params

_READ_BYTES = 4 * 2**20  # at a time: blocks that fit a cache turn in half the CPU time of 64 MiB


class Layout(NamedTuple):
    """How one of our leaves lies in a checkpoint.

    `ours` gives one letter per axis (the layer axis aside); `stored` gives, for each axis of the
    stored tensor, the letters of ours that are flattened into it.  A torch Linear is stored
    [out, in], ours are [in..., out...].
    """

    name: str  # in the checkpoint; {} stands for the layer, whose axis comes first in ours
    ours: str
    stored: tuple[str, ...]

    @property
    def stacked(self) -> bool:
        """Whether our leaf holds all layers."""
        return "{}" in self.name

    @property
    def order(self) -> list[int]:
        """Our axes in the order in which they are stored."""
        return [self.ours.index(letter) for letter in "".join(self.stored)]

    def stored_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Shape of one stored tensor; `shape` is ours without the layer axis."""
        size = dict(zip(self.ours, shape, strict=True))
        return tuple(math.prod(size[letter] for letter in axis) for axis in self.stored)


_LAYER = "model.layers.{}."
_ATTENTION = _LAYER + "self_attn."
LAYOUT = {
    "embedding": Layout("model.embed_tokens.weight", "VD", ("V", "D")),
    "head": Layout("lm_head.weight", "VD", ("V", "D")),
    "final_norm/scale": Layout("model.norm.weight", "D", ("D",)),
    "layers/attention_norm/scale": Layout(_LAYER + "input_layernorm.weight", "D", ("D",)),
    "layers/mlp_norm/scale": Layout(_LAYER + "post_attention_layernorm.weight", "D", ("D",)),
    "layers/attention_post_norm/scale": Layout(
        _LAYER + "post_attention_layernorm.weight", "D", ("D",)
    ),
    "layers/mlp_post_norm/scale": Layout(_LAYER + "post_feedforward_layernorm.weight", "D", ("D",)),
    "layers/q_head_norm/scale": Layout(_ATTENTION + "q_norm.weight", "d", ("d",)),
    "layers/k_head_norm/scale": Layout(_ATTENTION + "k_norm.weight", "d", ("d",)),
    "layers/q_norm/scale": Layout(_ATTENTION + "q_norm.weight", "Hd", ("Hd",)),
    "layers/k_norm/scale": Layout(_ATTENTION + "k_norm.weight", "Kd", ("Kd",)),
    "layers/q/kernel": Layout(_ATTENTION + "q_proj.weight", "DHd", ("Hd", "D")),
    "layers/k/kernel": Layout(_ATTENTION + "k_proj.weight", "DKd", ("Kd", "D")),
    "layers/v/kernel": Layout(_ATTENTION + "v_proj.weight", "DKd", ("Kd", "D")),
    "layers/q/bias": Layout(_ATTENTION + "q_proj.bias", "Hd", ("Hd",)),
    "layers/k/bias": Layout(_ATTENTION + "k_proj.bias", "Kd", ("Kd",)),
    "layers/v/bias": Layout(_ATTENTION + "v_proj.bias", "Kd", ("Kd",)),
    "layers/o/kernel": Layout(_ATTENTION + "o_proj.weight", "HdD", ("D", "Hd")),
    "layers/gate/kernel": Layout(_LAYER + "mlp.gate_proj.weight", "DF", ("F", "D")),
    "layers/up/kernel": Layout(_LAYER + "mlp.up_proj.weight", "DF", ("F", "D")),
    "layers/down/kernel": Layout(_LAYER + "mlp.down_proj.weight", "FD", ("D", "F")),
}


def layout_of(path: Any) -> Layout:
    """The row of the table for a key path of `jax.tree_util`."""
    return LAYOUT[jax.tree_util.keystr(path, simple=True, separator="/")]


def expected_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Name -> shape of every tensor of a checkpoint, leaf by leaf of our tree."""
    shapes = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(abstract_params(config)):
        layout = layout_of(path)
        shape = layout.stored_shape(leaf.shape[layout.stacked :])
        for layer in range(leaf.shape[0] if layout.stacked else 1):
            shapes[layout.name.format(layer)] = shape
    return shapes


def to_stored(leaf: np.ndarray, layout: Layout) -> Iterator[tuple[str, np.ndarray]]:
    """Name and stored form of the tensors that make up one of our leaves."""
    for layer, ours in enumerate(leaf if layout.stacked else [leaf]):
        tensor = ours.transpose(layout.order).reshape(layout.stored_shape(ours.shape))
        yield layout.name.format(layer), tensor


class Stored(NamedTuple):
    """A tensor in a safetensors file, as its header describes it."""

    file: pathlib.Path
    name: str
    shape: tuple[int, ...]
    dtype: str

    def read(self, part: tuple[slice, ...]) -> np.ndarray:
        """A copy of one part.  Opened anew each time: a closed map gives its pages back."""
        with safetensors.safe_open(self.file, framework="np") as file:
            return file.get_slice(self.name)[part]


def read_part(
    stored: dict[str, Stored],
    layout: Layout,
    shape: tuple[int, ...],
    part: tuple[range, ...],
    dtype: jnp.dtype,
) -> np.ndarray:
    """The part of one of our leaves (of `shape`) that lies in `part`, one range per axis."""
    out = _aligned_empty([len(r) for r in part], dtype)
    if layout.stacked:
        for row, layer in zip(out, part[0], strict=True):
            _fill(row, stored[layout.name.format(layer)], layout, shape[1:], part[1:])
    else:
        _fill(out, stored[layout.name], layout, shape, part)
    return out


def _fill(
    out: np.ndarray,
    tensor: Stored,
    layout: Layout,
    shape: tuple[int, ...],
    part: tuple[range, ...],
) -> None:
    """Copies `part` of a stored tensor into `out`, turned into our axis order.

    Raises ValueError if a weight there is not finite.

    Of each stored axis, the range of its first letter is cut while reading; the further letters
    (a head's features, hardly ever sharded) are read whole and cut afterwards.
    """
    size = dict(zip(layout.ours, shape, strict=True))
    cut = dict(zip(layout.ours, part, strict=True))
    unit = [math.prod(size[letter] for letter in axis[1:]) for axis in layout.stored]
    lead = [cut[axis[0]] for axis in layout.stored]
    columns = [slice(r.start * n, r.stop * n) for r, n in zip(lead[1:], unit[1:], strict=True)]
    whole, keep = [], []  # of a block: its shape letter by letter, and what to keep of it
    for axis, rows in zip(layout.stored, lead, strict=True):
        whole += [len(rows), *(size[letter] for letter in axis[1:])]
        keep += [slice(None), *(slice(cut[i].start, cut[i].stop) for i in axis[1:])]
    out = out.transpose(layout.order)  # a view in the stored order
    for piece in chunks(lead[0], 4 * unit[0] * math.prod(s.stop - s.start for s in columns)):
        block = tensor.read((slice(piece.start * unit[0], piece.stop * unit[0]), *columns))
        block = block.reshape(-1, *whole[1:])[tuple(keep)]
        filled = out[piece.start - lead[0].start : piece.stop - lead[0].start]
        filled[...] = block
        _need_finite(filled, tensor)


def _need_finite(x: np.ndarray, tensor: Stored) -> None:
    """One bad weight makes every answer worthless.  A sum tells quickly, unless it overflows."""
    with np.errstate(over="ignore", invalid="ignore"):
        total = np.add.reduce(x, axis=None, dtype=np.float32)
        if np.isfinite(total) or np.isfinite(x.astype(np.float32)).all():
            return
    raise ValueError(f"{tensor.file}: {tensor.name} holds NaN or infinity: not usable as weights")


def chunks(rows: range, row_bytes: int) -> Iterator[slice]:
    """Cuts rows into slices of a size that is good to read."""
    step = max(1, _READ_BYTES // max(1, row_bytes))
    for start in range(rows.start, rows.stop, step):
        yield slice(start, min(start + step, rows.stop))


def _aligned_empty(shape: list[int], dtype: jnp.dtype) -> np.ndarray:
    """At a multiple of 64 bytes the CPU backend takes the buffer over; otherwise it copies it."""
    size = math.prod(shape) * np.dtype(dtype).itemsize
    raw = np.empty(size + 64, np.uint8)
    start = -raw.ctypes.data % 64
    return raw[start : start + size].view(dtype).reshape(shape)
