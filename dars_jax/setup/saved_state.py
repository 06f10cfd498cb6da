"""What a run has saved, for commands that do not train: newest step, a step's state and policy."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from dars_jax.config import ConfigDict, flatten
from dars_jax.learner import update
from dars_jax.policy import lora
from dars_jax.records import checkpoint
from dars_jax.records.checkpoint import Checkpoints
from dars_jax.setup import build
from dars_jax.setup.plan import Plan
from dars_jax.types import TrainState


def newest(workdir: Path) -> int | None:
    """Step of the newest finished checkpoint."""
    return max(checkpoint.finished(workdir / "checkpoints"), default=None)


def restore(
    plan: Plan,
    workdir: Path,
    config: ConfigDict,
    step: int,
    source: Path,
    optimizer: Any,
    shardings: TrainState,
) -> TrainState:
    """The state of a checkpoint; only shapes are made before it is read.

    Args:
      source: directory of the initial policy.

    Raises:
      ValueError: its files are not those that were saved; see also Checkpoints.restore.
    """
    directory = workdir / "checkpoints"
    if damage := checkpoint.problem(directory, step):
        raise ValueError(f"{damage}: move the checkpoint of step {step} away to use the one before")
    params = lora.learning(plan.model, plan.update.lora)
    number: Any = jax.ShapeDtypeStruct((), jnp.int32)
    like = TrainState(
        step=number,
        params=params,
        opt_state=jax.eval_shape(optimizer.init, params),
        entropy=shardings.entropy and jax.ShapeDtypeStruct((2,), jnp.float32),
    )
    settings = flatten(config) | build.policy_content(config, source)
    checkpoints = Checkpoints(directory, settings, plan.config.checkpoint.keep)
    state = checkpoints.restore(step, like, shardings)
    checkpoints.close()
    return state


def policy(
    plan: Plan, workdir: Path, config: ConfigDict, step: int | None, source: Path, mesh: Mesh
) -> Any:
    """The weights of a checkpoint in the trainer's layout, any adapters beside their base.

    Args:
      step: None is the initial policy.
      source: directory of the initial policy.

    Raises:
      ValueError: as `restore`, and as weights.load_params.
    """
    frozen = build.load_policy(plan, mesh, source) if plan.update.lora or step is None else None
    if step is None:
        return frozen
    optimizer = update.make_optimizer(plan.optimizer)
    shardings = build.state_shardings(plan, optimizer, mesh)
    state = restore(plan, workdir, config, step, source, optimizer, shardings)
    return lora.whole(plan.update.lora, frozen, state.params)
