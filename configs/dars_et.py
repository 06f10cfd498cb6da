"""DARS-ET: the small batch of the baseline, with top-ups for hard prompts ("et" schedule).

python launch/tpu_run.py --config configs/dars_et.py
"""

from dars_jax.setup import presets


def get_config(argument: str = ""):
    """`argument`: a preset of dars_jax/setup/presets.py."""
    return presets.dars(presets.start(argument, broad=False, schedule="et"))
