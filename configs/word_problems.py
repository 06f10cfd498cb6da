"""DARS-HW on one-step word problems, for a small chat model such as SmolLM2-135M-Instruct.

    python -m dars_jax.tasks.word_problems runs/word_problems_data
    python launch/tpu_run.py --config configs/word_problems.py --config.policy.path=DIR

Small enough for a CPU: 8 prompts of at most 96 tokens a step, answers of at most 32.
"""

from dars_jax.setup import arms

get_config = arms.word_problems
