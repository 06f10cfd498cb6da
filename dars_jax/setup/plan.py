"""From settings to a plan: every value checked, every size known, before any chip is busy."""

import dataclasses
import math
from collections.abc import Collection
from typing import Any

import jax.numpy as jnp
import ml_collections

from dars_jax import allocator, objective, ratios
from dars_jax.config import ConfigDict
from dars_jax.engine import kv_cache
from dars_jax.engine.session import SamplingConfig
from dars_jax.engine.state import DecodeConfig
from dars_jax.learner.gradient import GATHER_MODES
from dars_jax.learner.loss import LossConfig
from dars_jax.learner.memory import Hardware
from dars_jax.learner.packing import BatchShape
from dars_jax.learner.update import ATTENTION, MOMENTS, OptimizerConfig, UpdateConfig
from dars_jax.policy import lora
from dars_jax.policy.attention import splash_fits
from dars_jax.policy.decoder import ARCHITECTURES, REMAT_POLICIES, ModelConfig
from dars_jax.rollout.scheduler import RolloutConfig
from dars_jax.setup import fit, remedy
from dars_jax.setup.base_policy import WarmupConfig
from dars_jax.setup.mesh import mesh_shape

# Mean nats per token between sampler and trainer that a run is stopped at: in float32 on a CPU, and
# elsewhere about five times what rounding was seen to make of the embedded and of a deep policy:
# docs/reliability.md.
GAP_LIMIT_EXACT, GAP_LIMIT_EMBEDDED, GAP_LIMIT_ROUNDED = 1e-3, 0.02, 0.2


@dataclasses.dataclass(frozen=True)
class Plan:
    """A checked configuration in which every size is known."""

    config: ml_collections.FrozenConfigDict  # the settings it was made from
    model: ModelConfig
    mesh_shape: tuple[int, int, int]  # data, fsdp, tensor
    num_replicas: int  # decode engines
    rollout: RolloutConfig
    evaluation: RolloutConfig
    slots: int  # per replica
    prefixes: int  # per replica
    requests: int  # per replica, capacity of a work list
    optimizer: OptimizerConfig
    update: UpdateConfig
    batch: BatchShape
    choices: tuple[str, ...]  # what was left to the plan, and what came of it
    misfit: str  # what is larger than a device, and the settings that would do; "" if nothing is
    platform: str  # "cpu", "gpu" or "tpu"

    def sizes(self) -> dict[str, Any]:
        """What shapes the programs of a step; JSON."""
        c, batch, update = self.config, self.batch, self.update
        return {
            "policy": c.policy.architecture, "num_params": self.model.num_params(),
            "mesh": list(self.mesh_shape), "num_prompts": c.rollout.num_prompts,
            "prompt_tokens": c.data.max_prompt_tokens, "response_tokens": c.rollout.max_tokens,
            "slots": self.slots, "prefixes": self.prefixes, "requests": self.requests,
            "prefill_batch": c.rollout.prefill_batch, "rows": batch.rows,
            "micro_batches": batch.micro_batches, "row_tokens": batch.row_tokens,
            "chunk": update.chunk, "gather": update.gather, "remat": update.remat,
            "attention": update.attention,
        }  # fmt: skip


def _check(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)


def _one_of(key: str, value: str, known: Collection[str]) -> None:
    _check(value in known, f"{key} is {value!r}: expected one of {', '.join(map(str, known))}")


