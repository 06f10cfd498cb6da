"""DARS-B: depth and breadth together.  Top-ups for hard prompts, one full batch for two epochs.

    python launch/tpu_run.py --config configs/dars_b.py
    python launch/tpu_run.py --config configs/dars_b.py:et
    python launch/tpu_run.py --config configs/dars_b.py:qwen2.5-math-7b \
        --config.policy.path=DIR --config.data.train=openr1.parquet --config.data.test=math500.jsonl

Embedded policy: 25 steps of 256 prompts, minutes on 2 CPU cores.  The paper reports for
Qwen2.5-Math-7B with the "hw" schedule Avg@128 58.4 and Pass@128 83.4 (RLVR baseline: 55.3, 81.4).
"""

from dars_jax.setup import arms

get_config = (
    arms.dars_b
)  # of a preset of dars_jax/setup/presets.py, a schedule ("hw", "et"), or both
