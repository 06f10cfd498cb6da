"""The policy: a decoder, Llama's or one that differs as families.py says.  The module of flax.

Letters: B rows, T tokens, D model width, H query heads, K key/value heads, d head size,
F feed-forward width, V vocabulary, N layers.

One `Block` serves training, prefill and decoding; what differs is the `attention` it is given.
Parameters are a plain dict with the layers stacked on a leading axis, so that one scan compiles
one layer.  Softmax, norms, rotary angles and logits are float32 whatever the compute dtype.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.ad_checkpoint import checkpoint_name

from dars_jax.policy.products import gated, product

# attention(q [B,T,H,d], k [B,T,K,d], v [B,T,K,d], state) -> (out [B,T,H,d], what to keep)
Attention = Callable[..., tuple[jax.Array, Any]]
Params = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class RopeScaling:
    """Llama 3.x's stretch of the slow rotary frequencies ("llama3" in rope_scaling)."""

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_max_position: int


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """Sizes of a decoder.  All counts; `d_` names are widths in features."""

    vocab_size: int
    num_layers: int
    d_model: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    d_ff: int
    rope_theta: float = 10_000.0
    rope_scaling: RopeScaling | None = None
    norm_eps: float = 1e-6
    qkv_bias: bool = False
    tied_head: bool = False
    family: str = "llama"  # a key of FAMILIES: what a checkpoint of these sizes is called
    qk_norm: str = ""  # this and the next as in `families.Family`
    norm_after: bool = False
    # Longest sequence the model was made for, in tokens; None if nobody says.  Computes nothing.
    max_positions: int | None = dataclasses.field(default=None, compare=False)

    @functools.cache  # noqa: B019 - a handful of models
    def num_params(self) -> int:
        """Parameters, embedding and head included."""
        return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(abstract_params(self)))


# Sizes as published in each model's config.json; weights always come from a directory.
ARCHITECTURES = {
    "countdown": ModelConfig(112, 2, 64, 4, 4, 16, 176, family="qwen2", qkv_bias=True),
    "countdown-8x": ModelConfig(112, 4, 128, 8, 8, 16, 416, family="qwen2", qkv_bias=True),
    "qwen2.5-math-1.5b": ModelConfig(
        151_936, 28, 1536, 12, 2, 128, 8960, family="qwen2", qkv_bias=True, tied_head=True
    ),
    "qwen2.5-math-7b": ModelConfig(
        152_064, 28, 3584, 28, 4, 128, 18_944, family="qwen2", qkv_bias=True
    ),
    "llama-3.1-8b": ModelConfig(
        128_256,
        32,
        4096,
        32,
        8,
        128,
        14_336,
        rope_theta=500_000.0,
        rope_scaling=RopeScaling(8.0, 1.0, 4.0, 8192),
        norm_eps=1e-5,
    ),
    "llama-3.2-1b": ModelConfig(
        128_256, 16, 2048, 32, 8, 64, 8192, rope_theta=500_000.0,
        rope_scaling=RopeScaling(32.0, 1.0, 4.0, 8192), norm_eps=1e-5, tied_head=True,
    ),
    "qwen2.5-0.5b": ModelConfig(
        151_936, 24, 896, 14, 2, 64, 4864, rope_theta=1e6, family="qwen2", qkv_bias=True,
        tied_head=True,
    ),
    "qwen3-8b": ModelConfig(
        151_936, 36, 4096, 32, 8, 128, 12_288, rope_theta=1e6, family="qwen3", qk_norm="head",
    ),
    "qwen3-0.6b": ModelConfig(
        151_936, 28, 1024, 16, 8, 128, 3072, rope_theta=1e6, tied_head=True, family="qwen3",
        qk_norm="head",
    ),
    "olmo-2-1b": ModelConfig(
        100_352, 16, 2048, 16, 16, 128, 8192, rope_theta=500_000.0, family="olmo2",
        qk_norm="projection", norm_after=True,
    ),
}  # fmt: skip

