"""Breadth-Naive: no top-ups, but one full batch for two epochs instead of PPO mini-batches.

    python launch/tpu_run.py --config configs/breadth_naive.py

The paper's batch is 3072 prompts; the embedded policy takes 256, `:countdown-3072` the real shape.
"""

from dars_jax.setup import arms

get_config = arms.breadth_naive  # of a preset of dars_jax/setup/presets.py
