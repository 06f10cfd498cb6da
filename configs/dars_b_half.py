"""DARS-B, half sampled and half weighted: fewer top-ups than DARS-B, and weights for the rest.

    python launch/tpu_run.py --config configs/dars_b_half.py

What "hw" asks for by rollouts alone is asked for half by rollouts ("hw_half") and half by weights
1 / sqrt(accuracy) on advantages.  Not in the paper: it comes out of docs/paper_in_small.md, where
it beats DARS-B at equal rollouts and at equal tokens.  Embedded policy: 25 steps of 256 prompts.
"""

from dars_jax.setup import arms

get_config = arms.dars_b_half  # of a preset of dars_jax/setup/presets.py
