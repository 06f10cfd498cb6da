"""DARS-HW on one-step word problems, for a small chat model such as SmolLM2-135M-Instruct.

    python -m dars_jax.tasks.word_problems runs/word_problems_data
    python launch/tpu_run.py --config configs/word_problems.py --config.policy.path=DIR

Small enough for a CPU: 8 prompts of at most 96 tokens a step, answers of at most 32.
"""

from dars_jax.config import defaults


def get_config():
    """No preset: the policy is the user's directory."""
    config = defaults().unlock()
    config.data.train = "runs/word_problems_data/train.jsonl"
    config.data.test = "runs/word_problems_data/test.jsonl"
    config.data.chat, config.data.system_prompt = True, "Answer in one short sentence."
    config.data.max_prompt_tokens = 96
    config.reward.name = "dars_jax.tasks.word_problems:check"
    config.rollout.num_prompts, config.rollout.n_pre, config.rollout.n_max = 8, 8, 32
    config.rollout.schedule, config.rollout.max_tokens = "hw", 32
    config.rollout.slots, config.rollout.prefixes, config.rollout.prefill_batch = 64, 8, 8
    config.learner.row_tokens, config.learner.micro_batch_rows = 256, 4
    config.optimizer.learning_rate, config.optimizer.warmup_steps = 2e-6, 0
    config.train.num_steps, config.eval.num_samples = 30, 8
    config.checkpoint.keep = 1  # each holds the moments too, 1.6 GB
    return config.lock()
