"""Settings of an update of rows of 24 tokens."""

import jax.numpy as jnp

from dars_jax.learner import update
from dars_jax.learner.loss import LossConfig

LOSS = LossConfig(temperature=1.0, clip_low=0.2, clip_high=0.2, entropy_coef=0.0, kl_coef=0.0)
CONFIG = update.UpdateConfig(
    loss=LOSS, num_epochs=1, num_minibatches=1, loss_scale=1.0, chunk=12, dtype=jnp.float32,
    remat="none",
)  # fmt: skip
