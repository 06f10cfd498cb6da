"""Forward and backward pass of one micro-batch on one device of the mesh, inside shard_map.

Every device has rows of its own and computes them with whole weights.  How they become whole:

    "epoch"  all weights are gathered once per optimizer step; micro-batches need no communication
    "layer"  a layer's weights are gathered over "fsdp" when its turn comes, and its gradient is
             scattered at once; of the rest, the head is gathered once per optimizer step, and of
             the embedding each device keeps some columns and looks tokens up for its whole ring

Gradients are added in float32 to accumulators that lie as the weights do.  The backward pass is
written out, layer by layer, so that it adds in place: differentiating the loop over layers would
build a second copy of all gradients first.

Where layers have adapters (policy/lora.py) nothing else learns: no other gradient is made or kept.

Letters: b rows, T tokens, D model width, V vocabulary, N layers, f devices of the axis "fsdp".
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from dars_jax.learner import loss as loss_lib
from dars_jax.policy import decoder, lora, sharding
from dars_jax.policy.attention import Packing

GATHER_MODES = ("epoch", "layer")


@dataclasses.dataclass(frozen=True)
class Passes:
    """Static settings of the passes over a micro-batch."""

    model: decoder.ModelConfig
    attention: decoder.Attention
    loss: loss_lib.LossConfig
    specs: Any  # PartitionSpec of every parameter, and of adapters
    gather: str
    chunk: int
    dtype: jnp.dtype
    remat: str

    def collect(self, params: decoder.Params) -> decoder.Params:
        """Shards of the master parameters -> the weights of an optimizer step, in `dtype`."""
        cast = jax.tree_util.tree_map_with_path(self._cast, params)
        weights = sharding.gather(cast, self.specs_of(cast), "tensor")
        return self._others(sharding.gather, weights)

    def specs_of(self, tree: decoder.Params) -> Any:
        """PartitionSpecs of parameters, gradients or adapters: of all, or of what is there."""
        return _of(self.specs, tree)

    def zeros(self, weights: decoder.Params) -> decoder.Params:
        """Accumulators for the gradient of what learns of `weights`."""
        learns = lora.what_learns(weights)
        return jax.tree.map(lambda x: jnp.zeros(x.shape, jnp.float32), learns)

    def distribute(self, total: decoder.Params) -> decoder.Params:
        """Accumulators of all devices -> shards of their sum, laid out as the master parameters."""
        total, specs = self._others(sharding.scatter_sum, total), self.specs_of(total)
        for axis in ("tensor", "data"):
            total = sharding.scatter_sum(total, specs, axis)
        for axis in sharding.MESH_AXES:
            total = sharding.whole_sum(total, specs, axis)
        return total

    def add_gradient(
        self, weights: decoder.Params, total: decoder.Params, arrays: dict[str, jax.Array]
    ) -> tuple[decoder.Params, loss_lib.Sums, jax.Array]:
        """Adds the gradient of a micro-batch [b,T] -> (total, Sums, logprob float32[b,T])."""
        tokens, total = arrays["tokens"], dict(total)
        x = self._look_up(weights["embedding"], tokens)
        x, saved = self._forward(weights["layers"], x, arrays, keep=True)
        hidden, pull = jax.vjp(self._final_norm, weights["final_norm"], x)
        names = ("target", "advantage", "weight", "sampler_logprob", "old_logprob",
                 "reference_logprob", "first", "entropy_weight")  # fmt: skip
        data = {k: arrays[k] for k in names if k in arrays}
        head = "embedding" if self.model.tied_head else "head"
        frozen = head not in total  # all but adapters
        if self.loss.by_sequence:  # the head once more, as sequences reach over chunks
            logprob = loss_lib.head_logprob(
                hidden, weights[head], arrays["target"], self.loss.temperature, self.chunk
            )
            data |= loss_lib.sequence_terms(logprob, arrays, self.loss)
        sums, logprob, d_hidden, d_head = loss_lib.head_gradient(
            hidden, weights[head], total.get(head), data, self.loss, self.chunk
        )
        d_norm, dx = pull(d_hidden)
        if not frozen:
            total[head] = d_head
            total["final_norm"] = jax.tree.map(jnp.add, total["final_norm"], d_norm)
        dx, total["layers"] = self._backward(weights["layers"], total["layers"], saved, dx, arrays)
        if not frozen:
            total["embedding"] = self._look_up_backward(total["embedding"], tokens, dx)
        return total, sums, logprob

    def logprob(self, weights: decoder.Params, arrays: dict[str, jax.Array]) -> jax.Array:
        """Log-probs of the targets of a micro-batch -> float32[b,T], without a gradient."""
        x = self._look_up(weights["embedding"], arrays["tokens"])
        x, _ = self._forward(weights["layers"], x, arrays, keep=False)
        hidden = self._final_norm(weights["final_norm"], x)
        head = decoder.head_matrix(weights)
        return loss_lib.head_logprob(
            hidden, head, arrays["target"], self.loss.temperature, self.chunk
        )

    def _cast(self, path: Any, x: jax.Array) -> jax.Array:
        scale = path[-1].key == "scale"  # norms multiply in float32
        return x if scale else x.astype(self.dtype)

    def _split(self, name: str) -> bool:
        """Whether a top-level entry of the weights stays split over "fsdp" between layers."""
        columns = name == "embedding" and not self.model.tied_head
        return self.gather == "layer" and (name == "layers" or columns)

    def _others(self, collective: Any, tree: decoder.Params) -> decoder.Params:
        """Applies a collective over "fsdp" to what does not stay split over it."""
        specs = self.specs_of(tree)
        return {
            k: v if self._split(k) else collective(v, specs[k], "fsdp") for k, v in tree.items()
        }

    def _spread(self) -> bool:
        return self._split("embedding") and lax.axis_size("fsdp") > 1

    def _look_up(self, table: jax.Array, tokens: jax.Array) -> jax.Array:
        """tokens int32[b,T] -> [b,T,D]."""
        if not self._spread():
            return jnp.take(table, tokens, axis=0)
        tokens = lax.all_gather(tokens, "fsdp", axis=0, tiled=True)  # [f b,T]
        columns = jnp.take(table, tokens, axis=0)  # [f b,T,D/f]
        return lax.all_to_all(columns, "fsdp", split_axis=0, concat_axis=2, tiled=True)

    def _look_up_backward(self, total: jax.Array, tokens: jax.Array, dx: jax.Array) -> jax.Array:
        if self._spread():
            tokens = lax.all_gather(tokens, "fsdp", axis=0, tiled=True)
            dx = lax.all_to_all(dx, "fsdp", split_axis=2, concat_axis=0, tiled=True)
        return total.at[tokens].add(dx.astype(jnp.float32))

    def _final_norm(self, params: decoder.Params, x: jax.Array) -> jax.Array:
        norm = decoder.RMSNorm(self.model.norm_eps)
        hidden: Any = norm.apply({"params": params}, x)
        return hidden

    def _block(self, layer: Any, x: jax.Array, turns: Any, packing: Any) -> jax.Array:
        block = decoder.Block(self.model, self.attention, self.dtype)
        return block.apply({"params": layer}, x, turns, packing)[0]

    def _given(self, arrays: dict[str, jax.Array]) -> tuple[Any, Packing]:
        """What every layer is given besides x: where tokens stand, and which belong together."""
        turns = decoder.rotation(self.model, arrays["position"])
        return turns, Packing(arrays["group"], arrays["segment"])

    def _whole(self, layer: Any) -> Any:
        """One layer's weights, gathered if they are split."""
        if not self._split("layers"):
            return layer
        return sharding.gather(layer, self._layer_specs(layer), "fsdp")

    def _layer_specs(self, layer: Any) -> Any:
        one = lambda spec: type(spec)(*spec[1:])  # noqa: E731, without the axis of the layers
        return jax.tree.map(one, _of(self.specs["layers"], layer))

    def _forward(
        self, layers: Any, x: jax.Array, arrays: dict[str, jax.Array], *, keep: bool
    ) -> tuple[jax.Array, Any]:
        """Through all layers -> (x, what the backward pass needs of each, stacked)."""
        given = self._given(arrays)
        block = self._block
        if self.remat != "none":
            policy = decoder.REMAT_POLICIES[self.remat]
            block = jax.checkpoint(block, policy=policy, prevent_cse=False)

        def through(x: jax.Array, layer: Any) -> tuple[jax.Array, "_Saved"]:
            layer = self._whole(layer)
            of_learning = lambda learns, x: block({**layer, **learns}, x, *given)  # noqa: E731
            x, pull = jax.vjp(of_learning, lora.what_learns(layer), x)
            return x, _Saved.of(pull, (layer, given))

        def body(carry: tuple[jax.Array, list[jax.Array]], xs: Any) -> tuple[Any, "_Saved"]:
            (x, room), (index, layer) = carry, xs
            x, saved = through(x, layer)
            room = jax.tree.map(functools.partial(_put_at, index), room, saved.residuals)
            return (x, room), dataclasses.replace(saved, residuals=[])

        if not keep:
            return lax.scan(lambda x, w: (self._block(self._whole(w), x, *given), None), x, layers)
        # What a scan stacks by itself lies in arrays of zeros, which a TPU writes for every
        # micro-batch once it runs gathers an iteration ahead: a tenth of v6e's cycles.
        index = jnp.arange(self.model.num_layers)
        one = jax.tree.map(lambda w: jax.ShapeDtypeStruct(w.shape[1:], w.dtype), layers)
        shapes = jax.eval_shape(through, x, one)[1].residuals
        room = [lax.empty((len(index), *s.shape), s.dtype) for s in shapes]
        (x, room), saved = lax.scan(body, (x, room), (index, layers))
        return x, dataclasses.replace(saved, residuals=room)

    def _backward(
        self, layers: Any, total: Any, saved: Any, dx: jax.Array, arrays: dict[str, jax.Array]
    ) -> tuple[jax.Array, Any]:
        """Back through all layers -> (gradient of x, total with the gradients added)."""
        given = self._given(arrays)

        def body(carry: tuple[jax.Array, Any], xs: Any) -> tuple[Any, None]:
            dx, total = carry
            index, layer, saved = xs
            layer = self._whole(layer)
            d_layer, dx = saved.pull((layer, given))(dx)
            if self._split("layers"):
                d_layer = sharding.scatter_sum(d_layer, self._layer_specs(d_layer), "fsdp")
                # XLA fails to move a reduce-scatter out of the loop past the conversion below.
                d_layer = lax.optimization_barrier(d_layer)
            return (dx, jax.tree.map(functools.partial(_add_at, index), total, d_layer)), None

        index = jnp.arange(self.model.num_layers)
        (dx, total), _ = lax.scan(body, (dx, total), (index, layers, saved), reverse=True)
        return dx, total


