"""RLVR baseline: GRPO, 8 rollouts per prompt, two PPO mini-batches (the paper's "RLVR baseline").

    python launch/tpu_run.py --config configs/grpo.py

Embedded policy: 200 steps of 32 prompts, some minutes on 2 CPU cores.
"""

from dars_jax.setup import arms

get_config = arms.grpo  # of a preset of dars_jax/setup/presets.py