_ATTENTION = ("q", "k", "v", "attended", "mixed")


def _keep(*names: str) -> Callable[..., bool]:
    return jax.checkpoint_policies.save_only_these_names(*names)


# Which activations the backward pass finds saved; everything else is computed again.  Behind each
# the arithmetic of weight products, in parts of what "none" needs, for a 7B policy.
REMAT_POLICIES = {
    "none": None,
    "full": jax.checkpoint_policies.nothing_saveable,  # 1.218
    "qkv": _keep("q", "k", "v"),  # 1.196
    "attention": _keep(*_ATTENTION),  # 1.179
    "up": _keep(*_ATTENTION, "up", "down"),  # 1.090
    "mlp": _keep(*_ATTENTION, "up", "gate", "down"),  # 1.000
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,  # 1.000
}


def rope_frequencies(config: ModelConfig) -> np.ndarray:
    """Rotary frequency of each pair of features -> float32[d // 2], radians per position."""
    exponent = np.arange(0, config.head_dim, 2, dtype=np.float64) / config.head_dim
    frequency = config.rope_theta**-exponent
    if (scaling := config.rope_scaling) is not None:
        turns = scaling.original_max_position * frequency / (2 * np.pi)
        smooth = (turns - scaling.low_freq_factor) / (
            scaling.high_freq_factor - scaling.low_freq_factor
        )
        smooth = np.clip(smooth, 0.0, 1.0)
        frequency = (1 - smooth) * frequency / scaling.factor + smooth * frequency
    return frequency.astype(np.float32)