def _of(specs: Any, tree: Any) -> Any:
    """Those of nested specs that stand for what is in the tree."""
    if not isinstance(tree, dict):
        return specs
    return {name: _of(specs[name], entry) for name, entry in tree.items()}


@functools.partial(
    jax.tree_util.register_dataclass, data_fields=["residuals"], meta_fields=["at_hand", "tree"]
)
@dataclasses.dataclass(frozen=True)
class _Saved:
    """What the forward pass of a layer leaves for its backward pass, weights not included.

    What `jax.vjp` returns is a pytree whose leaves are the saved values.  Those that are at hand
    in the backward pass anyway, as the weights are, need not be stacked over the layers.
    """

    residuals: list[jax.Array]
    at_hand: tuple[int | None, ...]  # of every leaf: its place among the known values, or None
    tree: Any  # of the function that `jax.vjp` returned

    @classmethod
    def of(cls, pull: Any, known: Any) -> "_Saved":
        """Leaves out of the saved values those that are in `known`."""
        leaves, tree = jax.tree.flatten(pull)
        place = {id(x): i for i, x in enumerate(jax.tree.leaves(known))}
        at_hand = tuple(place.get(id(x)) for x in leaves)
        rest = [x for x, i in zip(leaves, at_hand, strict=True) if i is None]
        return cls(rest, at_hand, tree)

    def pull(self, known: Any) -> Any:
        """The function from the gradient of outputs to that of inputs; `known` as before."""
        rest, known = iter(self.residuals), jax.tree.leaves(known)
        leaves = [next(rest) if i is None else known[i] for i in self.at_hand]
        return jax.tree.unflatten(self.tree, leaves)


def _put_at(index: jax.Array, room: jax.Array, new: jax.Array) -> jax.Array:
    """room[index] = new, in place."""
    return lax.dynamic_update_index_in_dim(room, new, index, 0)


def _add_at(index: jax.Array, total: jax.Array, new: jax.Array) -> jax.Array:
    """total[index] += new, in float32 and in place."""
    old = lax.dynamic_index_in_dim(total, index, 0, keepdims=False)
    return lax.dynamic_update_index_in_dim(total, old + new.astype(jnp.float32), index, 0)