def _check_rollout(c: ConfigDict) -> None:
    r = c.rollout
    known = ("none", *allocator.SCHEDULES, *allocator.BUDGETED)
    _one_of("rollout.schedule", r.schedule, known)
    _check(r.budget >= 0, f"rollout.budget must be 0 or more, got {r.budget}")
    _check(
        r.budget > 0 or r.schedule not in allocator.BUDGETED,
        f"rollout.schedule = {r.schedule!r} shares a budget out: set rollout.budget, top-ups per "
        "prompt",
    )
    _check(
        r.budget == 0 or (r.schedule != "none" and r.num_stages > 1),
        f"rollout.budget = {r.budget} needs a rollout.schedule and rollout.num_stages above 1",
    )
    for key in ("num_prompts", "n_pre", "n_max", "num_stages", "max_tokens", "prefill_batch",
                "steps_per_dispatch"):  # fmt: skip
        _check(r[key] >= 1, f"rollout.{key} must be at least 1, got {r[key]}")
    for key in ("slots", "prefixes"):
        _check(r[key] >= 0, f"rollout.{key} must be at least 1, or 0 for what fits, got {r[key]}")
    _check(
        r.n_max >= r.n_pre,
        f"rollout.n_max = {r.n_max} is below rollout.n_pre = {r.n_pre}: the cap counts them too",
    )
    _check(
        r.n_max <= allocator.MAX_GROUP,
        f"rollout.n_max = {r.n_max}: groups may have at most {allocator.MAX_GROUP} rollouts",
    )
    _check(
        r.n_max <= allocator.MAX_TRACED_GROUP or r.schedule not in allocator.BUDGETED,
        f"rollout.n_max = {r.n_max}: rollout.schedule = {r.schedule!r} takes groups of at most "
        f"{allocator.MAX_TRACED_GROUP}",
    )
    _check(r.temperature > 0, f"rollout.temperature must be above 0, got {r.temperature}")
    for key, whole in (("top_p", 1.0), ("top_k", 0)):
        _check(
            r[key] == whole,
            f"rollout.{key} = {r[key]} changes the distribution that the loss takes rollouts to be "
            f"from: leave it at {whole}; evaluation has eval.{key}",
        )


def _check_objective(c: ConfigDict) -> None:
    o = c.objective
    _one_of("objective.advantage", o.advantage, objective.ADVANTAGES)
    if o.advantage in objective.OF_K:
        # k = 1 is the mean reward, which groups of equal rewards, left out here, are a part of
        _check(
            2 <= o.k <= c.rollout.n_pre,
            f"objective.k = {o.k} must lie between 2 and rollout.n_pre = {c.rollout.n_pre}: a "
            "smaller group says nothing about Pass@k",
        )
    _check(o.beta > 0, f"objective.beta must be above 0, got {o.beta}")
    _one_of("objective.overlong", o.overlong, objective.OVERLONG)
    if o.overlong == "soft":
        _check(
            1 <= o.overlong_buffer <= c.rollout.max_tokens,
            f"objective.overlong_buffer = {o.overlong_buffer} must lie between 1 and "
            f"rollout.max_tokens = {c.rollout.max_tokens}",
        )
        _check(
            o.advantage in objective.OF_ANY_REWARD,
            f"objective.overlong = 'soft' makes rewards negative, which objective.advantage = "
            f"{o.advantage!r} cannot take: use one of {', '.join(objective.OF_ANY_REWARD)}",
        )
    _one_of("objective.surrogate", o.surrogate, ratios.SURROGATES)
    _one_of("objective.correction", o.correction, ratios.CORRECTIONS)
    for key in ("entropy_target", "entropy_step"):
        _check(o[key] >= 0, f"objective.{key} must be 0 or more, got {o[key]}")
    low, cap = o.correction_low, o.correction_cap
    _check(0 <= low < 1, f"objective.correction_low must lie in [0, 1), got {low}")
    _check(
        cap == 0 or cap >= 1,
        f"objective.correction_cap must be at least 1, or 0 for the published one, got {cap}: "
        "where sampler and trainer agree the ratio is 1",
    )


def _check_update(c: ConfigDict, num_devices: int) -> None:
    u, longest = c.learner, c.data.max_prompt_tokens + c.rollout.max_tokens
    _one_of("learner.gather", u.gather, ("auto", *GATHER_MODES))
    _one_of("learner.aggregation", u.aggregation, objective.AGGREGATIONS)
    for key in ("num_epochs", "num_minibatches", "row_tokens"):
        _check(u[key] >= 1, f"learner.{key} must be at least 1, got {u[key]}")
    _check(
        u.num_minibatches <= c.rollout.num_prompts,
        f"learner.num_minibatches = {u.num_minibatches} exceeds rollout.num_prompts",
    )
    _check(
        u.row_tokens >= longest,
        f"learner.row_tokens = {u.row_tokens} cannot hold the longest rollout of {longest} tokens "
        "(data.max_prompt_tokens + rollout.max_tokens)",
    )
    _check(
        u.micro_batch_rows % num_devices == 0,
        f"learner.micro_batch_rows = {u.micro_batch_rows} does not divide over the {num_devices} "
        "devices",
    )
    for key in ("clip_low", "clip_high", "loss_scale"):
        _check(u[key] > 0, f"learner.{key} must be above 0, got {u[key]}")
    for key in ("entropy_coef", "kl_coef", "micro_batch_rows", "max_micro_batches", "gap_limit"):
        _check(u[key] >= 0, f"learner.{key} must be 0 or more, got {u[key]}")