def rotation(config: ModelConfig, position: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Cosines and sines of the rotary angles of position int32[B,T] -> float32[B,T,d/2] each.

    Made once for all layers: beside the product that rotates, XLA would make them for every head.
    """
    angle = position[..., None].astype(jnp.float32) * rope_frequencies(config)
    return jnp.cos(angle), jnp.sin(angle)


def rotate(x: jax.Array, cos_and_sin: tuple[jax.Array, jax.Array]) -> jax.Array:
    """Rotary embedding, feature i paired with i + d/2 (the layout of Hugging Face checkpoints).

    x [B,T,heads,d], float32[B,T,d/2] each -> [B,T,heads,d] in x's dtype.
    """
    cos, sin = (y[..., None, :] for y in cos_and_sin)
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    turned = jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
    return turned.astype(x.dtype)


class RMSNorm(nn.Module):
    """x / rms(x) * scale over the last axes, in float32."""

    eps: float
    axes: tuple[str, ...] = ("norm",)

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        over = tuple(range(-len(self.axes), 0))
        init = nn.with_logical_partitioning(nn.initializers.ones_init(), self.axes)
        scale: Any = self.param("scale", init, x.shape[over[0] :], jnp.float32)
        y = x.astype(jnp.float32)
        y = y * jax.lax.rsqrt(jnp.mean(y * y, axis=over, keepdims=True) + self.eps)
        return (y * scale).astype(x.dtype)


class Block(nn.Module):
    """One layer: attention and a gated feed-forward, each added to the stream.

    Each has a norm: in front of it, or behind it (`norm_after`).  What the backward pass keeps is
    named where a norm would need it, so that no product with a weight is made again for a norm.
    """

    config: ModelConfig
    attention: Attention
    dtype: jnp.dtype

    @nn.compact
    def __call__(
        self, x: jax.Array, cos_and_sin: tuple[jax.Array, jax.Array], state: Any
    ) -> tuple[jax.Array, Any]:
        c = self.config
        y = x if c.norm_after else RMSNorm(c.norm_eps, name="attention_norm")(x)
        heads, kv = (c.num_heads, c.head_dim), (c.num_kv_heads, c.head_dim)
        q = self._project("q", y, heads, ("embed", "heads", "head_dim"), c.qkv_bias)
        k = self._project("k", y, kv, ("embed", "kv_heads", "head_dim"), c.qkv_bias)
        v = self._project("v", y, kv, ("embed", "kv_heads", "head_dim"), c.qkv_bias)
        turn = functools.partial(rotate, cos_and_sin=cos_and_sin)
        q, k = self._turned("q", q, "heads", turn), self._turned("k", k, "kv_heads", turn)
        v = checkpoint_name(v, "v")
        out, kept = self.attention(q, k, v, state)
        mixed = self._project("o", out, c.d_model, ("heads", "head_dim", "embed"), axis=(-2, -1))
        mixed = checkpoint_name(mixed, "mixed")
        x = x + (RMSNorm(c.norm_eps, name="attention_post_norm")(mixed) if c.norm_after else mixed)
        y = x if c.norm_after else RMSNorm(c.norm_eps, name="mlp_norm")(x)
        gate = checkpoint_name(self._project("gate", y, c.d_ff, ("embed", "mlp")), "gate")
        up = checkpoint_name(self._project("up", y, c.d_ff, ("embed", "mlp")), "up")
        down = self._project("down", gated(gate, up), c.d_model, ("mlp", "embed"))
        if c.norm_after:
            down = RMSNorm(c.norm_eps, name="mlp_post_norm")(checkpoint_name(down, "down"))
        return x + down, kept

    def _turned(
        self, name: str, x: jax.Array, heads: str, turn: Callable[[jax.Array], jax.Array]
    ) -> jax.Array:
        """Queries or keys [B,T,heads,d], through their norm if there is one, and rotated."""
        c = self.config
        if c.qk_norm:
            x = checkpoint_name(x, name)
        if c.qk_norm == "head":
            x = RMSNorm(c.norm_eps, ("head_dim",), name=f"{name}_head_norm")(x)
        elif c.qk_norm == "projection":
            x = RMSNorm(c.norm_eps, (heads, "head_dim"), name=f"{name}_norm")(x)
        return turn(x) if c.qk_norm else checkpoint_name(turn(x), name)

    def _project(
        self,
        name: str,
        x: jax.Array,
        features: int | tuple[int, int],
        axes: tuple[str, ...],
        use_bias: bool = False,
        axis: int | tuple[int, int] = -1,
    ) -> jax.Array:
        """x through a weight, and beside it through a pair of adapters where there is one."""
        width = len(features) if isinstance(features, tuple) else 1
        y = nn.DenseGeneral(
            features,
            axis=axis,
            use_bias=use_bias,
            dtype=self.dtype,
            param_dtype=jnp.float32,
            dot_general=product,
            kernel_init=nn.with_logical_partitioning(nn.initializers.normal(0.02), axes),
            bias_init=nn.with_logical_partitioning(nn.initializers.zeros_init(), axes[-width:]),
            name=name,
        )(x)
        adapters: Any = self.get_variable("params", "adapters", {})
        pair = adapters.get(name)
        if pair is None:
            return y
        low = jnp.tensordot(x, pair["a"], len(axis) if isinstance(axis, tuple) else 1)
        return y + jnp.tensordot(low, pair["b"], 1)


class Decoder(nn.Module):
    """Embedding, N scanned blocks, final norm.  Returns the hidden states, never logits:

    [B, T, 152k] would be the largest array of the program; learner/loss.py does without.
    """

    config: ModelConfig
    attention: Attention
    dtype: jnp.dtype = jnp.float32
    remat: str = "none"

    @nn.compact
    def __call__(self, tokens: jax.Array, position: jax.Array, state: Any) -> tuple[jax.Array, Any]:
        c = self.config
        normal = nn.initializers.normal(0.02)
        table = nn.with_logical_partitioning(normal, ("vocab", "embed"))
        embedding: Any = self.param("embedding", table, (c.vocab_size, c.d_model), jnp.float32)
        if not c.tied_head:
            head = nn.with_logical_partitioning(normal, ("vocab", "embed"))
            self.param("head", head, (c.vocab_size, c.d_model), jnp.float32)
        x = jnp.take(embedding, tokens, axis=0).astype(self.dtype)
        block = Block
        if self.remat != "none":
            block = nn.remat(Block, policy=REMAT_POLICIES[self.remat], prevent_cse=False)
        layers = nn.scan(
            block,
            variable_axes={"params": 0},
            split_rngs={"params": True},
            in_axes=(nn.broadcast, nn.broadcast),
            length=c.num_layers,
            metadata_params={nn.PARTITION_NAME: "layers"},
        )
        x, kept = layers(c, self.attention, self.dtype, name="layers")(
            x, rotation(c, position), state
        )
        return RMSNorm(c.norm_eps, name="final_norm")(x), kept


def _initialise(config: ModelConfig, key: jax.Array) -> Params:
    tokens = jnp.zeros((1, 1), jnp.int32)
    model = Decoder(config, lambda q, k, v, state: (q, None))
    return model.init(key, tokens, tokens, None)["params"]


def init_params(config: ModelConfig, key: jax.Array) -> Params:
    """Random float32 parameters.  Jit it with `out_shardings` to create them in place."""
    return nn.unbox(_initialise(config, key))


@functools.cache
def _boxed_shapes(config: ModelConfig) -> Any:
    return jax.eval_shape(functools.partial(_initialise, config), jax.random.key(0))


def abstract_params(config: ModelConfig) -> Params:
    """Shapes and dtypes of the parameters."""
    return nn.unbox(_boxed_shapes(config))


def logical_axes(config: ModelConfig) -> Params:
    """Axis names of every parameter, as PartitionSpecs of logical names."""
    return nn.get_partition_spec(_boxed_shapes(config))


def forward(
    params: Params,
    config: ModelConfig,
    tokens: jax.Array,
    position: jax.Array,
    *,
    attention: Attention,
    state: Any,
    dtype: jnp.dtype = jnp.float32,
    remat: str = "none",
) -> tuple[jax.Array, Any]:
    """Hidden states after the final norm, for whole rows of tokens.

    Args:
      tokens, position: int32[B,T]; position is the index within the token's own sequence.
      attention, state: how tokens see each other, and what that needs (same for all layers).

    Returns:
      (hidden [B,T,D] in `dtype`, what each layer's attention kept, stacked on axis 0)
    """
    model = Decoder(config, attention, dtype, remat)
    return model.apply({"params": params}, tokens, position, state)


def head_matrix(params: Params) -> jax.Array:
    """float[V,D]; the embedding table where the head is tied to it."""
    return params["head"] if "head" in params else params["embedding"]


def unstack_layers(params: Params, *, dtype: jnp.dtype) -> Params:
    """Trainer layout -> decode layout: one dict per layer, cast to `dtype`.

    A decode step reads every weight once.  Slicing a layer out of a stacked array inside the
    decode loop would copy it first.
    """
    cast = jax.tree.map(lambda x: x.astype(dtype), params)
    num_layers = cast["layers"]["v"]["kernel"].shape[0]
    layers = tuple(jax.tree.map(lambda x, i=i: x[i], cast["layers"]) for i in range(num_layers))
    return {**cast, "layers": layers}


def forward_token(
    params: Params,
    config: ModelConfig,
    token: jax.Array,
    cos_and_sin: tuple[jax.Array, jax.Array],
    *,
    attention: Attention,
    states: tuple[Any, ...],
) -> tuple[jax.Array, tuple[Any, ...]]:
    """One token of each sequence through the decode layout, with one state per layer.

    token int32[B], `rotation` of its position float32[B,1,d/2] each
    -> (hidden [B,D] in the parameters' dtype, new states)
    """
    dtype = params["embedding"].dtype
    x = jnp.take(params["embedding"], token, axis=0)[:, None]  # [B,1,D]
    kept = []
    for layer, state in zip(params["layers"], states, strict=True):
        block = Block(config, attention, dtype)
        x, new = block.apply({"params": layer}, x, cos_and_sin, state)
        kept.append(new)
    norm = RMSNorm(config.norm_eps)
    hidden: Any = norm.apply({"params": params["final_norm"]}, x)
    return hidden[:, 0], tuple(kept)
