"""DARS-HW: the small batch of the baseline, with top-ups for hard prompts ("hw" schedule).

python launch/tpu_run.py --config configs/dars_hw.py
"""

from dars_jax.setup import arms

get_config = arms.dars_hw  # of a preset of dars_jax/setup/presets.py