def _check_optimizer(c: ConfigDict) -> None:
    o = c.optimizer
    _one_of("optimizer.moments", o.moments, MOMENTS)
    for key in ("learning_rate", "eps", "clip_norm"):
        _check(o[key] > 0, f"optimizer.{key} must be above 0, got {o[key]}")
    for key in ("warmup_steps", "weight_decay"):
        _check(o[key] >= 0, f"optimizer.{key} must be 0 or more, got {o[key]}")
    for key in ("learning_rate", "eps", "weight_decay"):
        _check(math.isfinite(o[key]), f"optimizer.{key} must be finite, got {o[key]}")
    for key in ("beta1", "beta2"):
        _check(0 <= o[key] < 1, f"optimizer.{key} must lie in [0, 1), got {o[key]}")


def _check_rest(c: ConfigDict) -> None:
    _check(0 <= c.seed < 2**31, f"seed must lie in 0 … 2**31 - 1, got {c.seed}")
    rise = WarmupConfig.warmup_steps
    _check(
        c.policy.warmup_steps > rise,
        f"policy.warmup_steps must be above {rise}, for the learning rate rises that long, "
        f"got {c.policy.warmup_steps}",
    )
    _check(c.data.max_prompt_tokens >= 1, "data.max_prompt_tokens must be at least 1")
    _check(c.eval.temperature >= 0, f"eval.temperature must be 0 or more, got {c.eval.temperature}")
    _check(0 < c.eval.top_p <= 1, f"eval.top_p must lie in (0, 1], got {c.eval.top_p}")
    _check(c.eval.top_k >= 0, f"eval.top_k must be 0 or more, got {c.eval.top_k}")
    _check(c.eval.every >= 0, f"eval.every must be 0 or more, got {c.eval.every}")
    _one_of("wandb.mode", c.wandb.mode, ("online", "offline"))
    minutes = c.watchdog.minutes
    _check(minutes >= 0, f"watchdog.minutes must be 0 or more, got {minutes}")
    r = c.reward
    for key in ("cpu_limit_s", "timeout_s", "memory_gib"):
        _check(r[key] > 0, f"reward.{key} must be positive, got {r[key]}")
    _check(0 < r.correct_at <= 1, f"reward.correct_at must lie in (0, 1], got {r.correct_at}")
    _check(r.max_errors >= 0, f"reward.max_errors must be 0 or more, got {r.max_errors}")
    for key in ("train.num_steps", "checkpoint.every", "checkpoint.keep", "eval.num_samples",
                "reward.num_workers"):  # fmt: skip
        section, name = key.split(".")
        _check(c[section][name] >= 1, f"{key} must be at least 1, got {c[section][name]}")


def _attention(c: ConfigDict, model: ModelConfig, platform: str) -> str:
    """Which attention the update runs."""
    _one_of("policy.attention", c.policy.attention, ("auto", *ATTENTION))
    fits = splash_fits(c.learner.row_tokens, model.head_dim)
    if c.policy.attention == "auto":
        return "splash" if fits and platform == "tpu" else "xla"
    if c.policy.attention == "splash":
        _check(platform == "tpu", "policy.attention = 'splash' runs on TPUs only: use 'auto'")
        _check(
            fits,
            f"policy.attention = 'splash' needs learner.row_tokens = {c.learner.row_tokens} and "
            f"heads of {model.head_dim} features to be multiples of 128: use 'xla'",
        )
    return c.policy.attention


