"""Every setting with its default.

Experiments are files under configs/ that change these defaults, which describe the embedded
Countdown task.  setup/plan.py checks the result; nothing else reads a ConfigDict.  This module
imports little, so that a misspelt key is refused at once.
"""

import os
from collections.abc import Collection
from pathlib import Path
from typing import Any, TypeAlias

import ml_collections

ConfigDict: TypeAlias = ml_collections.ConfigDict


def defaults() -> ConfigDict:
    """The settings of the embedded policy, GRPO without top-ups."""
    c = ConfigDict()
    c.seed = 0  # everything random follows from it

    c.policy = ConfigDict()
    # Hugging Face directory, or ORG/NAME[@REVISION] on the hub; "" is the embedded policy, trained
    # when first used.
    c.policy.path = ""
    c.policy.architecture = "countdown"  # sizes where no directory is given: a key of ARCHITECTURES
    c.policy.warmup_steps = 100  # supervised steps that make the embedded policy
    c.policy.dtype = "float32"  # of the computation; what learns is float32 always
    # What the backward pass recomputes: a key of REMAT_POLICIES, or "auto" for as little as fits.
    c.policy.remat = "none"
    c.policy.attention = "auto"  # of the update: "xla", "splash" (a TPU kernel), "auto" by hardware

    c.data = ConfigDict()
    # tfds:NAME:SPLIT, a .jsonl or .parquet file, or hf://ORG/NAME[@REVISION]/FILES, see data/hub.py
    c.data.train = "tfds:countdown:train"
    c.data.test = "tfds:countdown:test"
    c.data.dir = ""  # where TFDS datasets lie; "" is the cache directory
    c.data.prompt_field = "problem"
    c.data.answer_field = "answer"
    c.data.chat = False  # render prompts through the policy's chat template
    c.data.system_prompt = ""  # first message of every chat
    c.data.max_prompt_tokens = 10  # longer prompts are dropped, and counted
    c.data.skip_bad_rows = False  # a broken row is an error unless this is set

    c.reward = ConfigDict()
    # "math", "math_verify" (as the paper's authors call it), or a function:
    # "package.module:function" or "./file.py:function"; or a sum, "math + 0.2 * ./file.py:check".
    c.reward.name = "dars_jax.tasks.countdown:check"
    c.reward.num_workers = 2  # grading processes, of each
    c.reward.cpu_limit_s = 1.0  # CPU-seconds of one answer, of the two of mathematics
    c.reward.timeout_s = 10.0  # CPU-seconds of one answer; this and what follows: functions only
    c.reward.memory_gib = 4.0  # of one grading process
    c.reward.correct_at = 0.5  # a reward from here on counts as right, for allocation and Pass@k
    c.reward.max_errors = 0  # of a step or an evaluation: more answers that fail end the run
    c.reward.in_process = False  # call the function in the trainer, without limits

    c.rollout = ConfigDict()
    c.rollout.num_prompts = 32  # B, prompts of a step
    c.rollout.n_pre = 8  # N, rollouts of every prompt in stage 1
    c.rollout.n_max = 8  # most rollouts of a prompt in all stages
    # Who gets top-ups: "none", one of allocator.SCHEDULES or, with a budget, allocator.BUDGETED.
    c.rollout.schedule = "none"
    # Top-ups per prompt on average, in all stages together; 0 is what the prompts ask for.  Sharing
    # it out waits for all prompts of a stage.
    c.rollout.budget = 0.0
    c.rollout.num_stages = 2  # 2 is the paper's: pre-rollouts and one top-up
    c.rollout.barrier = False  # wait for a whole stage before the next; same answers, slower
    c.rollout.temperature = 1.0  # of the loss too
    # Filters change the distribution, which the loss does not know: refused but for these values.
    c.rollout.top_p = 1.0
    c.rollout.top_k = 0
    c.rollout.max_tokens = 8  # longest completion, its EOS included
    # Per engine replica; 0 in slots or prefixes is as many as are of use and fit.
    c.rollout.slots = 256  # completions decoded at a time
    c.rollout.prefixes = 256  # prompts kept prefilled
    c.rollout.prefill_batch = 32  # prompts of one prefill
    c.rollout.steps_per_dispatch = 16  # decode steps between two looks of the host

    c.objective = ConfigDict()
    # How a group's rewards become advantages: one of objective.ADVANTAGES, explained there.
    c.objective.advantage = "mean"
    c.objective.k = 4  # of Pass@k, in "passk" and "pkpo"
    c.objective.beta = 2.0  # of "rs_grpo": the best reward counts for more as it grows
    # Answers that the length limit cut off: "keep" as they were graded, "mask" out of the loss, or
    # "soft", which lowers the reward of long answers, see objective.overlong_penalty.
    c.objective.overlong = "keep"
    c.objective.overlong_buffer = 0  # of "soft", tokens before the limit; DAPO: a fifth
    # Raise the entropy bonus by a step after each update below the target, lower it after others,
    # and give it only below (ratios.entropy_control).  0 leaves learner.entropy_coef as it is.
    c.objective.entropy_target = 0.0  # nats
    c.objective.entropy_step = 1e-4
    # How the ratio of new to old policy enters: one of ratios.SURROGATES, explained there.
    c.objective.surrogate = "clip"
    # Weights for what the sampler computes otherwise than the trainer: one of ratios.CORRECTIONS.
    c.objective.correction = "none"
    c.objective.correction_low = 0.5  # of "token_mask"; the ratio of trainer to sampler
    c.objective.correction_cap = 0.0  # 0 is the published one: 2 truncated, 5 token, 3 sequence

    c.learner = ConfigDict()
    c.learner.num_epochs = 2  # E
    c.learner.num_minibatches = 1  # optimizer steps per epoch; 1 is the full batch
    c.learner.aggregation = "dr_grpo"  # or "token_mean", "sequence_mean"
    c.learner.clip_low = 0.2
    c.learner.clip_high = 0.2
    c.learner.entropy_coef = 0.0  # bonus on the mean token entropy, per nat
    # Penalty on KL(policy || initial policy); 0 keeps no copy of it, adapters need none.
    c.learner.kl_coef = 0.0
    c.learner.loss_scale = 1.0  # only the norm clip and Adam's eps can tell
    c.learner.row_tokens = 64  # T, length of a packed row
    # b, over all devices; 0 is enough to keep each busy, or as many as fit.
    c.learner.micro_batch_rows = 32
    # When shards of the weights become whole: "epoch", once per optimizer step, "layer", when a
    # layer's turn comes, or "auto": "epoch" where it fits.
    c.learner.gather = "auto"
    c.learner.max_micro_batches = 0  # capacity; 0 is enough for any step
    # A mean gap between the sampler's and the trainer's log-probs, in nats, beyond which the run
    # ends: the engine serves other weights.  0 is 0.001 in float32 on CPUs, elsewhere 0.02 for the
    # embedded policy and 0.2 for others, since rounding grows with depth; and five times what was
    # usual in the steps before.
    c.learner.gap_limit = 0.0

    c.lora = ConfigDict()
    # Low-rank adapters (arXiv 2106.09685) learn in place of the weights, which stay as they are, in
    # policy.dtype.  They want about ten times the learning rate.
    c.lora.rank = 0  # 0: no adapters, all weights learn
    c.lora.alpha = 16.0  # what adapters add is multiplied by alpha / rank
    c.lora.targets = "q,k,v,o,gate,up,down"  # the projections that have adapters

    c.optimizer = ConfigDict()
    c.optimizer.learning_rate = 2e-4
    c.optimizer.warmup_steps = 5  # optimizer steps
    c.optimizer.beta1 = 0.9
    c.optimizer.beta2 = 0.99
    c.optimizer.eps = 1e-8
    c.optimizer.weight_decay = 0.01
    c.optimizer.clip_norm = 1.0
    # What is kept of past gradients: "float32", Adam's two moments; "bfloat16", the first in half
    # of the memory; "factored", the second as means of rows and columns, too.
    c.optimizer.moments = "float32"

    c.train = ConfigDict()
    c.train.num_steps = 200

    c.checkpoint = ConfigDict()
    c.checkpoint.every = 5  # steps
    c.checkpoint.keep = 2
    c.checkpoint.journal = True  # keep the rollouts of steps that no checkpoint includes yet

    c.eval = ConfigDict()
    c.eval.every = 0  # steps; 0 evaluates before the first and after the last only
    c.eval.num_samples = 128  # answers per held-out prompt
    c.eval.temperature = 1.0
    c.eval.top_p = 1.0
    c.eval.top_k = 0  # 0 keeps the whole vocabulary

    c.watchdog = ConfigDict()
    c.watchdog.minutes = 60.0  # without any progress, after which the run ends; 0 waits for ever

    c.wandb = ConfigDict()
    c.wandb.project = ""  # Weights & Biases project that gets the scalars, too; "" is none
    c.wandb.mode = "online"  # or "offline": files below WORKDIR/wandb for `wandb sync`

    c.mesh = ConfigDict()
    # All three 0: on a TPU slice the plan's choice for its torus, elsewhere 1, -1, 1.
    c.mesh.data = 0  # replicas of the parameters
    c.mesh.fsdp = 0  # shards of the parameters; -1 takes the devices that are left
    c.mesh.tensor = 0  # shards of heads, feed-forward and vocabulary
    return c.lock()


