"""How much memory an engine takes on a device, by arithmetic, for sizes not settled yet."""

from dars_jax.engine.state import DecodeConfig
from dars_jax.policy.attention import page_width
from dars_jax.policy.decoder import ModelConfig


def engine_bytes(
    config: DecodeConfig, model: ModelConfig, tensor: int, prefill_batch: int
) -> float:
    """Estimated peak of prefill and decoding on a device, without what the learner keeps there.

    Args:
      tensor: devices of a replica.
    """
    size = config.dtype.itemsize
    head = page_width(model.head_dim) if config.pages else model.head_dim
    token = 2 * model.num_layers * model.num_kv_heads * head * size  # keys and values
    weights = model.num_params() * size
    prefilled = prefill_batch * config.prompt_tokens
    layer = prefilled * (2 * model.d_ff + 4 * model.d_model) * size
    scores = prefilled * config.prompt_tokens * model.num_heads * (4 + size)
    logits = config.slots * model.vocab_size * 8
    work = config.requests * config.response_tokens * 8  # a token and its log-prob
    passing = max(prefilled * token + layer + scores, logits)
    return (weights + _cached_tokens(config) * token + passing) / tensor + work


def _cached_tokens(config: DecodeConfig) -> int:
    if config.pages:
        return config.pages.count * config.pages.size
    # dense caches grow into longer ones, and for a moment both are there
    longest = config.capacities[-2:]
    prompt = -(-config.prompt_tokens // config.key_block) * config.key_block
    return config.slots * sum(longest) + config.prefixes * prompt