def validate(
    config: ConfigDict,
    num_devices: int,
    model: ModelConfig | None = None,
    hardware: Hardware = Hardware(),  # noqa: B008, frozen
) -> Plan:
    """Checks every setting before any chip is busy, and derives every size.

    Args:
      model: sizes read from policy.path; None takes policy.architecture.
      hardware: by which settings that are 0 or "auto" are settled.

    Raises:
      ValueError: one line with the key, what it is, and what would do.
    """
    c = config
    if model is None:
        _one_of("policy.architecture", c.policy.architecture, ARCHITECTURES)
        model = ARCHITECTURES[c.policy.architecture]
    _one_of("policy.dtype", c.policy.dtype, ("float32", "bfloat16"))
    _one_of("policy.remat", c.policy.remat, ("auto", *REMAT_POLICIES))
    _check_rest(c)
    _check_optimizer(c)
    mesh, why = mesh_shape(c, num_devices, model, hardware)
    _check_rollout(c)
    replicas = mesh[0] * mesh[1]
    _check_objective(c)
    _check_update(c, num_devices)
    attention = _attention(c, model, hardware.platform)

    sampling = SamplingConfig(c.rollout.temperature, c.rollout.top_p, c.rollout.top_k,
                              c.rollout.max_tokens)  # fmt: skip
    rollout = RolloutConfig(
        n_pre=c.rollout.n_pre, n_max=c.rollout.n_max, schedule=c.rollout.schedule,
        num_stages=c.rollout.num_stages, use_std=c.objective.advantage == "std", sampling=sampling,
        steps_per_dispatch=c.rollout.steps_per_dispatch, budget=c.rollout.budget,
        barrier=c.rollout.barrier or c.rollout.budget > 0, max_errors=c.reward.max_errors,
    )  # fmt: skip
    evaluation = dataclasses.replace(
        rollout, n_pre=c.eval.num_samples, n_max=c.eval.num_samples, schedule="none",
        num_stages=1, budget=0.0, barrier=c.rollout.barrier, sampling=dataclasses.replace(
            sampling, temperature=c.eval.temperature, top_p=c.eval.top_p,
            top_k=c.eval.top_k),
    )  # fmt: skip
    case = fit.Case(c, model, mesh, hardware, attention)
    sizes = fit.fit(case)
    return Plan(
        config=ml_collections.FrozenConfigDict(c),
        model=model,
        mesh_shape=mesh,
        num_replicas=replicas,
        rollout=rollout,
        evaluation=evaluation,
        slots=sizes.slots,
        prefixes=sizes.prefixes,
        requests=fit.requests(c, replicas),
        optimizer=OptimizerConfig(**c.optimizer),
        update=UpdateConfig(
            loss=_loss(c),
            num_epochs=c.learner.num_epochs,
            num_minibatches=c.learner.num_minibatches,
            loss_scale=c.learner.loss_scale,
            chunk=sizes.chunk,
            dtype=jnp.dtype(c.policy.dtype),
            remat=sizes.remat,
            gather=sizes.gather,
            attention=attention,
            entropy_target=c.objective.entropy_target,
            entropy_step=c.objective.entropy_step,
            gap_limit=c.learner.gap_limit or _gap_limit(c, hardware.platform),
            lora=lora.from_settings(model, **c.lora),
        ),
        batch=BatchShape(sizes.rows, sizes.micro_batches, c.learner.row_tokens,
                         share_prompt=attention != "splash"),
        choices=(why, sizes.words) if why else (sizes.words,),
        misfit=remedy.misfit(case, sizes),
        platform=hardware.platform,
    )  # fmt: skip


def decode_config(plan: Plan, eos_ids: tuple[int, ...]) -> DecodeConfig:
    """Static sizes of an engine replica."""
    c = plan.config
    dtype = jnp.dtype(c.policy.dtype)
    return DecodeConfig(
        slots=plan.slots,
        prefixes=plan.prefixes,
        requests=plan.requests,
        prompt_tokens=c.data.max_prompt_tokens,
        response_tokens=c.rollout.max_tokens,
        eos_ids=eos_ids,
        filters=c.eval.top_k > 0 or c.eval.top_p < 1,
        dtype=dtype,
        page_size=kv_cache.page_size(plan.platform, plan.model.head_dim, dtype),
        key_block=kv_cache.key_block(
            plan.platform, c.data.max_prompt_tokens + c.rollout.max_tokens
        ),
    )


def _loss(c: ConfigDict) -> LossConfig:
    o, u = c.objective, c.learner
    return LossConfig(
        temperature=c.rollout.temperature,
        clip_low=u.clip_low,
        clip_high=u.clip_high,
        entropy_coef=u.entropy_coef,
        kl_coef=u.kl_coef,
        surrogate=o.surrogate,
        correction=o.correction,
        correction_low=o.correction_low,
        correction_cap=o.correction_cap or ratios.CAPS[o.correction],
    )


def _gap_limit(c: ConfigDict, platform: str) -> float:
    """Accelerators multiply float32 in fewer bits, too."""
    if c.policy.dtype == "float32" and platform == "cpu":
        return GAP_LIMIT_EXACT
    embedded = not c.policy.path and c.policy.architecture == "countdown"
    return GAP_LIMIT_EMBEDDED if embedded else GAP_LIMIT_ROUNDED
