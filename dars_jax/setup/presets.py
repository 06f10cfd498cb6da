"""Policies and their settings, shared by the arms under configs/.

A preset argument names a policy, a schedule, or both: `configs/dars_b.py:qwen2.5-math-7b,et`.
"broad" arms take the paper's 3072 prompts a step, "narrow" ones its 128 (appendix A).
"""

from collections.abc import Callable

from dars_jax.allocator import SCHEDULES
from dars_jax.config import ConfigDict, defaults


def _countdown(c: ConfigDict, broad: bool) -> None:
    """256 prompts stand in for 3072, 32 for 128; 6,400 prompts in all either way."""
    c.rollout.num_prompts, c.train.num_steps = (256, 25) if broad else (32, 200)
    c.optimizer.learning_rate = 8e-4 if broad else 2e-4
    if not broad:
        c.checkpoint.every = 25


def _countdown_3072(c: ConfigDict, broad: bool) -> None:
    """The embedded policy with the paper's batch: 3072 (128) prompts, N = 8."""
    _countdown(c, broad)
    c.rollout.num_prompts, c.train.num_steps = (3072, 2) if broad else (128, 50)
    c.rollout.slots = 1024
    c.learner.micro_batch_rows = 128


def _pod(c: ConfigDict, architecture: str, broad: bool) -> None:
    """What the paper's three policies share."""
    c.policy.architecture = architecture
    c.policy.dtype, c.policy.remat = "bfloat16", "auto"
    c.data.train = c.data.test = ""  # the user's files
    c.data.max_prompt_tokens, c.rollout.max_tokens = 1024, 3072
    c.reward.name, c.reward.num_workers = "math", 16
    c.rollout.num_prompts = 3072 if broad else 128
    c.rollout.slots, c.rollout.prefixes, c.rollout.prefill_batch = 192, 64, 4
    c.rollout.steps_per_dispatch = 128
    c.learner.row_tokens, c.learner.micro_batch_rows = 4096, 0
    c.learner.entropy_coef = 0.001  # on in the authors' runs, though the paper does not say so
    c.optimizer.warmup_steps, c.optimizer.beta2 = 0, 0.999
    c.checkpoint.every, c.eval.every = 1, 20


_QWEN_SYSTEM = "Please reason step by step, and put your final answer within \\boxed{}."


def _qwen(architecture: str) -> Callable[[ConfigDict, bool], None]:
    """The paper's settings for its Qwen2.5-Math policies, and for others of their kind."""

    def apply(c: ConfigDict, broad: bool) -> None:
        _pod(c, architecture, broad)
        c.data.chat, c.data.system_prompt = True, _QWEN_SYSTEM
        c.optimizer.learning_rate = 5e-6 if broad else 1e-6
        c.train.num_steps = 86 if broad else 505

    return apply


def _llama(c: ConfigDict, broad: bool) -> None:
    _pod(c, "llama-3.1-8b", broad)
    c.rollout.n_pre = c.rollout.n_max = 16
    c.optimizer.learning_rate = 1e-6
    c.train.num_steps = 120 if broad else 505


PRESETS: dict[str, Callable[[ConfigDict, bool], None]] = {
    "countdown": _countdown,
    "countdown-3072": _countdown_3072,
    "qwen2.5-math-1.5b": _qwen("qwen2.5-math-1.5b"),
    "qwen2.5-math-7b": _qwen("qwen2.5-math-7b"),
    "llama-3.1-8b": _llama,
    "qwen2.5-0.5b": _qwen("qwen2.5-0.5b"),
    "qwen3-0.6b": _qwen("qwen3-0.6b"),
    "qwen3-8b": _qwen("qwen3-8b"),
}

# A batch with which a step takes minutes on the machines of docs/machines.md.
# Policy: (prompts of a step, tokens of a prompt, tokens of an answer).
SMALL = {
    "qwen2.5-0.5b": (64, 512, 1536),
    "qwen3-0.6b": (64, 512, 1536),
    "qwen2.5-math-1.5b": (512, 1024, 3072),
    "qwen2.5-math-7b": (768, 1024, 3072),
    "qwen3-8b": (768, 1024, 3072),
}
SMALL_LORA = {"qwen2.5-math-1.5b": (64, 512, 1536)}  # where adapters learn
LORA_RANK, LORA_RATE = 16, 10.0  # of the adapters, and of their learning rate to the weights'


def make_small(c: ConfigDict, adapters: bool) -> None:
    """The settings of a broad arm for a machine smaller than the paper's.

    Args:
      adapters: they learn, and the weights do not.

    The paper's learning rates, 5e-6 for 3072 prompts and 1e-6 for 128, grow with the root of the
    number of prompts; so does this one.

    Raises:
      ValueError: a policy without such sizes.
    """
    name, sizes = c.policy.architecture, SMALL_LORA if adapters else SMALL
    if name not in sizes:
        what = "small batch with adapters" if adapters else "small batch"
        raise ValueError(f"no {what} for {name!r}: expected one of {', '.join(sizes)}")
    c.rollout.num_prompts, c.data.max_prompt_tokens, c.rollout.max_tokens = sizes[name]
    c.rollout.slots = c.rollout.prefixes = 0
    c.learner.row_tokens = c.data.max_prompt_tokens + c.rollout.max_tokens
    c.optimizer.learning_rate = 1e-6 * (c.rollout.num_prompts / 128) ** 0.5
    if adapters:
        c.lora.rank = LORA_RANK
        c.optimizer.learning_rate *= LORA_RATE
    c.train.num_steps = 200
    c.checkpoint.every, c.checkpoint.keep = 10, 1
    c.eval.num_samples = 8


def start(argument: str, *, broad: bool, schedule: str = "none") -> ConfigDict:
    """Configuration of a preset argument, unlocked, for an arm to finish.

    Args:
      argument: what follows the colon of --config; "" is the embedded policy.
      broad: whether the arm takes the large batch.
      schedule: the arm's schedule where the argument names none.

    Raises:
      ValueError: a word that is neither a preset nor a schedule.
    """
    preset = "countdown"
    for word in filter(None, argument.split(",")):
        if word in SCHEDULES and schedule != "none":
            schedule = word
        elif word in PRESETS:
            preset = word
        else:
            known = ", ".join([*PRESETS, *(SCHEDULES if schedule != "none" else ())])
            raise ValueError(f"unknown preset {word!r}: expected one of {known}")
    config = defaults().unlock()
    PRESETS[preset](config, broad)
    config.rollout.schedule = schedule
    return config