# A resumed run may change these: they do not enter the trajectory (the mesh only by rounding).
FREE_KEYS = (
    "train.num_steps", "checkpoint.every", "checkpoint.keep", "checkpoint.journal", "eval.every",
    "eval.num_samples", "eval.temperature", "eval.top_p", "eval.top_k", "learner.gap_limit",
    "reward.num_workers", "reward.max_errors", "data.dir", "rollout.barrier", "rollout.prefixes",
    "mesh.data", "mesh.fsdp", "mesh.tensor", "wandb.project", "wandb.mode",
    "watchdog.minutes",
)  # fmt: skip


def cache_dir() -> Path:
    """Where prepared data, the embedded policy and compiled programs are kept between runs."""
    root = os.environ.get("DARS_JAX_CACHE") or Path.home() / ".cache" / "dars_jax"
    return Path(root)


# Settings that name files, and where a checkpoint has the fingerprint of what they held: that
# decides on going on, not the name.
CONTENTS = {
    "data.train": "data.train.content",
    "data.test": "data.test.content",
    "policy.path": "policy.content",
}


# Values that stored configurations may hold, and what they are called now.
_RENAMED = {
    "dars_jax.countdown:check": "dars_jax.tasks.countdown:check",
    "dars_jax.word_problems:check": "dars_jax.tasks.word_problems:check",
}


