"""Depth-Naive: GRPO with 32 rollouts for every prompt, easy or hard.

python launch/tpu_run.py --config configs/depth_naive.py
"""

from dars_jax.setup import arms

get_config = arms.depth_naive  # of a preset of dars_jax/setup/presets.py
