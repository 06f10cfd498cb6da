"""The embedded base policy: a small decoder taught Countdown by examples, so that RL has a start.

Trained when first needed (some seconds on a CPU) and kept in the cache directory as an ordinary
model directory: config, weights, tokenizer.  It is weak on purpose: a base that solves all but a
few problems within 128 answers has no Pass@128 left to gain.
"""

import dataclasses
import functools
import hashlib
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax

from dars_jax import objective
from dars_jax.data.tokenizer import Tokenizer, load_tokenizer
from dars_jax.policy import decoder, weights
from dars_jax.policy.attention import Packing, packed_attention
from dars_jax.records.storage import writing
from dars_jax.tasks import countdown


@dataclasses.dataclass(frozen=True)
class WarmupConfig:
    """Supervised training."""

    num_steps: int
    batch_size: int = 256
    learning_rate: float = 4e-3
    warmup_steps: int = 50
    floor: float = 0.05  # of the learning rate, at the end of the cosine
    beta2: float = 0.98
    weight_decay: float = 0.01
    clip_norm: float = 1.0
    seed: int = 0


# By architecture and number of steps: outside these bounds the effects described in the README
# cannot be expected.
PASS_AT_1_BANDS = {
    ("countdown", 100): (0.03, 0.08),
    ("countdown", 300): (0.25, 0.35),
    ("countdown-8x", 60): (0.03, 0.08),
}
EMBEDDED = ("countdown", "countdown-8x")  # architectures that are taught here
ROW_TOKENS = 20  # prompt of at most 10, completion of at most 8


def base_policy(
    cache: Path, config: decoder.ModelConfig, log: Callable[[str], None], num_steps: int
) -> Path:
    """Directory of the base policy, trained first if the cache does not have it."""
    warmup = WarmupConfig(num_steps)
    recipe = repr((config, warmup)) + Path(countdown.__file__).read_text()
    name = hashlib.sha256(recipe.encode()).hexdigest()[:16]
    directory = cache / "base" / name
    if (directory / "config.json").exists():
        return directory
    directory.parent.mkdir(parents=True, exist_ok=True)
    # Built beside and renamed: a directory under its final name is complete.
    with tempfile.TemporaryDirectory(prefix=f"{name}-", dir=directory.parent) as scratch:
        tokenizer = Path(scratch) / "tokenizer.model"
        with writing(tokenizer):
            countdown.train_tokenizer(tokenizer)
        params = _train(load_tokenizer(tokenizer), config, log, warmup)
        built = Path(scratch) / "policy"
        with writing(built, any_error=True):  # safetensors has types of its own
            weights.save_params(built, params, config, source=None, dtype=jnp.float32)
            shutil.copy(tokenizer, built)
        try:
            built.replace(directory)
        except OSError:
            if not (directory / "config.json").exists():  # another process may have been faster
                raise
    return directory


def _train(
    tokenizer: Tokenizer,
    config: decoder.ModelConfig,
    log: Callable[[str], None],
    warmup: WarmupConfig,
) -> decoder.Params:
    rate = optax.warmup_cosine_decay_schedule(
        0.0, warmup.learning_rate, warmup.warmup_steps, warmup.num_steps,
        warmup.floor * warmup.learning_rate,
    )  # fmt: skip
    optimizer = optax.chain(
        optax.clip_by_global_norm(warmup.clip_norm),
        optax.adamw(rate, b2=warmup.beta2, weight_decay=warmup.weight_decay),
    )
    params = jax.jit(functools.partial(decoder.init_params, config))(jax.random.key(warmup.seed))
    opt_state = jax.jit(optimizer.init)(params)
    step = jax.jit(functools.partial(_step, config, optimizer), donate_argnums=(0, 1))
    rng = np.random.default_rng(warmup.seed)
    for i in range(warmup.num_steps):
        batch = jax.device_put(_batch(tokenizer, countdown.sample(rng, warmup.batch_size)))
        params, opt_state, loss = step(params, opt_state, *batch)
        if (i + 1) % 50 == 0:
            log(f"base policy: step {i + 1} of {warmup.num_steps}, loss {float(loss):.3f}")
    return params


def _batch(
    tokenizer: Tokenizer, pairs: list[tuple[str, str]]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(tokens int32[b,T], target int32[b,T], trained bool[b,T]); only the solution is trained."""
    tokens = np.zeros((len(pairs), ROW_TOKENS), np.int32)
    trained = np.zeros(tokens.shape, bool)
    for i, (problem, solution) in enumerate(pairs):
        prompt = tokenizer.encode_prompt(problem)
        row = [*prompt, *tokenizer.encode(solution), tokenizer.eos_ids[0]]
        tokens[i, : len(row)] = row
        trained[i, len(prompt) - 1 : len(row) - 1] = True
    return tokens, np.roll(tokens, -1, axis=1), trained


def _step(
    config: decoder.ModelConfig,
    optimizer: optax.GradientTransformation,
    params: decoder.Params,
    opt_state: optax.OptState,
    tokens: jax.Array,
    target: jax.Array,
    trained: jax.Array,
) -> tuple[decoder.Params, optax.OptState, jax.Array]:
    def loss_of(params: decoder.Params) -> jax.Array:
        position = jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)
        ones = jnp.ones_like(tokens)
        hidden, _ = decoder.forward(params, config, tokens, position, attention=packed_attention,
                                  state=Packing(ones, ones))  # fmt: skip
        logits = jnp.einsum("btd,vd->btv", hidden, decoder.head_matrix(params))
        logprob, _ = objective.logprob_and_entropy(logits, target)
        return -jnp.sum(jnp.where(trained, logprob, 0.0)) / jnp.sum(trained)

    loss, grads = jax.value_and_grad(loss_of)(params)
    updates, opt_state = optimizer.update(grads, opt_state, params)
    return optax.apply_updates(params, updates), opt_state, loss