# Settings that came later, with the value that runs had before.
_ADDED = {
    "policy.warmup_steps": 300, "objective.advantage": "mean", "objective.k": 4,
    "objective.beta": 2.0, "rollout.budget": 0.0, "reward.timeout_s": 10.0,
    "reward.memory_gib": 4.0, "reward.correct_at": 0.5, "reward.in_process": False,
    "objective.surrogate": "clip", "objective.correction": "none", "objective.correction_low": 0.5,
    "objective.correction_cap": 0.0, "objective.overlong": "keep", "objective.overlong_buffer": 0,
    "objective.entropy_target": 0.0, "objective.entropy_step": 1e-4, "eval.top_k": 0,
    "optimizer.moments": "float32",
    "lora.rank": 0, "lora.alpha": 16.0, "lora.targets": "q,k,v,o,gate,up,down",
}  # fmt: skip


def as_of_today(settings: dict) -> dict:
    """A flat configuration, stored at any time, by the names and settings of today."""
    now = _ADDED | {k: _RENAMED.get(v, v) if isinstance(v, str) else v for k, v in settings.items()}
    if now.pop("learner.use_std", False):
        now["objective.advantage"] = "std"
    if now.get("policy.path"):
        del now["policy.warmup_steps"]  # it has no part in another policy
    return now


def differences(old: dict, new: dict, free: Collection[str] = FREE_KEYS) -> list[str]:
    """Keys in which two flattened configurations differ, those in `free` left out.

    Where both have the fingerprint of a setting of CONTENTS, it stands for the setting.
    """
    old, new = as_of_today(old), as_of_today(new)
    said = []
    for key, content in CONTENTS.items():
        before, now = old.pop(content, None), new.pop(content, None)
        if before and now:
            name, former = new.pop(key, ""), old.pop(key, "")
            if before != now and name == former:
                said.append(
                    f"{key}: the contents of {name or 'the embedded policy'!r} have changed"
                )
            elif before != now:
                said.append(f"{key}: {name!r} holds other contents than {former!r} did")
    keys = sorted((old.keys() | new.keys()) - set(free))
    return said + [
        f"{key}: {old.get(key, 'absent')!r} before, {new.get(key, 'absent')!r} now"
        for key in keys
        if old.get(key) != new.get(key)
    ]


def flatten(config: ConfigDict) -> dict:
    """{"section.key": value} with JSON-friendly values."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, ml_collections.ConfigDict):
            flat |= {f"{key}.{k}": v for k, v in flatten(value).items()}
        else:
            flat[key] = value
    return flat
