"""What sets one family of decoders apart from another: a row of a table, nothing else.

A family is what Hugging Face calls a model_type.  Its row says how its decoder differs
(`ModelConfig` has fields of the same names), and what its config.json means where it is silent,
after the configuration classes of transformers 5.
"""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Family:
    """A row.  Without values it is Llama."""

    architecture: str  # in config.json
    qkv_bias: bool = False  # on the projections of q, k and v
    qk_norm: str = ""  # of q and k before they turn: "head", each alone; "projection", all together
    norm_after: bool = False  # norms behind attention and feed-forward, not in front of them
    norm_eps: float = 1e-6  # where config.json has no rms_norm_eps
    num_kv_heads: int | None = None  # where it has no num_key_value_heads; None is as many as heads
    head_dim: int | None = None  # where it has no head_dim; None is hidden_size / heads
    windows: bool = False  # whether the class knows sliding windows at all


FAMILIES = {
    "llama": Family("LlamaForCausalLM"),
    "qwen2": Family("Qwen2ForCausalLM", qkv_bias=True, num_kv_heads=32, windows=True),
    "qwen3": Family(
        "Qwen3ForCausalLM", qk_norm="head", num_kv_heads=32, head_dim=128, windows=True
    ),
    "olmo2": Family("Olmo2ForCausalLM", qk_norm="projection", norm_after=True, norm_eps=1e-5),
}
