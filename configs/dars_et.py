"""DARS-ET: the small batch of the baseline, with top-ups for hard prompts ("et" schedule).

python launch/tpu_run.py --config configs/dars_et.py
"""

from dars_jax.setup import arms

get_config = arms.dars_et  # of a preset of dars_jax/setup/presets.py
