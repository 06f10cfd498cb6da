"""DARS-B with a batch for one chip or a small slice: a step takes minutes.

    python launch/tpu_run.py --config configs/dars_b_small.py:qwen3-0.6b \
        --config.policy.path=DIR --config.data.train=openr1.parquet --config.data.test=math500.jsonl

    POLICY             prompts  tokens       slice     memory of a chip   a step
    qwen2.5-0.5b            64  512 + 1536   v5e:1x1   14.2 of 15.75 GiB  95 s
    qwen3-0.6b              64  512 + 1536   v5e:1x1   12.7 of 15.75 GiB  185 s
    qwen2.5-0.5b            64  512 + 1536   v6e:1x1   27.6 of 31.25 GiB  55 s
    qwen3-0.6b              64  512 + 1536   v6e:1x1   27.0 of 31.25 GiB  68 s
    qwen2.5-math-1.5b,lora  64  512 + 1536   v5e:1x1   14.2 of 15.75 GiB  160 s
    qwen2.5-math-1.5b      512  1024 + 3072  v5e:2x4   13.8 of 15.75 GiB  387 s
    qwen2.5-math-7b        768  1024 + 3072  v5e:8x8   13.9 of 15.75 GiB  315 s
    qwen3-8b               768  1024 + 3072  v5e:8x8   13.9 of 15.75 GiB  397 s

Memory and time are launch/compile_tpu.py's; docs/machines.md has more, GPUs, and how long the
paper's 3,072 prompts would take.  Slots and micro-batches are what fits; no score is known yet.
"""

from dars_jax.setup import arms

get_config = arms.dars_b_small  # of a policy in dars_jax/setup/presets.py, "et" or "hw", "lora"
