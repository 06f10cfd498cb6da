"""Depth-Naive: GRPO with 32 rollouts for every prompt, easy or hard.

python launch/tpu_run.py --config configs/depth_naive.py
"""

from dars_jax.setup import presets


def get_config(argument: str = ""):
    """`argument`: a preset of dars_jax/setup/presets.py."""
    config = presets.start(argument, broad=False)
    config.rollout.n_pre = config.rollout.n_max = 32
    return presets.ppo(config)
